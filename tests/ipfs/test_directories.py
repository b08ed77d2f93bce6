"""Directories of every size have the CIDs that Kubo prints, sharded where Kubo shards; and Kubo takes them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipdc_edge.__main__ import main
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.dag_pb import link_length
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.unixfs import CHUNK, MAX_DIRECTORY, directory_block, parse_node, symlink_block, tree_size
from tests.codec.collisions import name_of
from tests.codec.test_directories import DEEP, MANY, OVER, deep_names
from tests.codec.test_unixfs import kubos_names
from tests.daemon.content_node import ContentNode
from tests.daemon.test_get import pictured
from tests.daemon.test_sharded import TREE, tree
from tests.ipfs.kubo import Kubo

__all__ = ["tree"]

pytestmark = pytest.mark.kubo
Output = pytest.CaptureFixture[str]
EMPTY = raw_cid(b"")  # in the place of any other: all have as many bytes
CID = 36
NAME_BYTES = bytes(set(range(1, 256)) - {ord("/")})


@pytest.fixture
def node(kubo: Kubo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContentNode]:
    """One that hands over to this Kubo."""
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / "home"))
    with ContentNode(str(tmp_path / "home"), f"kubo_api = {kubo.rpc[0]}:{kubo.rpc[1]}\n") as node:
        yield node


def add(capsys: Output, path: Path, *words: str) -> str:
    capsys.readouterr()
    assert main(["add", str(path), *words]) == 0
    return capsys.readouterr().out.strip()


def directory_of(top: Path, names: list[bytes], data: bytes = b"x") -> Path:
    top.mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(data)
    return top


def linked(top: Path, names: list[bytes]) -> Path:
    """The same of links, which are sooner added."""
    top.mkdir()
    for number, name in enumerate(names):
        os.symlink(b"%d" % (number % 7), os.path.join(os.fsencode(top), name))
    return top


@pytest.mark.parametrize(("names", "cid"), [
    ([os.fsencode(name) for name in kubos_names(22)], OVER), ([b"file %05d" % n for n in range(20000)], MANY),
    (deep_names(), DEEP)], ids=["one byte over", "twenty thousand", "deep"])
def test_the_vectors_are_kubos(kubo: Kubo, tmp_path: Path, names: list[bytes], cid: str) -> None:
    assert kubo.add(directory_of(tmp_path / "top", names), "--only-hash") == cid


def test_the_tree_of_the_other_tests_is_kubos(kubo: Kubo, tree: Path) -> None:
    assert kubo.add(tree, "--only-hash") == TREE


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_threshold_is_kubos_to_the_byte(
    kubo: Kubo, node: ContentNode, tmp_path: Path, capsys: Output, more: int
) -> None:
    """With files of many sizes, a directory, and links, all of whose sizes count as the link to them says."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "file").write_bytes(b"f" * 300)
    reckoned = DirectoryBuilder()
    reckoned.add("sub", EMPTY, 300 + len(directory_block([("file", raw_cid(b""), 300)])[1]))
    for size in (0, 127, 128, 16_384, CHUNK, CHUNK + 1):
        (top / f"size {size}").write_bytes(bytes(size))
        reckoned.add(f"size {size}", EMPTY, tree_size(size))
    link = len(symlink_block(b"x")[1])
    takes = {length: link_length(CID, length, link) for length in range(5, 256)}
    room = MAX_DIRECTORY + more - reckoned.length
    lengths = [240] * (room // takes[240] - 2)
    room -= takes[240] * len(lengths)
    lengths += next((one, two, three) for one in (200, 201) for two in takes for three in takes
                    if takes[one] + takes[two] + takes[three] == room)
    for number, length in enumerate(lengths):
        name = f"{number}".ljust(length, "n")
        os.symlink("x", top / name)
        reckoned.add(name, EMPTY, link)
    cid = add(capsys, top)
    block = node.daemon.store.get(cid)
    assert (len(block) == MAX_DIRECTORY + more) == (more <= 0) == (parse_node(cid, block).fanout == 0)
    assert cid == kubo.add(top, "--only-hash")


def test_names_of_one_hash_are_refused_by_both(
    kubo: Kubo, node: ContentNode, tmp_path: Path, capsys: Output
) -> None:
    top = linked(tmp_path / "top", [b"%0250d" % number for number in range(950)])
    for seed in range(2):
        os.symlink(b"x", os.path.join(os.fsencode(top), name_of(b"the same", seed)))
    assert main(["add", str(top)]) == 1
    assert "the same hash as" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="too deep"):
        kubo.add(top, "--only-hash")


def plant(chance: random.Random, top: bytes, depth: int) -> None:
    """A directory of anything: any bytes in its names, a few entries or around as many as one block has."""
    os.mkdir(top)
    most = chance.choice((0, 3, 20)) if depth else chance.choice((20, 850, 950))
    most = chance.choice((most, 900)) if depth == 1 else most
    long = most > 100
    for _ in range(chance.randint(most * 9 // 10, most)):
        name = bytes(chance.choices(NAME_BYTES, k=chance.randint(230, 255) if long else chance.randint(1, 30)))
        if long and chance.random() < 0.01:
            shared = chance.choice((b"a", b"ab", b"abcd"))
            name = name_of(shared + chance.randbytes(8 - len(shared)), 0)
        path = os.path.join(top, name)
        if name.startswith(b".") or os.path.lexists(path):
            continue
        kind = chance.random()
        if depth < 3 and kind < (0.003 if long else 0.3):
            plant(chance, path, depth + 1)
        elif kind < 0.97 if long else kind < 0.5:
            os.symlink(bytes(chance.choices(NAME_BYTES, k=chance.randint(1, 60))), path)
        else:
            with open(path, "wb") as file:
                file.write(chance.randbytes(chance.choice((0, 1, 200, 70_000, 1_100_000 if kind > 0.999 else 5))))


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 32))
def test_random_trees_have_the_same_cids(
    kubo: Kubo, node: ContentNode, tmp_path: Path, capsys: Output, seed: int
) -> None:
    top = tmp_path / "top"
    shutil.rmtree(top, ignore_errors=True)
    plant(random.Random(seed), os.fsencode(top), 0)
    assert add(capsys, top) == kubo.add(top, "--only-hash")


def test_sharded_directories_in_sharded_ones_go_to_kubo_and_come_from_it(
    kubo: Kubo, node: ContentNode, tmp_path: Path, capsys: Output
) -> None:
    top = linked(tmp_path / "top", [b"%0250d" % number for number in range(1000)])
    linked(top / "sub", [b"\xff%0240d" % number for number in range(1000)])
    directory_of(top / "sub" / "below", deep_names()[-12:])
    cid = add(capsys, top, "--to-kubo")
    assert cid.encode() in kubo.run("pin", "ls", "--type=recursive")
    kubo.run("get", "--output", str(tmp_path / "got"), cid)
    assert pictured(os.fsencode(tmp_path / "got")) == pictured(os.fsencode(top))
    assert kubo.add(top, "--only-hash") == cid
