"""pin, unpin, gc and store, over a real daemon's store: what is kept, what goes, what is found damaged."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec.cid import dag_pb_cid, make_cid, raw_cid
from ipdc_edge.codec.unixfs import directory_block
from ipdc_edge.daemon import trees
from ipdc_edge.drivers.fetcher import Fetcher
from tests.codec.test_unixfs import node_bytes
from tests.daemon.content_node import ContentNode
from tests.daemon.test_get import file_block, hamt, put

Output = pytest.CaptureFixture[str]


def ask(capsys: Output, *words: str) -> object:
    """What a command says in JSON."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def add(capsys: Output, path: Path, *words: str) -> str:
    assert main(["add", str(path), *words]) == 0
    return capsys.readouterr().out.strip()


def sound(capsys: Output) -> None:
    capsys.readouterr()
    code = main(["store", "verify"])
    assert (code, capsys.readouterr().err) == (0, "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "big").write_bytes(os.urandom(2_200_000))
    (top / "small").write_bytes(b"small")
    (top / "link").symlink_to("small")
    return top


def test_what_was_added_is_pinned_until_it_is_unpinned_and_collected(
    node: ContentNode, tree: Path, capsys: Output
) -> None:
    before = node.daemon.store.stat()
    cid = add(capsys, tree, "--copy")
    assert ask(capsys, "pin", "--list") == [cid]
    assert ask(capsys, "gc") == {"blocks": 0, "bytes": 0}
    held = node.daemon.store.stat()
    assert ask(capsys, "unpin", cid) == {"cid": cid}
    assert ask(capsys, "pin", "--list") == []
    assert main(["unpin", cid]) == 1 and "is not pinned here" in capsys.readouterr().err
    assert main(["cat", raw_cid(b"small")]) == 0, "it is here until it is collected"
    capsys.readouterr()
    stat = ask(capsys, "store", "stat")
    assert isinstance(stat, dict) and stat["unpinned"] > 2_200_000 and stat["pins"] == 0
    assert ask(capsys, "gc") == {"blocks": held["blocks"] - before["blocks"], "bytes": held["bytes"] - before["bytes"]}
    assert node.daemon.store.stat() == before
    assert main(["cat", raw_cid(b"small")]) == 1
    sound(capsys)


def test_what_another_pin_or_a_job_holds_stays(node: ContentNode, tree: Path, capsys: Output) -> None:
    cid, big = add(capsys, tree, "--copy"), add(capsys, tree / "sub" / "big", "--copy")
    node.daemon.store.hold_all("20260101-000000-abcd", [raw_cid(b"small")])
    ask(capsys, "unpin", cid)
    ask(capsys, "gc")
    store = node.daemon.store
    assert store.get(raw_cid(b"small")) == b"small" and store.get(cid) is None
    assert main(["get", big, "-o", str(tree / "again")]) == 0
    assert (tree / "again").read_bytes() == (tree / "sub" / "big").read_bytes()


def test_pinned_again_before_it_is_collected(node: ContentNode, tree: Path, capsys: Output) -> None:
    cid = add(capsys, tree, "--copy")
    ask(capsys, "unpin", cid)
    answer = ask(capsys, "pin", cid)
    assert isinstance(answer, dict) and answer["fetched"] == 0 and answer["blocks"] == 8
    ask(capsys, "gc")
    assert main(["get", cid, "-o", str(tree.parent / "got")]) == 0
    ask(capsys, "unpin", cid)
    ask(capsys, "unpin", add(capsys, tree, "--copy"))  # both of its names are there by now
    ask(capsys, "gc")
    assert node.daemon.store.get(cid) is None
    sound(capsys)


def test_a_terminal_sees_how_much_is_freed_so_far(
    node: ContentNode, tree: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = add(capsys, tree, "--copy")
    ask(capsys, "unpin", cid)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["gc"]) == 0
    said = capsys.readouterr()
    assert said.out == "8 blocks removed, 2.1 MB freed.\n"
    first, *_, last = said.err.split("\r")
    assert not first and last == "\x1b[J" and "\r8 blocks removed, 2.1 MB freed\x1b[J" in said.err
    assert ask(capsys, "gc") == {"blocks": 0, "bytes": 0}
    assert not capsys.readouterr().err


def test_pinning_walks_shards_and_what_stands_in_a_cid(node: ContentNode, capsys: Output) -> None:
    names = {f"name {number}": file_block(b"%d" % number) for number in range(100)}
    cid = put(node, *hamt(names, fanout=16))
    node.daemon.store.transfer("user", "20260101-000000-abcd")
    ask(capsys, "pin", cid)
    node.daemon.store.release("20260101-000000-abcd")
    assert all(node.daemon.store.get(block[0]) == block[1] for block in names.values())
    assert ask(capsys, "pin", "bafkqaaa") == {"cid": "bafkqaaa", "blocks": 1, "fetched": 0, "bytes": 0}
    assert ask(capsys, "pin", "--list") == sorted([cid, "bafkqaaa"])


def test_a_pin_that_cannot_be_whole_is_none(node: ContentNode, capsys: Output) -> None:
    text = file_block(b"text")
    cid = put(node, text, directory_block([("a", text[0], 4), ("b", raw_cid(b"gone"), 4)]))
    owners = node.daemon.store.owners()
    assert main(["pin", cid]) == 1
    assert raw_cid(b"gone") in capsys.readouterr().err
    assert node.daemon.store.owners() == owners
    assert main(["pin", make_cid(0x78, bytes(32))]) == 1
    assert main(["pin", cid, "--list"]) == 2
    assert main(["pin", "no-cid"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_many_ways_to_few_blocks_are_walked_once(node: ContentNode, capsys: Output) -> None:
    blocks = [directory_block([])]
    for _ in range(40):
        before = [block[0] for block in blocks[:-3:-1]]
        blocks.append(directory_block([(f"{number}", before[number % len(before)], 9) for number in range(30)]))
    answer = ask(capsys, "pin", put(node, *blocks))
    assert isinstance(answer, dict) and answer["blocks"] == 41


@pytest.mark.parametrize("uncommitted", [1 << 20, 32 << 20])
def test_what_is_not_here_is_fetched_and_kept(
    uncommitted: int, node: ContentNode, tree: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node is one over a store in a directory; tests/lab goes through a real gateway."""
    with ContentNode(str(tmp_path / "other")) as other:
        monkeypatch.setenv("IPDC_HOME", other.home.state)
        cid = add(capsys, tree)
        monkeypatch.setenv("IPDC_HOME", node.home.state)

        async def block(self: Fetcher, wanted: str, providers: object) -> bytes:
            data = node.daemon.store.get(wanted) or other.daemon.store.get(wanted)
            assert data is not None
            return data

        monkeypatch.setattr(Fetcher, "block", block)
        monkeypatch.setattr(trees, "UNCOMMITTED", uncommitted)
        answer = ask(capsys, "pin", cid)
        assert isinstance(answer, dict) and (answer["fetched"], answer["blocks"]) == (8, 8)
        monkeypatch.undo()
    monkeypatch.setenv("IPDC_HOME", node.home.state)
    assert ask(capsys, "pin", "--list") == [cid]
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 0
    assert (tmp_path / "got" / "sub" / "big").read_bytes() == (tree / "sub" / "big").read_bytes()
    sound(capsys)


def test_a_client_that_goes_ends_its_pin(
    node: ContentNode, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipdc_edge.commands.client import Conversation
    from tests.waiting import eventually

    text = file_block(b"text")
    cid = put(node, text, directory_block([("a", text[0], 4), ("b", raw_cid(b"gone"), 4)]))
    owners, block = node.daemon.store.owners(), Fetcher.block

    async def slow(self: Fetcher, wanted: str, providers: object) -> bytes:
        if wanted == raw_cid(b"gone"):
            await asyncio.Event().wait()
        return await block(self, wanted, providers)  # type: ignore[arg-type]

    monkeypatch.setattr(Fetcher, "block", slow)
    with Conversation(node.home) as conversation:
        conversation.request("pin", {"cid": cid})
        eventually(lambda: any(owner.startswith("pinning.") for owner in node.daemon.store.owners()), "it pins")
    node.run(node.settled)
    assert node.daemon.store.owners() == owners


def test_room_is_made_of_what_was_unpinned_and_of_nothing_else(tmp_path: Path, capsys: Output,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / "home"))
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}")
        files[-1].write_bytes(os.urandom(30 << 20))
    with ContentNode(str(tmp_path / "home"), "store_quota = 100M\n") as node:
        first, second, third = (add(capsys, path, "--copy") for path in files[:3])
        assert main(["add", "--copy", str(files[3])]) == 1
        assert "pin --list" in capsys.readouterr().err, "nothing may go, and it says what helps"
        ask(capsys, "unpin", second)
        fourth = add(capsys, files[3], "--copy")
        assert ask(capsys, "pin", "--list") == sorted([first, third, fourth])
        assert node.daemon.store.get(second) is None
        assert node.daemon.store.stat()["bytes"] <= 100 << 20
        for number, cid in enumerate((first, None, third, fourth)):
            assert cid is None or main(["get", cid, "-o", str(tmp_path / "got"), "--force"]) == 0
            assert cid is None or (tmp_path / "got").read_bytes() == files[number].read_bytes()
        sound(capsys)


@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_verify_names_what_is_damaged(damage: str, node: ContentNode, tree: Path, capsys: Output) -> None:
    cid = add(capsys, tree, "--copy")
    put(node, file_block(b"in a file of its own"))
    sound(capsys)
    contents = [path for path in Path(node.home.blocks, "files").rglob("*") if path.is_file()]
    cid_of_own = raw_cid(b"in a file of its own")
    own = Path(node.home.blocks, cid_of_own[-2:], cid_of_own)
    for path in (own, max(contents, key=lambda path: path.stat().st_size)):
        if damage == "change":
            data = bytearray(path.read_bytes())
            data[3] ^= 1
            path.write_bytes(data)
        elif damage == "cut":
            os.truncate(path, path.stat().st_size - 1)
        else:
            path.unlink()
    for again in (False, True):  # it stays damaged until somebody puts it again
        assert main(["store", "verify"]) == 1
        said = capsys.readouterr().out
        assert raw_cid(b"in a file of its own") in said
        assert ("found damaged before" in said) == again
        lines = [line for line in said.splitlines() if line.startswith("damaged: baf")]
        assert len(lines) == 2 if damage != "remove" else len(lines) > 2
        assert main(["store", "verify", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["damaged"] >= 2
    put(node, file_block(b"in a file of its own"))
    assert add(capsys, tree, "--copy") == cid
    sound(capsys)


def test_verify_names_a_changed_file_once_and_one_that_is_gone(
    node: ContentNode, tmp_path: Path, capsys: Output
) -> None:
    changed, gone = tmp_path / "changed \x1b[2J", tmp_path / "gone"
    for path in (changed, gone):
        path.write_bytes(os.urandom(5 << 20))
        add(capsys, path)
    with changed.open("r+b") as file:
        file.seek((1 << 20) + 5)
        file.write(bytes(3 << 20))
    gone.unlink()
    assert main(["store", "verify"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged")]
    assert len(lines) == 2
    assert "changed \\u001b[2J" in lines[0] and "from byte 1048576 on" in lines[0] and "3 blocks behind it" in lines[0]
    assert str(gone) in lines[1] and "No such file" in lines[1] and "4 blocks behind it" in lines[1]


def test_verify_finds_files_without_rows_and_rows_without_holders(node: ContentNode, capsys: Output) -> None:
    cid = put(node, file_block(b"held"))
    stray = [Path(node.home.blocks, "zz", "bafkstrayzz"), Path(node.home.blocks, "files", "user", "0123")]
    for path in stray:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray")
    assert main(["store", "verify"]) == 1
    said = capsys.readouterr().out
    assert all(f"{path}: no row of the index names this file" in said for path in stray)
    for path in stray:
        path.unlink()
    database = node.daemon.store._index._db
    database.execute("DELETE FROM holds WHERE block = (SELECT id FROM blocks WHERE cid = ?)", (cid,))
    assert main(["store", "verify"]) == 1
    assert f"{cid}: nobody holds it" in capsys.readouterr().out


def test_pinning_has_bounds(node: ContentNode, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MOST_WAITING", 50)
    links = [(dag_pb_cid(b"%d" % number), b"%d" % number, 1) for number in range(60)]
    block = node_bytes(links, b"\x08\x01")
    assert main(["pin", put(node, (dag_pb_cid(block), block))]) == 1
    assert "Pin its parts" in capsys.readouterr().err
