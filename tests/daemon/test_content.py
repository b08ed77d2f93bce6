"""add, over a real daemon's store: the CIDs that IPFS gives, what is refused, and what stays."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec import frames
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.control import block_payload
from ipdc_edge.codec.unixfs import parse_node, symlink_block
from ipdc_edge.commands import upload
from ipdc_edge.commands.client import Conversation
from ipdc_edge.daemon.trees import in_thread
from ipdc_edge.drivers.block_files import ContentWriter
from ipdc_edge.drivers.importer import Importer
from ipdc_edge.errors import IpdcError
from tests.daemon.content_node import ContentNode

EMPTY_DIRECTORY = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
# As Kubo 0.43 prints them under unixfs-v1-2025: the tree below, the directory of thousands, the link in the tree
TREE = "bafybeihtrbz4hjo5ohpdjqptegohkutlkxl3pxaahvta6mwawi775hcdjy"
MANY = "bafybeicsz4ccvm4snjy3h3es4i5ctdw2foejadc64fqkp4ndje5ri5nsv4"
LINK = "bafybeiabtezs3qxhckste4j6zlwu5nbxdjxt4jx2rycomqi5zogkpeqwee"
HELLO = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with all that one may hold."""
    top = tmp_path / "tree"
    (top / "sub" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "hello").write_bytes(b"hello\n")
    (top / "zero").write_bytes(b"")
    (top / "sub" / "big").write_bytes(b"big" * 1_000_000)
    Path(os.fsdecode(os.fsencode(top / "sub") + b"/\xff\n\x01")).write_bytes(b"any bytes")
    (top / "sub" / "deeper" / "link").symlink_to("/etc/passwd")
    (top / "sub" / "dangling").symlink_to("../nowhere")
    (top / ".hidden").write_bytes(b"not added")
    (top / ".git").mkdir()
    return top


def add(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["add", *words]) == 0
    return capsys.readouterr().out.split()


def test_a_tree_has_the_cid_of_all_that_is_in_it(
    node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = TREE
    assert add(capsys, str(tree)) == [root]
    store = node.daemon.store
    names = {link.name: link for link in parse_node(root, store.get(root)).links}
    assert set(names) == {"empty", "hello", "sub", "zero"}
    assert (names["empty"].cid, names["empty"].tsize) == (EMPTY_DIRECTORY, 4)
    assert (names["hello"].cid, names["hello"].tsize) == (HELLO, 6)
    below = {link.name: link for link in parse_node(names["sub"].cid, store.get(names["sub"].cid)).links}
    assert set(below) == {"big", "dangling", "deeper", "\udcff\n\x01"}
    assert below["big"].tsize == 3_000_000 + len(store.get(below["big"].cid))
    assert store.owners() == ["members", f"pin.{root}"]


def test_an_empty_directory_and_a_link(node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tree / "sub" / "deeper" / "link"
    to_tree = tree.parent / "to-tree"
    to_tree.symlink_to(tree)
    assert add(capsys, str(tree / "empty"), str(link)) == [EMPTY_DIRECTORY, LINK]
    assert node.daemon.store.get(LINK) == symlink_block(b"/etc/passwd")[1]
    assert add(capsys, str(to_tree)) == [symlink_block(os.fsencode(tree))[0]]
    assert add(capsys, "--dereference-args", str(to_tree)) == [TREE]


def test_several_paths_and_json(node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(tree / "hello"), str(tree), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [
        {"name": "hello", "cid": HELLO, "size": 6, "stored": "reference"},
        {"name": "tree", "cid": TREE, "size": 3_000_015, "stored": "reference"},
    ]
    assert main(["add", str(tree), "--copy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == "copy"


def test_copies_of_a_tree_are_whole_without_its_files(
    node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root,) = add(capsys, "--copy", str(tree))
    contents = {raw_cid(b"any bytes"): b"any bytes", HELLO: b"hello\n"}
    for place in ("hello", "sub/\udcff\n\x01"):
        (tree / place).unlink()
    assert {cid: node.daemon.store.get(cid) for cid in contents} == contents
    assert node.daemon.store.stat()["references"] == 0


def test_some_files_may_have_to_be_copied(
    node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipdc_edge.drivers.block_import import FileImport

    path_of = FileImport._path_of
    monkeypatch.setattr(FileImport, "_path_of", lambda self, fd, status: (
        None if status.st_size == 6 else path_of(self, fd, status)))
    assert main(["add", str(tree)]) == 0
    assert "1 of 4 files were copied, because" in capsys.readouterr().err
    assert main(["add", str(tree), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == "mixed"


def test_a_copy_is_the_same_content_and_outlives_its_file(
    node: ContentNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "big", os.urandom(5 << 20)
    path.write_bytes(data)
    (cid,) = add(capsys, str(path))
    assert node.daemon.store.stat()["references"] == 5
    assert add(capsys, "--copy", str(path)) == [cid]
    path.unlink()
    assert node.daemon.store.stat()["references"] == 0
    assert node.daemon.store.owners() == ["members", f"pin.{cid}"]
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 0
    assert (tmp_path / "got").read_bytes() == data


def test_what_the_daemon_may_not_read_itself_is_read_by_it_alone(
    node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipdc_edge.drivers.block_import import FileImport

    (cid,) = add(capsys, str(tree / "sub" / "big"))
    monkeypatch.setattr(FileImport, "_path_of", lambda self, fd, status: None)
    monkeypatch.setattr(upload, "Importer", lambda source: pytest.fail("the file was read"))
    assert main(["add", str(tree / "sub" / "big")]) == 0
    said = capsys.readouterr()
    assert said.out == cid + "\n" and "the file was copied, because" in said.err


def test_a_copy_that_changes_meanwhile_is_named_and_nothing_stays(
    node: ContentNode, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 << 20))
    _before_each_block(monkeypatch, lambda: path.write_bytes(b"short"))
    assert main(["add", "--copy", str(path)]) == 1
    assert f"{path} changed while it was read" in capsys.readouterr().err
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"] and node.daemon.store.stat()["blocks"] == node.own_blocks
    assert os.listdir(os.path.join(node.home.blocks, "files")) == []


def test_a_copy_tells_how_far_it_is_and_ends_with_its_client(
    node: ContentNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, go_on, waits = tmp_path / "big", threading.Event(), threading.Event()
    path.write_bytes(os.urandom(8 << 20))

    def wait() -> None:
        waits.set()
        assert go_on.wait(30)

    _before_each_block(monkeypatch, wait)
    with Conversation(node.home) as conversation, path.open("rb") as file:
        conversation.request("add", {"keep": True, "copy": True}, (file.fileno(),))
        assert next(conversation.objects()) == {"read": 0}
        assert waits.wait(30)
    go_on.set()
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"] and node.daemon.store.stat()["blocks"] == node.own_blocks
    assert os.listdir(os.path.join(node.home.blocks, "files")) == []


def _before_each_block(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    append = ContentWriter.append_block
    monkeypatch.setattr(ContentWriter, "append_block", lambda *args: (do(), append(*args))[1])


def test_standard_input(
    node: ContentNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert add(capsys, "-") == [HELLO]
    assert node.daemon.store.get(HELLO) == b"hello\n"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_content_is_named_before_anything_is_read(
    kind: str, node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tree / "sub" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        monkeypatch.chdir(odd.parent)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd")
    monkeypatch.setattr(upload, "Importer", lambda source: pytest.fail("a file was read"))
    assert main(["add", str(tree)]) == 2
    assert f"{odd} is a {kind}" in capsys.readouterr().err
    assert node.daemon.store.owners() == ["members"]


def test_what_goes_away_meanwhile_is_named_and_nothing_stays(
    node: ContentNode, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Importer):
        def blocks(self) -> Any:
            yield from super().blocks()
            (tree / "zero").unlink(missing_ok=True)

    monkeypatch.setattr(upload, "Importer", Slow)
    assert main(["add", str(tree)]) == 1
    assert f"Cannot read {tree / 'zero'}" in capsys.readouterr().err
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"] and node.daemon.store.stat()["blocks"] == node.own_blocks


def test_a_directory_of_thousands(node: ContentNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = tmp_path / "many"
    top.mkdir()
    for number in range(4500):
        (top / f"{number:05}").symlink_to("x")
    (top / "last").write_bytes(b"hello\n")
    assert add(capsys, str(top)) == [MANY]


def test_a_client_that_goes_leaves_nothing(node: ContentNode, tree: Path) -> None:
    with Conversation(node.home) as conversation:
        conversation.request("add_tree", {})
        name: Any = next(conversation.objects())["tree"]
        upload.add_file(node.home, str(tree / "sub" / "big"), name="big", copy=True, tree=name)
        assert f"adding.{name}" in node.daemon.store.owners()
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"] and node.daemon.store.stat()["blocks"] == node.own_blocks
    with pytest.raises(Exception, match="no directory of that name"):
        upload.add_file(node.home, str(tree / "zero"), name="zero", copy=True, tree=name)


def test_two_gigabytes_are_referred_to_and_a_change_is_named(
    node: ContentNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_disk() -> int:
        return sum(path.lstat().st_blocks * 512 for path in Path(node.home.blocks).rglob("*"))

    path = tmp_path / "two gigabytes"
    with path.open("wb") as file:
        for at in range(0, 2 << 30, 256 << 20):  # a leaf of its own now and then, else holes
            file.seek(at)
            file.write(b"%d" % at)
        file.truncate(2 << 30)
    before, held = on_disk(), node.daemon.store.stat()["bytes"]
    (cid,) = add(capsys, str(path))
    assert on_disk() - before < 1 << 20
    assert node.daemon.store.stat()["bytes"] - held < 1 << 20
    with path.open("r+b") as file:
        file.seek((256 << 20) + 100)
        file.write(b"changed")
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 1
    said = capsys.readouterr().err
    assert f"{path} is not what it was" in said and f"from {256 << 20} on" in said
    path.unlink()
    assert main(["cat", cid]) == 1
    said = capsys.readouterr().err
    assert f"{path} is not what it was" in said and "No such file" in said
    assert sorted(os.listdir(tmp_path)) == ["home"]


@pytest.mark.parametrize(("operation", "fields", "sent", "words"), [
    ("ls", {}, [], "no cid"),
    ("ls", {"cid": "../../etc"}, [], "Not a CID"),
    ("unpin", {"cid": 3}, [], "no cid"),
    ("pin", {"cid": "b" * 10_000}, [], "Not a CID"),
    ("add", {"root": HELLO, "keep": True}, [], "needs one descriptor"),
    ("add", {"copy": True, "keep": True}, [], "needs one descriptor"),
    ("add_tree", {}, [(frames.END, b"")], "without a block"),
    ("add_tree", {}, [(frames.BLOCK, b"no block")], "without a CID"),
    ("add_tree", {}, [(frames.BLOCK, block_payload(LINK, b"another"))], "are not that block"),
    ("add_tree", {}, [(frames.BLOCK, block_payload(HELLO, b"hello\n"))], "no directory and no symlink"),
    ("add_tree", {}, [(frames.DATA, b"")], "a frame DATA"),
])
def test_what_a_wrong_client_asks_is_refused(
    operation: str, fields: dict[str, object], sent: list[tuple[int, bytes]], words: str, node: ContentNode
) -> None:
    with Conversation(node.home) as conversation, pytest.raises(IpdcError, match=words):
        conversation.request(operation, fields)
        for kind, payload in sent:
            conversation.send(kind, payload)
        conversation.answer()
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"]


def test_a_file_that_became_a_link_is_not_followed(node: ContentNode, tree: Path) -> None:
    with pytest.raises(IpdcError, match="Cannot read"):
        upload.add_file(node.home, str(tree / "sub" / "deeper" / "link"), name="link", copy=True, tree="0" * 16)


def test_work_in_a_thread_ends_before_who_waited_goes_on() -> None:
    stopped, order = threading.Event(), []

    def work() -> None:
        assert stopped.wait(30)
        order.append("work")

    async def main() -> None:
        task = asyncio.ensure_future(in_thread(work, stopped.set))
        await asyncio.sleep(0)  # it has begun
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        order.append("waiter")

    asyncio.run(main())
    assert order == ["work", "waiter"]


def test_a_copy_that_nobody_waits_for_ends(node: ContentNode, tree: Path) -> None:
    store = node.daemon.store
    with (tree / "sub" / "big").open("rb") as file:
        importer = Importer(file)
        upload = store.new_import("user")
        for block in importer.blocks():
            upload.add(*block)
        upload.stop()
        with pytest.raises(IpdcError, match="has gone"):
            upload.finish(file.fileno(), importer.root, copy=True)
        upload.discard()
    assert store.owners() == ["members"]
