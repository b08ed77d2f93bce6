"""get and ls, over a real daemon's store: trees come back as they were, and nothing lands where it should not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec.cid import dag_pb_cid, encode_varint, raw_cid
from ipdc_edge.codec.hamt import slot
from ipdc_edge.codec.unixfs import directory_block, symlink_block
from ipdc_edge.commands import get
from ipdc_edge.commands.unfinished import clear
from ipdc_edge.daemon import trees
from ipdc_edge.errors import ControlBroken
from tests.codec.collisions import name_of
from tests.codec.test_unixfs import node_bytes
from tests.daemon.content_node import ContentNode
from tests.waiting import eventually

Output = pytest.CaptureFixture[str]


def pictured(top: bytes) -> dict[bytes, object]:
    """Everything below, by its path: bytes of a file, the target of a link, None of a directory."""
    found: dict[bytes, object] = {}
    for where, directories, names in os.walk(top):
        for name in directories + names:
            path = os.path.join(where, name)
            if os.path.islink(path):
                found[path[len(top) :]] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[path[len(top) :]] = None
            else:
                with open(path, "rb") as file:
                    found[path[len(top) :]] = file.read()
    return found


def put(node: ContentNode, *blocks: tuple[str, bytes]) -> str:
    """The last one's CID."""
    for cid, block in blocks:
        node.daemon.store.put(cid, block, "user")
    return blocks[-1][0]


def file_block(data: bytes) -> tuple[str, bytes]:
    return raw_cid(data), data


def hamt(names: dict[str, tuple[str, bytes]], fanout: int = 256, misplaced: bool = False) -> list[tuple[str, bytes]]:
    """The blocks of a sharded directory, the root last."""
    blocks: list[tuple[str, bytes]] = []

    def node(entries: list[str], depth: int) -> str:
        by_slot: dict[int, list[str]] = {}
        for name in entries:
            at = slot(name.encode("utf-8", "surrogateescape"), depth, fanout)
            by_slot.setdefault((at + misplaced) % fanout, []).append(name)
        links = []
        for at, here in sorted(by_slot.items()):
            prefix = f"{at:0{len(f'{fanout - 1:X}')}X}".encode()
            if len(here) == 1:
                name = here[0].encode("utf-8", "surrogateescape")
                links.append((names[here[0]][0], prefix + name, len(names[here[0]][1])))
            else:
                links.append((node(here, depth + 1), prefix, 1000))
        block = node_bytes(links, b"\x08\x05\x28\x22\x30" + encode_varint(fanout))
        blocks.append((dag_pb_cid(block), block))
        return blocks[-1][0]

    node(list(names), 0)
    return [*names.values(), *blocks]


@pytest.fixture
def tree(tmp_path: Path) -> bytes:
    top = os.fsencode(tmp_path / "tree")
    os.makedirs(top + b"/a/b/c")
    os.makedirs(top + b"/empty")
    for name, data in ((b"zero", b""), (b"a/big", os.urandom(2_500_000)), (b"a/b/\xff\n", b"odd"), (b"a/b/c/x", b"x")):
        with open(os.path.join(top, name), "wb") as file:
            file.write(data)
    os.symlink(b"/etc/passwd", top + b"/a/absolute")
    os.symlink(b"../../..", top + b"/a/b/up")
    os.symlink(b"\xfe\xff", top + b"/a/b/c/dangling")
    return top


def test_a_tree_comes_back(node: ContentNode, tree: bytes, tmp_path: Path, capsys: Output) -> None:
    assert main(["add", os.fsdecode(tree)]) == 0
    root = capsys.readouterr().out.strip()
    old = os.umask(0o027)
    try:
        assert main(["get", f"/ipfs/{root}", "-o", str(tmp_path / "got")]) == 0
    finally:
        os.umask(old)
    assert pictured(os.fsencode(tmp_path / "got")) == pictured(tree)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("got", "got/zero")]
    assert modes == [0o750, 0o640]
    assert "2.4 MB" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["got", "home", "tree"]


def test_a_file_and_a_link_and_an_empty_directory(
    node: ContentNode, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, link = put(node, file_block(b"text")), put(node, symlink_block(b"/nowhere"))
    assert main(["get", file]) == 0 and (tmp_path / file).read_bytes() == b"text"
    assert main(["get", link, "-o", "link", "--json"]) == 0 and os.readlink("link") == "/nowhere"
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["kind"] == "symlink"
    assert main(["get", put(node, directory_block([])), "-o", "empty"]) == 0 and os.listdir("empty") == []


@pytest.mark.parametrize("standing", ["file", "directory", "link", "dangling"])
@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_stands_there_is_replaced_by_force_only(
    kind: str, standing: str, node: ContentNode, tmp_path: Path, capsys: Output
) -> None:
    text = file_block(b"new")
    cid = put(node, text, {"file": text, "directory": directory_block([("f", text[0], 3)]),
                           "link": symlink_block(b"to")}[kind])
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").write_bytes(b"kept")
    place = tmp_path / "place"
    if standing == "file":
        place.write_bytes(b"old")
    elif standing == "directory":
        (place / "below").mkdir(parents=True)
    else:
        place.symlink_to(other if standing == "link" else tmp_path / "nowhere")
    before = pictured(os.fsencode(tmp_path / "place")), os.path.islink(place)
    assert main(["get", cid, "-o", str(place)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (pictured(os.fsencode(tmp_path / "place")), os.path.islink(place)) == before
    assert main(["get", cid, "-o", str(place), "--force"]) == 0
    if kind == "link":
        assert os.readlink(place) == "to"
    else:
        assert not place.is_symlink()
        assert (place / "f" if kind == "directory" else place).read_bytes() == b"new"
    assert (other / "kept").read_bytes() == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["home", "other", "place"]


def test_what_came_there_meanwhile_is_not_replaced(
    node: ContentNode, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = file_block(b"new")
    put_in_place = get._put_in_place

    def late(beside: str, path: str, force: bool) -> None:
        Path(path).write_bytes(b"somebody's")
        put_in_place(beside, path, force)

    monkeypatch.setattr(get, "_put_in_place", late)
    for name, cid in (("file", put(node, text)), ("dir", put(node, directory_block([("f", text[0], 3)])))):
        assert main(["get", cid, "-o", str(tmp_path / name)]) == 2
        assert (tmp_path / name).read_bytes() == b"somebody's"
    assert sorted(os.listdir(tmp_path)) == ["dir", "file", "home"]


def test_links_are_made_and_never_followed(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    """Two entries of one name, the first a link out of the directory."""
    outside = tmp_path / "outside"
    outside.mkdir()
    text, link = file_block(b"evil"), symlink_block(os.fsencode(outside))
    prefix = f"{slot(b'x', 0, 256):02X}".encode()
    below = f"{slot(b'x', 1, 256):02X}".encode()
    shard = node_bytes([(dag_pb_cid(directory_block([("f", text[0], 4)])[1]), below + b"x", 4)],
                       b"\x08\x05\x28\x22\x30" + encode_varint(256))
    root = node_bytes([(link[0], prefix + b"x", 4), (dag_pb_cid(shard), prefix, 4)],
                      b"\x08\x05\x28\x22\x30" + encode_varint(256))
    cid = put(node, text, link, directory_block([("f", text[0], 4)]), (dag_pb_cid(shard), shard),
              (dag_pb_cid(root), root))
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 1
    assert f"two links in the slot {prefix.decode()}" in capsys.readouterr().err
    assert os.listdir(outside) == [] and sorted(os.listdir(tmp_path)) == ["home", "outside"]
    top = os.fsencode(tmp_path / "top")  # the command looks too
    os.mkdir(top)
    fetched = get._Fetched(None, top, None)  # type: ignore[arg-type]
    fetched._entry(top, "bafk", {"name": "x", "cid": link[0], "kind": "symlink", "target": str(outside)}, [])
    for kind in ("directory", "file"):
        with pytest.raises(get.EntryRefused, match="of that name already"):
            fetched._entry(top, "bafk", {"name": "x", "cid": text[0], "kind": kind}, [])
    assert os.listdir(outside) == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/x", "a\0b"])
def test_names_that_lead_elsewhere_are_refused_by_the_command_too(name: str, tmp_path: Path) -> None:
    fetched = get._Fetched(None, os.fsencode(tmp_path / "top"), None)  # type: ignore[arg-type]
    with pytest.raises(ControlBroken, match="is named"):
        fetched._entry(os.fsencode(tmp_path), "bafk", {"name": name, "cid": "bafk", "kind": "directory"}, [])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [b"..", b"a/b", b"a\0b"])
def test_directories_that_lead_elsewhere_are_no_directories(
    name: bytes, node: ContentNode, tmp_path: Path, capsys: Output
) -> None:
    block = node_bytes([(raw_cid(b"x"), name, 1)], b"\x08\x01")
    cid = put(node, file_block(b"x"), (dag_pb_cid(block), block))
    assert main(["get", cid, "-o", str(tmp_path / "deep" / "got")]) == 1
    assert main(["ls", cid]) == 1
    assert sorted(os.listdir(tmp_path)) == ["home"]


def test_a_sharded_directory_is_listed_and_fetched(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    names = {f"name {number} \udcff": file_block(b"%d" % number) for number in range(400)}
    cid = put(node, *hamt(names, fanout=16))
    assert main(["ls", cid, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {entry["name"]: (entry["cid"], entry["kind"]) for entry in found} == {
        name: (block[0], "file") for name, block in names.items()}
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 0
    assert pictured(os.fsencode(tmp_path / "got")) == {
        b"/" + name.encode("utf-8", "surrogateescape"): block[1] for name, block in names.items()}


def test_a_sharded_directory_with_names_elsewhere_is_refused(node: ContentNode, capsys: Output) -> None:
    cid = put(node, *hamt({"one": file_block(b"1"), "two": file_block(b"2")}, misplaced=True))
    assert main(["ls", cid]) == 1
    assert "is not where its hash puts it" in capsys.readouterr().err


def held_back(node: ContentNode, wanted: Collection[str]) -> Callable[[], int]:
    """These blocks come after as many turns of the loop as others need to be asked for; gives how many at most were
    asked for at once."""
    get_block, held, most = node.daemon.fetcher.block, 0, 0

    async def slow(asked: str, providers: object) -> bytes:
        nonlocal held, most
        if asked in wanted:
            held += 1
            most = max(most, held)
            for _ in range(1000):
                await asyncio.sleep(0)
            held -= 1
        return await get_block(asked, providers)  # type: ignore[arg-type]

    node.daemon.fetcher.block = slow  # type: ignore[method-assign]
    return lambda: most


def test_the_nodes_of_a_sharded_directory_are_asked_several_at_a_time(node: ContentNode, capsys: Output) -> None:
    names = {f"{number:03}": file_block(b"%d" % number) for number in range(400)}
    *blocks, root = hamt(names, fanout=16)
    put(node, *blocks, root)
    most = held_back(node, {cid for cid, _ in blocks if cid not in dict(names.values())})
    assert main(["ls", root[0], "--json"]) == 0
    found = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == sorted(names) and most() >= trees.AT_ONCE


@pytest.mark.parametrize("shared", [True, False], ids=["sharded", "one block"])
def test_what_entries_are_is_asked_several_at_a_time_and_told_in_their_order(
    shared: bool, node: ContentNode, capsys: Output
) -> None:
    links = {f"{number:02}": symlink_block(b"%d" % number) for number in range(40)}
    leaves = {f"{number:02}": file_block(b"%d" % number) for number in range(40, 400)}
    names = {**links, **leaves}
    blocks = hamt(names) if shared else [*names.values(), directory_block(
        [(name, block[0], len(block[1])) for name, block in names.items()])]
    cid = put(node, *blocks)
    most = held_back(node, {block[0] for block in links.values()})
    assert main(["ls", cid, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert most() == trees.AT_ONCE
    assert {entry["name"]: (entry["cid"], entry["kind"]) for entry in found} == {
        name: (block[0], "symlink" if name in links else "file") for name, block in names.items()}
    if not shared:
        assert [entry["name"] for entry in found] == sorted(names, key=str.encode)


def test_few_shards_cannot_lead_to_endlessly_many(node: ContentNode, capsys: Output) -> None:
    """Each of the nodes leads to the next in all its slots, and the last has nothing: 16 ** 12 ways."""
    kind = b"\x08\x05\x28\x22\x30" + encode_varint(16)
    blocks = [node_bytes([], kind)]
    for _ in range(12):
        cid = dag_pb_cid(blocks[-1])
        blocks.append(node_bytes([(cid, b"%X" % at, 9) for at in range(16)], kind))
    assert main(["ls", put(node, *((dag_pb_cid(block), block) for block in blocks))]) == 1
    assert "is no node of the sharded directory" in capsys.readouterr().err


def test_a_sharded_directory_is_no_deeper_than_a_hash_is_long(node: ContentNode, capsys: Output) -> None:
    """16 levels of four bits: the seventeenth node is not even asked for."""
    kind = b"\x08\x05\x28\x22\x30" + encode_varint(16)
    cid = raw_cid(b"nobody has it")
    for _ in range(16):
        block = node_bytes([(cid, b"0", 9)], kind)
        cid = put(node, (dag_pb_cid(block), block))
    assert main(["ls", cid]) == 1
    assert "is deeper in" in capsys.readouterr().err
    name = name_of(bytes(8), 0)
    block = node_bytes([(raw_cid(b"x"), b"0" + name, 1)], kind)  # one level less, and a name that is in its place
    for _ in range(16):
        cid = put(node, (dag_pb_cid(block), block))
        block = node_bytes([(cid, b"0", 9)], kind)
    assert main(["ls", cid]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_ls_shows_kinds_and_escapes_names(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    text, link = file_block(b"text"), symlink_block(b"to\x1b[2J")
    gone, odd = raw_cid(b"gone"), "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"  # dag-cbor
    missing = dag_pb_cid(b"gone")
    block = directory_block([("a\n\udcff", *text[:1], 4), ("l", link[0], 9), ("m", missing, 7), ("n", gone, 4),
                             ("o", odd, 3), ("d", directory_block([])[0], 4)])
    cid = put(node, text, link, directory_block([]), block)
    assert main(["ls", cid]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in said] == [
        ["file", "4", "a\\n\\xff"], ["directory", "-", "d"], ["symlink", "0", "l", "->", "to\\u001b[2J"],
        ["missing", "7", "m"], ["file", "4", "n"], ["missing", "3", "o"]]
    assert main(["ls", text[0]]) == 0
    assert capsys.readouterr().out.split() == [text[0], "file", "4"]
    assert main(["get", cid, "-o", str(tmp_path / "none" / "place")]) == 1
    assert f"Cannot write {tmp_path / 'none' / 'place'}: No such file" in capsys.readouterr().err


def test_what_nobody_has_is_named_and_nothing_stays(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    text = file_block(b"text")
    cid = put(node, text, directory_block([("a", text[0], 4), ("b", raw_cid(b"gone"), 4)]))
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 1
    assert raw_cid(b"gone") in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["home"]


class Waiting:
    """A get of a directory that waits in the middle, with some of the files written."""

    def __init__(self, node: ContentNode, place: Path, *words: str) -> None:
        text = file_block(b"text" * 1000)
        cid = put(node, text, directory_block([(f"{number}", text[0], 4000) for number in range(9)]))
        get_block, asked = node.daemon.store.get, 0

        def slow(cid: str) -> bytes | None:
            nonlocal asked
            asked += cid == text[0]
            return get_block(cid) if asked < 5 or cid != text[0] else self.process.wait(60) and None

        node.daemon.store.get = slow  # type: ignore[method-assign]
        self.process = subprocess.Popen([sys.executable, "-m", "ipdc_edge", "get", cid, "-o", str(place), *words])
        eventually(lambda: asked == 5, "the fifth file")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def left(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(".ipdc-get-")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("force", [False, True])
def test_who_ends_it_early_finds_nothing_half(
    force: bool, number: int, node: ContentNode, tmp_path: Path
) -> None:
    """Some of the files are written when it comes: the node waits with the last."""
    place = tmp_path / "got"
    if force:
        place.write_bytes(b"old")
    child = Waiting(node, place, *(["--force"] if force else []))
    assert len(left(tmp_path)) == 1
    assert child.end(number) == 130
    assert sorted(os.listdir(tmp_path)) == (["got", "home"] if force else ["home"])
    assert not force or place.read_bytes() == b"old"


def test_what_a_killed_one_left_goes_with_the_next(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    child = Waiting(node, tmp_path / "got")
    assert child.end(signal.SIGKILL) == -signal.SIGKILL
    (name,) = left(tmp_path)
    assert main(["get", put(node, file_block(b"text")), "-o", str(tmp_path / "other")]) == 0
    assert f"{tmp_path / name} was left by a get that was killed; it is removed" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["home", "other"]


def test_one_that_works_is_left_alone(node: ContentNode, tmp_path: Path) -> None:
    child = Waiting(node, tmp_path / "got")
    before = left(tmp_path)
    assert list(clear(str(tmp_path))) == [] and left(tmp_path) == before != []
    assert child.end(signal.SIGTERM) == 130
    assert sorted(os.listdir(tmp_path)) == ["home"]


def test_what_is_not_surely_a_gets_own_stays(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    names = [f".ipdc-get-{number:012x}" for number in range(4)] + [".ipdc-get-else"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / names[0] / "new").write_bytes(b"came")
    (tmp_path / names[0] / "old").write_bytes(b"the only copy of what stood there")
    (tmp_path / names[1] / "mine").write_bytes(b"mine")
    (tmp_path / names[2] / "old").write_bytes(b"it was replaced")
    os.rmdir(tmp_path / names[3])
    (tmp_path / names[3]).symlink_to(names[2])
    assert main(["get", put(node, file_block(b"text")), "-o", str(tmp_path / "got")]) == 0
    said = capsys.readouterr().err
    assert f"{names[0]} was left by a get that was killed; its `old` is what stood" in said
    assert f"{names[2]} was left by a get that was killed; it is removed" in said and len(said.splitlines()) == 2
    assert sorted(os.listdir(tmp_path)) == sorted([*names[:2], *names[3:], "got", "home"])
    assert (tmp_path / names[0] / "old").read_bytes() == b"the only copy of what stood there"


def test_what_comes_while_it_is_put_in_its_place_waits(
    node: ContentNode, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames that replace a directory."""
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "kept").write_bytes(b"old")
    rename = os.rename

    def renamed(before: str, after: str) -> None:
        rename(before, after)
        if str(tmp_path / "got") in (before, after):
            signal.raise_signal(signal.SIGTERM)

    cid = put(node, file_block(b"text"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", renamed)
        assert main(["get", cid, "-o", str(tmp_path / "got"), "--force"]) == 130
    assert (tmp_path / "got").read_bytes() == b"text"
    assert sorted(os.listdir(tmp_path)) == ["got", "home"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 5000])
def test_links_that_no_file_system_takes(target: bytes, node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    link = symlink_block(target)
    cid = put(node, link, directory_block([("l", link[0], 9)]))
    for root in (link[0], cid):
        assert main(["get", root, "-o", str(tmp_path / "got")]) == 1
        assert capsys.readouterr().err.startswith("ipdc-edge: ")
    assert sorted(os.listdir(tmp_path)) == ["home"]


def test_trees_too_deep_for_a_path(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    block = directory_block([])
    blocks = [block]
    for _ in range(30):
        blocks.append(directory_block([("d" * 200, blocks[-1][0], 9)]))
    assert main(["get", put(node, *blocks), "-o", str(tmp_path / "got")]) == 1
    assert "cannot take: File name too long" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["home"]
