"""Sharded directories, made by `add` over a real daemon's store: all that one does with content works on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec import frames
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.control import block_payload
from ipdc_edge.codec.dag_pb import Link
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.unixfs import Node, parse_node
from ipdc_edge.commands import upload
from ipdc_edge.commands.client import Conversation
from ipdc_edge.commands.content_inputs import expanded
from ipdc_edge.commands.inputs import Input
from ipdc_edge.errors import IpdcError
from tests.codec.test_directories import text
from tests.codec.test_unixfs import kubos_names
from tests.daemon.content_node import ContentNode
from tests.daemon.test_get import pictured
from tests.daemon.test_pins import add, ask, sound
from tests.drivers.test_gateway import ask as ask_gateway
from tests.ipfs.cars import read_car

Output = pytest.CaptureFixture[str]
TREE = "bafybeidjo7mjmlhe5bp6f5euehwlmj6mnlzkj5qvkvty24ddse76z2zec4"  # `tree`, as Kubo 0.43 prints it


def directory_of(top: Path, names: list[str]) -> Path:
    """A directory of files; of nine in ten a link stands in the place of the file, which is sooner added."""
    top.mkdir(parents=True)
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(top), name.encode("utf-8", "surrogateescape"))
        if number % 10:
            os.symlink(b"x%d" % number, path)
        else:
            with open(path, "wb") as file:
                file.write(b"x%d" % number)
    return top


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A sharded directory in a sharded one, with others beside and below it, and names of any bytes."""
    top = directory_of(tmp_path / "tree", [text(b"\xff\n%0240d" % number) for number in range(1000)])
    directory_of(top / "sub" / "many", [f"{number:0250}" for number in range(950)])
    (top / "sub" / "many" / "below").mkdir()
    (top / "sub" / "many" / "below" / "file").write_bytes(b"deep")
    (top / "sub" / "many" / "link").symlink_to("../../elsewhere")
    (top / "empty").mkdir()
    return top


def test_a_directory_that_is_too_big_for_one_block_is_sharded_as_kubo_does_it(
    node: ContentNode, tree: Path, capsys: Output
) -> None:
    assert add(capsys, tree) == TREE
    assert node.daemon.store.owners() == ["members", f"pin.{TREE}"]
    top = parse_node(TREE, node.daemon.store.get(TREE))
    sub = next(entry for entry in entries(node, top) if entry.name == "sub")
    (many,) = parse_node(sub.cid, node.daemon.store.get(sub.cid)).links
    assert top.fanout == parse_node(many.cid, node.daemon.store.get(many.cid)).fanout == 256


def entries(node: ContentNode, found: Node) -> Iterator[Link]:
    yield from found.entries()
    for shard in found.shards():
        yield from entries(node, parse_node(shard.cid, node.daemon.store.get(shard.cid)))


def ask_ls(capsys: Output, cid: str) -> list[str]:
    capsys.readouterr()
    assert main(["ls", cid]) == 0
    return capsys.readouterr().out.splitlines()


def test_what_was_added_comes_back(node: ContentNode, tree: Path, tmp_path: Path, capsys: Output) -> None:
    cid = add(capsys, tree)
    assert len(ask_ls(capsys, cid)) == 1002
    assert main(["get", cid, "-o", str(tmp_path / "got")]) == 0
    assert pictured(os.fsencode(tmp_path / "got")) == pictured(os.fsencode(tree))
    sound(capsys)


def test_it_is_pinned_collected_and_fetched_by_the_blocks(node: ContentNode, tree: Path, capsys: Output) -> None:
    before = node.daemon.store.stat()["blocks"]
    cid = add(capsys, tree, "--copy")
    assert ask(capsys, "unpin", cid) == {"cid": cid}
    pinned = ask(capsys, "pin", cid)
    assert isinstance(pinned, dict) and pinned["fetched"] == 0
    assert ask(capsys, "gc") == {"blocks": 0, "bytes": 0}
    ask(capsys, "unpin", cid)
    assert main(["gc"]) == 0
    assert node.daemon.store.stat()["blocks"] == before
    sound(capsys)


def test_a_car_of_it_is_whole(node: ContentNode, tree: Path, capsys: Output) -> None:
    cid = add(capsys, tree)
    status, _, body = ask_gateway(node.daemon.store, f"/ipfs/{cid}?format=car&car-dups=n")
    assert status == 200
    roots, sections = read_car(body)
    assert roots == [cid]
    blocks = dict(sections)
    waiting = [cid]
    while waiting:
        at = waiting.pop()
        waiting += [link.cid for link in parse_node(at, blocks[at]).links]
    name = "\udcff\n" + f"{10:0240}"
    path = "%FF%0A" + name[2:]
    status, _, body = ask_gateway(node.daemon.store, f"/ipfs/{cid}/{path}?format=car")
    assert status == 200 and read_car(body)[1][-1] == (raw_cid(b"x10"), b"x10")
    assert len(read_car(body)[1]) <= 5  # a node of each level, and the file


def test_it_is_the_input_of_a_job(node: ContentNode, tree: Path, capsys: Output) -> None:
    cid = add(capsys, tree)
    found = expanded(node.home, [Input("tree", None, cid)])
    assert len(found) == 100 + 95 + 1
    assert [item.cid for item in found if item.name == "tree/sub/many/below/file"] == [raw_cid(b"deep")]


def test_a_name_too_many_of_one_hash_leaves_nothing(node: ContentNode, tmp_path: Path, capsys: Output) -> None:
    from tests.codec.collisions import name_of

    top = directory_of(tmp_path / "top", [
        *(f"{number:0250}" for number in range(950)), *(text(name_of(b"the same", seed)) for seed in range(2))])
    assert main(["add", str(top)]) == 1
    assert "the same hash as" in capsys.readouterr().err
    node.run(node.settled)
    assert node.daemon.store.owners() == ["members"] and node.daemon.store.stat()["blocks"] == node.own_blocks


def test_its_nodes_are_checked_as_other_blocks_are(node: ContentNode) -> None:
    builder = DirectoryBuilder()
    for name in kubos_names(22):
        builder.add(name, raw_cid(b"x"), 1)
    (cid, block), *_ = builder.blocks()
    with Conversation(node.home) as conversation, pytest.raises(IpdcError, match="are not that block"):
        conversation.request("add_tree", {})
        conversation.send(frames.BLOCK, block_payload(cid, block + b"x"))
        conversation.answer()


def test_what_cannot_be_added_is_still_told_before_anything_is_read(
    node: ContentNode, tree: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "sub" / "many" / "pipe")
    monkeypatch.setattr(upload, "Importer", lambda source: pytest.fail("a file was read"))
    assert main(["add", str(tree)]) == 2
    assert f"{tree / 'sub' / 'many' / 'pipe'} is a pipe" in capsys.readouterr().err
