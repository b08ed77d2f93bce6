"""Directories as blocks: one or many, at the byte where the profile says so, each entry where its hash puts it."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.codec.cid import dag_pb_cid, raw_cid
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.hamt import name_hash, slot
from ipdc_edge.codec.unixfs import MAX_DIRECTORY, BadDirectory, Node, directory_block, parse_node
from tests.codec.collisions import name_of
from tests.codec.test_unixfs import kubos_names

Entry = tuple[str, str, int]
# As Kubo 0.43 prints them under unixfs-v1-2025, of files that hold an x
OVER = "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu"  # the profile's vector, one byte over one block
MANY = "bafybeifg52fdz6anqrkgfzg5etlu43ouvstvz6o5dks665ljdcv6dvyj2i"  # file 00000 to file 19999
DEEP = "bafybeih3e3n2eh4tjndiczps6sm7copzgilak6o2fpl4tx5drysbxhcxni"  # `deep_names()`


def built(entries: list[Entry]) -> tuple[DirectoryBuilder, list[tuple[str, bytes]]]:
    builder = DirectoryBuilder()
    for entry in entries:
        builder.add(*entry)
    return builder, list(builder.blocks())


def with_an_x(names: list[str]) -> list[Entry]:
    return [(name, raw_cid(b"x"), 1) for name in names]


def deep_names() -> list[bytes]:
    """Names enough for a sharded directory, and groups whose hashes share 1, 2, 3 and 7 bytes with each other."""
    names = [b"%0250d" % number for number in range(900)]
    for shared in (1, 2, 3, 7):
        for last in range(3):
            names.append(name_of((b"%d" % shared * shared + b"%d" % last * 8)[:8], 1))
    return names


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def read(blocks: dict[str, bytes], cid: str, path: tuple[int, ...] = ()) -> Iterator[Entry]:
    """What another reader finds, which looks for each name where its hash puts it."""
    node = parse_node(cid, blocks[cid])
    for link in node.links:
        if node.fanout and len(link.name) == 2:
            yield from read(blocks, link.cid, (*path, int(link.name, 16)))
        elif node.fanout:
            name = link.name[2:]
            slots = *path, int(link.name[:2], 16)
            assert slots == tuple(slot(os.fsencode(name), depth, 256) for depth in range(len(slots)))
            yield name, link.cid, link.tsize
        else:
            yield link[:3]


def test_one_byte_over_one_block_is_sharded_as_kubo_does_it() -> None:
    builder, blocks = built(with_an_x(kubos_names(21)))
    assert (builder.length, len(blocks), blocks[0]) == (
        MAX_DIRECTORY, 1, directory_block(with_an_x(kubos_names(21))))
    builder, blocks = built(with_an_x(kubos_names(22)))
    assert (builder.length, len(blocks), builder.cid) == (MAX_DIRECTORY + 1, 439, OVER)


def test_twenty_thousand_names() -> None:
    names = [f"file {number:05}" for number in range(20000)]
    random.Random(1).shuffle(names)
    assert built(with_an_x(names))[0].cid == MANY


def test_names_whose_hashes_share_many_bytes_lie_deep() -> None:
    builder, blocks = built(with_an_x([text(name) for name in deep_names()]))
    assert builder.cid == DEEP
    found = list(read(dict(blocks), builder.cid))
    assert sorted(found) == sorted(with_an_x([text(name) for name in deep_names()]))


def test_two_names_of_one_hash_are_refused_where_they_would_need_another_level() -> None:
    """As Kubo does: "sharded directory too deep". In one block they are names as all others."""
    twins = [text(name_of(b"the same", seed)) for seed in range(2)]
    assert {name_hash(os.fsencode(name)) for name in twins} == {b"the same"}
    assert len(built(with_an_x(twins))[1]) == 1
    with pytest.raises(BadDirectory, match="same hash"):
        built(with_an_x([*kubos_names(22), *twins]))


@pytest.mark.parametrize("many", [False, True])
def test_a_name_stands_only_once(many: bool) -> None:
    names = ["twice", "twice", *(kubos_names(22) if many else [])]
    with pytest.raises(BadDirectory, match="twice"):
        built(with_an_x(names))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 2000])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadDirectory):
        DirectoryBuilder().add(name, raw_cid(b""), 0)


def test_an_empty_directory() -> None:
    builder, blocks = built([])
    assert blocks == [directory_block([])]
    assert (builder.cid, builder.tsize) == (blocks[0][0], 4)


names = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))


@given(st.lists(st.tuples(names, st.integers(0, 1 << 62)), max_size=20, unique_by=lambda entry: entry[0]))
def test_the_length_is_known_to_the_byte(entries: list[tuple[bytes, int]]) -> None:
    builder, blocks = built([(text(name), raw_cid(name), size) for name, size in entries])
    ((cid, block),) = blocks
    assert builder.length == len(block) and builder.cid == cid
    assert builder.tsize == len(block) + sum(size for _, size in entries)


@settings(max_examples=12)
@given(st.integers(0, 1 << 32))
def test_what_was_put_in_is_found_and_children_come_first(seed: int) -> None:
    """Of any bytes, any lengths, some of one beginning of their hashes."""
    chance = random.Random(seed)
    names = {bytes(chance.choices(range(1, 47), k=chance.randint(180, 255))) for _ in range(1100)}
    names |= {name_of(chance.choice((b"", b"\0", b"\xff" * 5)).ljust(8, b"%d" % number)[:8], seed)
              for number in range(10)}
    entries = [(text(name), raw_cid(name), chance.getrandbits(40)) for name in names]
    builder, blocks = built(entries)
    assert builder.length > MAX_DIRECTORY and blocks[-1][0] == builder.cid
    by_cid = dict(blocks)
    seen: dict[str, Node] = {}
    for cid, block in blocks:
        node = parse_node(cid, block)
        assert dag_pb_cid(block) == cid and node.fanout == 256 and node.links
        assert all(shard.cid in seen for shard in node.shards())
        assert all(shard.tsize == tsize(seen, shard.cid, by_cid) for shard in node.shards())
        seen[cid] = node
    assert sorted(read(by_cid, builder.cid)) == sorted(entries)
    assert builder.tsize == sum(len(block) for _, block in blocks) + sum(size for _, _, size in entries)


def tsize(seen: dict[str, Node], cid: str, blocks: dict[str, bytes]) -> int:
    return len(blocks[cid]) + sum(link.tsize for link in seen[cid].links)


def test_an_entry_takes_few_bytes_of_memory() -> None:
    """The blocks are not kept, and the entries are not copied: 100,000 names take no 20 MB."""
    count = 6_000
    leaf = raw_cid(b"x")
    tracemalloc.start()
    try:
        builder = DirectoryBuilder()
        for number in range(count):
            builder.add(f"file number {number}", leaf, 1)
        for _ in builder.blocks():
            pass
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 200 * count
