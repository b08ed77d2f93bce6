"""UnixFS trees against Kubo's own vectors, against a naive construction, and against hostile nodes."""

from __future__ import annotations

import hashlib
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import RAW, canonical, cid_to_bytes, encode_varint, make_cid, parse_cid, raw_cid, verify
from ipdc_edge.codec.dag_pb import MAX_LINKS, Link
from ipdc_edge.codec.unixfs import (
    CHUNK,
    LINKS,
    MAX_BLOCK,
    MAX_DIRECTORY,
    BadDirectory,
    BadNode,
    FileBuilder,
    Node,
    dag_pb_cid,
    directory_block,
    parse_node,
    tree_size,
)

# --- Kubo's vectors: test/cli/cid_profiles_test.go. Bytes are ChaCha20 under sha256(seed), a zero nonce.


def chacha20(seed: str, size: int) -> bytes:
    """RFC 8439's key stream, as Kubo's DeterministicRandomReader gives it."""
    key = struct.unpack("<8I", hashlib.sha256(seed.encode()).digest())
    rounds = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
    rounds += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
    out = []
    for counter in range((size + 63) // 64):
        first = (*struct.unpack("<4I", b"expand 32-byte k"), *key, counter, 0, 0, 0)
        x = list(first)
        for _ in range(10):
            for a, b, c, d in rounds:
                for i, j, k, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    x[i] = x[i] + x[j] & 0xFFFFFFFF
                    x[k] ^= x[i]
                    x[k] = (x[k] << turn | x[k] >> 32 - turn) & 0xFFFFFFFF
        out.append(struct.pack("<16I", *(i + j & 0xFFFFFFFF for i, j in zip(x, first, strict=True))))
    return b"".join(out)[:size]


def build(data: bytes, chunk: int = CHUNK, links: int = LINKS) -> tuple[str, int, dict[str, bytes]]:
    """(root, size, all blocks) as the streaming builder makes them."""
    builder = FileBuilder(links)
    blocks = {}
    for at in range(0, max(1, len(data)), chunk):
        leaf = data[at : at + chunk]
        blocks[raw_cid(leaf)] = leaf
        blocks.update(builder.add(raw_cid(leaf), len(leaf)))
    root, size, last = builder.finish()
    blocks.update(last)
    return root, size, blocks


def test_kubos_file_one_byte_over_a_chunk():
    data = chacha20("chunk-v1-seed", CHUNK + 1)
    assert build(data[:-1])[0] == "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"
    assert build(data)[0] == "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"


def kubos_names(last: int) -> list[str]:
    """4,765 names of 11 characters and one of `last`, from a deterministic stream."""
    stream = chacha20("hamt-unixfs-v1-2025", 4765 * 11 + last)
    text = "".join("abcdefghijklmnopqrstuvwxyz01234567890-_"[byte % 39] for byte in stream)
    return [text[at * 11 : at * 11 + 11] for at in range(4765)] + [text[-last:]]


def test_kubos_directory_at_the_threshold_and_one_byte_over_it():
    names = kubos_names(21)
    cid, block = directory_block((name, raw_cid(b"x"), 1) for name in names)
    assert len(block) == MAX_DIRECTORY
    assert cid == "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"
    assert [link.name for link in parse_node(cid, block).links] == sorted(names)
    with pytest.raises(BadDirectory, match="262145 bytes"):
        directory_block((name, raw_cid(b"x"), 1) for name in kubos_names(22))


def test_well_known_empty_things():
    assert directory_block([])[0] == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    # Kubo with raw leaves, as the profile wants them: the empty raw block, not the empty dag-pb file
    assert build(b"")[:2] == ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0)
    empty_file = "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y"
    assert dag_pb_cid(bytes.fromhex("0a0408021800")) == empty_file
    assert parse_node(empty_file, bytes.fromhex("0a0408021800")) == Node("file", 0)


def test_the_specifications_dag_pb_leaf_and_symlink():
    # its symlink.car: the directory, foo with its bytes inline as older tools make it, bar that points to foo
    foo = "Qme2y5HA5kvo2jAx13UsnV5bQJVijiAJCPvaW3JGQWhvJZ", b"\x0a\x0e\x08\x02\x12\x08content\n\x18\x08"
    bar = "QmTB8BaCJdCH5H3k7GrxJsxgDNmNYGGR71C58ERkivXoj5", b"\x0a\x07\x08\x04\x12\x03foo"
    for cid, block in (foo, bar):
        verify(cid, block)
    assert parse_node(*foo) == Node("file", 8, data=b"content\n")
    assert (parse_node(*bar).kind, parse_node(*bar).data) == ("symlink", b"foo")
    directory = directory_block([("foo", foo[0], 16), ("bar", bar[0], 9)])
    assert directory[0] == canonical("QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt")


@pytest.mark.parametrize(
    "block",
    [  # the UnixFS specification's "Invalid Test Cases"
        "",
        "12240a2212207521fe19c374a97759226dc5c0c8e674e73950e81b211f7dd3b6b30883a08a51",
        "12340a2212208ab7a6c5e74737878ac73863cb76739d15d4666de44e5756bf55a2f9e9ab5f431209736f6d65206c696e6b18"
        "80c2d72f12370a2212208ab7a6c5e74737878ac73863cb76739d15d4666de44e5756bf55a2f9e9ab5f44120f736f6d65206f"
        "74686572206c696e6b18080a09736f6d652064617461",
        "0a050001020304",
        "0a00",
        "120b0a09015500050001020304",
        "12160a090155000500010203041209736f6d65206e616d65",
        "12140a0901550005000102030418ffffffffffffff0f",
        "0a03010203",
        "120b0a0901550005000102030412100a09015500050001020304120362617212100a090155000500010203041203666f6f",
    ],
)
def test_the_specifications_invalid_nodes(block):
    with pytest.raises(BadNode):
        parse_node(make_cid(0x70, bytes(32)), bytes.fromhex(block))


# --- the streaming builder against a naive one


def naive(data: bytes, chunk: int, links: int) -> tuple[str, dict[str, bytes]]:
    """The balanced tree as IPIP-0499 draws it: whole levels at a time, everything in memory."""
    blocks = {}
    level = []
    for at in range(0, max(1, len(data)), chunk):
        leaf = data[at : at + chunk]
        blocks[raw_cid(leaf)] = leaf
        level.append((raw_cid(leaf), len(leaf), len(leaf)))
    while len(level) > 1:
        above = []
        for at in range(0, len(level), links):
            children = level[at : at + links]
            size = sum(child[1] for child in children)
            sizes = b"".join(b"\x20" + encode_varint(child[1]) for child in children)
            block = node_bytes(
                [(cid, b"", tsize) for cid, _, tsize in children],
                b"\x08\x02\x18" + encode_varint(size) + sizes,
            )
            blocks[dag_pb_cid(block)] = block
            above.append((dag_pb_cid(block), size, len(block) + sum(child[2] for child in children)))
        level = above
    return level[0][0], blocks


def node_bytes(links: list[tuple[str, bytes, int]], unixfs: bytes) -> bytes:
    out = b""
    for cid, name, tsize in links:
        target = cid_to_bytes(cid)
        body = b"\x0a" + encode_varint(len(target)) + target + b"\x12" + encode_varint(len(name)) + name
        body += b"\x18" + encode_varint(tsize)
        out += b"\x12" + encode_varint(len(body)) + body
    return out + b"\x0a" + encode_varint(len(unixfs)) + unixfs


@given(st.data())
def test_the_builder_makes_the_balanced_tree(data):
    chunk = data.draw(st.integers(1, 5))
    links = data.draw(st.integers(2, 5))
    content = data.draw(st.binary(max_size=chunk * links**3 + 7))
    root, size, blocks = build(content, chunk, links)
    assert size == len(content)
    assert (root, blocks) == naive(content, chunk, links)
    assert read(root, blocks, 0) == (content, size)


def read(cid: str, blocks: dict[str, bytes], offset: int) -> tuple[bytes, int]:
    node = parse_node(cid, blocks[cid])
    out = node.data
    for at, size, child in node.children(offset):
        assert at == offset + len(out)
        below, length = read(child, blocks, at)
        assert length == size
        out += below
    return out, node.size


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 8, 9, 10, 26, 27, 28, 81, 82])
def test_full_and_barely_begun_levels(leaves):
    data = bytes(range(leaves))
    assert (build(data, 1, 3)[0], build(data, 1, 3)[2]) == naive(data, 1, 3)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_the_size_of_a_tree_is_that_of_its_blocks(size):
    _, interior = naive(bytes(size), CHUNK, LINKS)
    assert tree_size(size) == size + sum(len(block) for cid, block in interior.items() if parse_cid(cid).codec != RAW)


def test_the_builder_holds_only_unfinished_nodes():
    builder = FileBuilder(links=4)
    cid = raw_cid(b"x")
    for _ in range(4**5 + 3):
        builder.add(cid, 1)
        assert sum(len(level) for level in builder._levels) <= 4 * 6


def test_children_come_before_their_parents():
    builder = FileBuilder(links=2)
    seen = {raw_cid(b"x"): True}
    blocks = []
    for _ in range(13):
        blocks += builder.add(raw_cid(b"x"), 1)
    blocks += builder.finish()[2]
    for cid, block in blocks:
        assert all(link.cid in seen for link in parse_node(cid, block).links)
        seen[cid] = True


def test_a_builder_without_leaves_is_our_own_bug():
    with pytest.raises(ValueError, match="leaf"):
        FileBuilder().finish()


# --- directories


def test_a_directory_is_sorted_by_the_bytes_of_names_and_read_again():
    names = ["b", "a", "\u00e4", "\U0001f600", "\uff5e", "B", "a.txt"]
    cid, block = directory_block((name, raw_cid(name.encode()), len(name)) for name in names)
    node = parse_node(cid, block)
    assert node.kind == "directory"
    assert [link.name for link in node.links] == sorted(names, key=str.encode)
    assert node.links[0] == Link("B", raw_cid(b"B"), 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "x" * 2000])
def test_a_name_that_no_file_can_have_is_refused_both_ways(name):
    with pytest.raises(BadDirectory):
        directory_block([(name, raw_cid(b""), 0)])
    block = node_bytes([(raw_cid(b""), name.encode("utf-8", "surrogateescape"), 0)], b"\x08\x01")
    with pytest.raises(BadNode):
        parse_node(dag_pb_cid(block), block)


def test_a_name_may_have_any_bytes():
    name = b"caf\xe9 \xff\n"
    _, block = directory_block([(os.fsdecode(name), raw_cid(b""), 0)])
    assert block == node_bytes([(raw_cid(b""), name, 0)], b"\x08\x01")
    (link,) = parse_node(dag_pb_cid(block), block).entries()
    assert os.fsencode(link.name) == name


def shard(links: list[tuple[str, bytes, int]], fanout: int = 256, hash_type: int = 0x22) -> bytes:
    return node_bytes(links, b"\x08\x05\x28" + encode_varint(hash_type) + b"\x30" + encode_varint(fanout))


def test_a_sharded_directory_is_read_node_by_node():
    child = dag_pb_cid(shard([]))
    block = shard([(child, b"0A", 1), (raw_cid(b"x"), b"FFname", 2)])
    node = parse_node(dag_pb_cid(block), block)
    assert (node.kind, node.fanout) == ("directory", 256)
    assert list(node.shards()) == [Link("0A", child, 1)]
    assert list(node.entries()) == [Link("name", raw_cid(b"x"), 2)]
    _, plain = directory_block([("0A", raw_cid(b""), 0)])
    assert not list(parse_node(dag_pb_cid(plain), plain).shards())


def test_a_name_stands_only_once():
    with pytest.raises(BadDirectory, match="twice"):
        directory_block([("a", raw_cid(b""), 0), ("a", raw_cid(b"x"), 1)])
    block = node_bytes([(raw_cid(b""), b"a", 0), (raw_cid(b"x"), b"a", 1)], b"\x08\x01")
    with pytest.raises(BadNode, match="twice"):
        parse_node(dag_pb_cid(block), block)


# --- hostile nodes

LEAF = (raw_cid(b"abc"), b"", 3)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (node_bytes([LEAF], b"\x08\x02\x18\x03"), "block sizes"),
        (node_bytes([LEAF], b"\x08\x02\x18\x03\x20\x03\x20\x00"), "block sizes"),
        (node_bytes([LEAF], b"\x08\x02\x18\x04\x20\x03"), "as it says"),
        (node_bytes([LEAF, LEAF], b"\x08\x02\x18\x03\x20\x03\x20\x00"), "no bytes"),
        (node_bytes([LEAF], b"\x08\x02\x12\x01x\x18\x03\x20\x03"), "as it says"),
        (
            node_bytes([LEAF], b"\x08\x02\x18" + b"\xff" * 9 + b"\x01\x20" + b"\xff" * 9 + b"\x01"),
            "more than a file",
        ),
        (node_bytes([(LEAF[0], b"name", 3)], b"\x08\x02\x18\x03\x20\x03"), "has a name"),
        (node_bytes([], b"\x08\x05"), "hash 0x0"),
        (shard([], hash_type=0x12), "hash 0x12"),
        (shard([], fanout=4), "slots"),
        (shard([], fanout=1 << 20), "slots"),
        (shard([], fanout=255), "slots"),
        (shard([(raw_cid(b"x"), b"FFa", 0)] * 9, fanout=8), "9 links in 8 slots"),
        (shard([(raw_cid(b"x"), b"0", 0)]), "slot"),
        (shard([(raw_cid(b"x"), b"0g", 0)]), "slot"),
        (shard([(raw_cid(b"x"), b"0aname", 0)]), "slot"),
        (shard([(raw_cid(b"x"), b"+1name", 0)]), "slot"),
        (shard([(raw_cid(b"x"), b"00a/b", 0)]), "slash"),
        (shard([(raw_cid(b"x"), b"8", 0)], fanout=8), "slot"),
        (shard([(raw_cid(b"x"), b"0A", 0)] * 2), "two links in the slot 0A"),
        (shard([(raw_cid(b"x"), b"0A", 0), (raw_cid(b"x"), b"0Aname", 0)]), "two links in the slot 0A"),
        (shard([(raw_cid(b"x"), b"0Aname", 0), (raw_cid(b"x"), b"0Aother", 0)]), "two links in the slot 0A"),
        (node_bytes([], b"\x08\x03"), "type 3"),
        (node_bytes([], b"\x08\x63"), "type 99"),
        (node_bytes([], b"\x08\x01\x08\x02"), "field 1"),
        (node_bytes([], b"\x08\x02") + b"\x0a\x02\x08\x02", "field 1"),
        (node_bytes([], b"\x08\x02") + b"\x1a\x00", "field 3"),
        (node_bytes([], b"\x08\x02") + b"\x0d\x00\x00\x00\x00", "wire type 5"),
        (node_bytes([], b"\x08\x02")[:-1], "cut"),
        (b"\x0a\xff\xff\xff\xff\x0f", "cut"),
        (b"\x12\x06\x0a\x04\x01\x55\x13\x00\x0a\x02\x08\x01", "link to no CID"),
        (b"\x12\x02\x12\x00\x0a\x02\x08\x01", "without a target"),
        (node_bytes([LEAF] * (MAX_LINKS + 1), b"\x08\x01"), "links"),
        (bytes(MAX_BLOCK + 1), "at most"),
    ],
)
def test_a_hostile_node_is_refused_with_a_reason(block, reason):
    with pytest.raises(BadNode, match=reason):
        parse_node(dag_pb_cid(block), block)


def test_other_codecs_are_refused():
    with pytest.raises(BadNode, match="0x71"):
        parse_node(make_cid(0x71, bytes(32)), b"")


def test_block_sizes_may_be_packed():
    block = node_bytes([LEAF, LEAF], b"\x08\x02\x18\x06\x22\x02\x03\x03")
    assert parse_node(dag_pb_cid(block), block).blocksizes == [3, 3]


def test_mode_and_mtime_are_read_over():
    block = node_bytes([], b"\x08\x02\x12\x01x\x18\x01\x38\xa4\x03\x42\x02\x08\x01")
    assert parse_node(dag_pb_cid(block), block) == Node("file", 1, data=b"x")


def test_links_of_version_0_are_given_in_version_1():
    old = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    block = node_bytes([(old, b"d", 4)], b"\x08\x01")
    (link,) = parse_node(dag_pb_cid(block), block).links
    assert link.cid == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_node_or_a_bad_one(data):
    try:
        node = parse_node(make_cid(0x70, bytes(32)), data)
    except BadNode:
        return
    assert node.kind in ("file", "directory", "symlink")
    assert parse_node(make_cid(RAW, bytes(32)), data).size == len(data)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_node_is_never_a_crash(data, at, byte):
    root, _, blocks = build(data, 3, 3)
    block = bytearray(blocks[root])
    block[at % len(block)] = byte
    try:
        node = parse_node(make_cid(0x70, bytes(32)), bytes(block))
    except BadNode:
        return
    assert node.kind != "file" or node.size == len(node.data) + sum(node.blocksizes)
