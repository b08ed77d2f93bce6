"""UnixFS: files and directories as trees of blocks, under the profile `unixfs-v1-2025`.

Owns the bytes of UnixFS nodes and the shape of the tree that a file becomes. Never holds a file:
the builder keeps the links of unfinished nodes only, one node a level. Never checks a block against its CID
(`cid.verify` does, by whoever received it) and never fetches a child. `directories` makes those of any size.

Sources: https://specs.ipfs.tech/unixfs/, IPIP-0499 for the profile (CIDv1, sha2-256, 1 MiB chunks, raw leaves,
balanced, 1024 links).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import DAG_PB, RAW, BadCid, cid_to_bytes, dag_pb_cid, encode_varint, parse_cid, raw_cid
from ipdc_edge.codec.dag_pb import Link, bytes_field, fields, link_bytes, packed, parse_dag_pb
from ipdc_edge.codec.hamt import MAX_FANOUT, MURMUR3_X64_64, prefix_length
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipdc_edge.codec.cid import Buffer

CHUNK = 1 << 20  # bytes of a leaf
LINKS = 1024  # children of an interior node

MAX_BLOCK = 2 << 20  # bytes; what the specification demands of a reader, and no more
MAX_DEPTH = 16  # nodes above a leaf; four levels of 1024 links hold an exbibyte
MAX_FILE = (1 << 63) - 1  # bytes; what SQLite and lseek can count
MAX_DIRECTORY = 256 << 10  # bytes of block; strictly above it the profile wants a HAMT

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symlink"
_KINDS = {0: FILE, 1: DIRECTORY, 2: FILE, 4: SYMLINK}  # 0 is the deprecated Raw, which reads as a file
_HAMT = 5
_MAX_NAME = 1024  # bytes; a file system allows 255


class BadNode(IpdcError):
    """The block {cid} is not a UnixFS node that this node reads: {reason}."""


class BadDirectory(IpdcError):
    """No directory can be made with the entry {name}: {reason}."""


@dataclass(frozen=True, slots=True)
class Node:
    """A block read as UnixFS. `size` is the length of the file below it (0 for a directory).

    `blocksizes[i]` bytes of the file lie below `links[i]`; `data` are the file's bytes that stand in the
    block itself (before those of the links), or a symlink's target. A directory with a `fanout` is one node of a
    sharded one (HAMT): its links are named by their slot, and what follows it. Names are as `os.fsdecode` makes them:
    any bytes.
    """

    kind: str
    size: int
    links: list[Link] = field(default_factory=list)
    blocksizes: list[int] = field(default_factory=list)
    data: bytes = b""
    fanout: int = 0

    def entries(self) -> Iterator[Link]:
        """The entries of a directory that stand in this very node, under their own names."""
        skip = prefix_length(self.fanout) if self.fanout else 0
        for link in self.links:
            if len(link.name) > skip:
                yield link._replace(name=link.name[skip:])

    def shards(self) -> Iterator[Link]:
        """The nodes of the same sharded directory below this one, named by their slot."""
        length = prefix_length(self.fanout) if self.fanout else -1
        return (link for link in self.links if len(link.name) == length)

    def children(self, offset: int = 0) -> Iterator[tuple[int, int, str]]:
        """(offset, size, cid) of every child of a file node that itself begins at `offset`."""
        offset += len(self.data)
        for link, size in zip(self.links, self.blocksizes, strict=True):
            yield offset, size, link.cid
            offset += size


class FileBuilder:
    """Builds the tree of one file from its leaves in order, in O(depth * links) memory.

    `add` and `finish` give back the interior blocks as (cid, block), children before parents; the caller
    stores or sends them. Every full node is given out at once, because a balanced tree never changes it
    again.
    """

    def __init__(self, links: int = LINKS) -> None:
        if links < 2:
            raise ValueError("a node of a tree needs at least two links")
        self._links = links
        self._levels: list[list[tuple[str, int, int]]] = [[]]  # (cid, bytes of file, tsize), leaves first
        self.size = 0

    def add(self, cid: str, size: int) -> list[tuple[str, bytes]]:
        """Append a raw leaf of `size` bytes; the interior blocks that it made complete."""
        self.size += size
        self._levels[0].append((cid, size, size))
        blocks = []
        level = 0
        while len(self._levels[level]) == self._links:
            blocks.append(self._close(level))
            level += 1
        return blocks

    def finish(self) -> tuple[str, int, list[tuple[str, bytes]]]:
        """(root, size of the file, last interior blocks). A file of one leaf is that leaf, without any."""
        if self._levels == [[]]:
            raise ValueError("a file has at least one leaf; the leaf of an empty file is empty")
        blocks = []
        level = 0
        while len(self._levels) > level + 1 or len(self._levels[level]) > 1:
            if self._levels[level]:
                blocks.append(self._close(level))
            level += 1
        return self._levels[level][0][0], self.size, blocks

    def _close(self, level: int) -> tuple[str, bytes]:
        """Make one node of what waits on this level and put it on the next."""
        children = self._levels[level]
        block = _file_block(children)
        cid = dag_pb_cid(block)
        if len(self._levels) == level + 1:
            self._levels.append([])
        size = sum(child[1] for child in children)
        self._levels[level + 1].append((cid, size, len(block) + sum(child[2] for child in children)))
        children.clear()
        return cid, block


def tree_size(size: int) -> int:
    """Bytes of all blocks of a file of this size, as a link to it says them."""
    builder, total, leaf = FileBuilder(), size, raw_cid(b"")
    for at in range(0, size, CHUNK):
        total += sum(len(block) for _, block in builder.add(leaf, min(CHUNK, size - at)))
    return total + sum(len(block) for _, block in builder.finish()[2]) if size else 0


def directory_block(entries: Iterable[tuple[str, str, int]]) -> tuple[str, bytes]:
    """(cid, block) of a directory of (name, cid, tsize) that is one block, sorted by the names' bytes.

    BadDirectory for a name that no file system could hold, a doubled one, or more than the profile puts in
    one block: `directories` makes those too.
    """
    ordered = sorted((name_bytes(name), name, cid, tsize) for name, cid, tsize in entries)
    parts = []
    before = None
    for raw, name, cid, tsize in ordered:
        reason = "the name stands twice" if raw == before else fault_of_name(raw)
        if reason:
            raise BadDirectory(name=ascii(name), reason=reason)
        before = raw
        parts.append(link_bytes(cid_to_bytes(cid), raw, tsize))
    parts.append(bytes_field(1, b"\x08\x01"))
    block = b"".join(parts)
    if len(block) > MAX_DIRECTORY:
        reason = f"with it the directory's block has {len(block)} bytes; more than {MAX_DIRECTORY} need a HAMT"
        raise BadDirectory(name=ascii(ordered[-1][1]), reason=reason)
    return dag_pb_cid(block), block


def symlink_block(target: bytes) -> tuple[str, bytes]:
    """(cid, block) of a symbolic link to `target`, which is never looked at."""
    unixfs = b"\x08\x04" + bytes_field(2, target)
    block = bytes_field(1, unixfs)
    return dag_pb_cid(block), block


def parse_node(cid: str, data: Buffer) -> Node:
    """Read the block `data`, known to be `cid`, as a UnixFS node. BadNode for all that is not one, or too big."""
    codec = parse_cid(cid).codec
    if len(data) > MAX_BLOCK:
        raise BadNode(cid=cid, reason=f"{len(data)} bytes; a block has at most {MAX_BLOCK}")
    if codec == RAW:
        return Node(FILE, len(data), data=bytes(data))
    if codec != DAG_PB:
        raise BadNode(cid=cid, reason=f"its codec is 0x{codec:x}")
    try:
        return _parse_dag_pb(bytes(data))
    except ValueError as error:
        raise BadNode(cid=cid, reason=str(error)) from None
    except BadCid as error:
        raise BadNode(cid=cid, reason=f"a link to no CID, {error.details['reason']}") from None


def dag_pb_links(cid: str, data: bytes) -> list[Link]:
    """The links of a dag-pb node, whether it is UnixFS or not. BadNode."""
    try:
        return parse_dag_pb(data)[0]
    except ValueError as error:
        raise BadNode(cid=cid, reason=str(error)) from None
    except BadCid as error:
        raise BadNode(cid=cid, reason=f"a link to no CID, {error.details['reason']}") from None


def _file_block(children: list[tuple[str, int, int]]) -> bytes:
    total = sum(child[1] for child in children)
    unixfs = [b"\x08\x02\x18", encode_varint(total)]
    for _, size, _ in children:
        unixfs += b"\x20", encode_varint(size)
    links = [link_bytes(cid_to_bytes(cid), b"", tsize) for cid, _, tsize in children]
    return b"".join(links) + bytes_field(1, b"".join(unixfs))


def _parse_dag_pb(data: bytes) -> Node:
    links, unixfs = parse_dag_pb(data)
    if unixfs is None:
        raise ValueError("it has no UnixFS data")
    return _parse_unixfs(unixfs, links)


def _parse_unixfs(data: bytes, links: list[Link]) -> Node:
    kind: int | None = None
    inline = b""
    filesize = 0
    blocksizes: list[int] = []
    hash_type = fanout = 0
    for number, value in fields(data):
        if number == 1 and isinstance(value, int) and kind is None:
            kind = value
        elif number == 2 and isinstance(value, bytes):
            inline = value
        elif number == 3 and isinstance(value, int):
            filesize = value
        elif number == 4:
            blocksizes += [value] if isinstance(value, int) else packed(value)
            if len(blocksizes) > len(links):
                raise ValueError("more block sizes than links")
        elif number == 5 and isinstance(value, int):
            hash_type = value
        elif number == 6 and isinstance(value, int):
            fanout = value
        elif number not in (7, 8):  # mode, mtime: known, and not used here
            raise ValueError(f"field {number} has no place in UnixFS data")
    if kind == _HAMT:
        return _shard(hash_type, fanout, links)
    if kind not in _KINDS:
        raise ValueError("it has no UnixFS type" if kind is None else f"UnixFS type {kind}")
    if _KINDS[kind] == FILE:
        return _file_node(inline, filesize, blocksizes, links)
    if _KINDS[kind] == DIRECTORY:
        _check_names(links)
        return Node(DIRECTORY, 0, links)
    return Node(SYMLINK, 0, links, data=inline)


def _file_node(inline: bytes, filesize: int, blocksizes: list[int], links: list[Link]) -> Node:
    if len(blocksizes) != len(links):
        raise ValueError(f"{len(links)} links but {len(blocksizes)} block sizes")
    if len(inline) + sum(blocksizes) != filesize:
        raise ValueError(f"its parts have {len(inline) + sum(blocksizes)} bytes, not {filesize} as it says")
    if filesize > MAX_FILE:
        raise ValueError(f"{filesize} bytes are more than a file can have")
    if 0 in blocksizes:  # no tool makes them, and a tree of them is endless work for nothing
        raise ValueError("a link to no bytes")
    if any(link.name for link in links):
        raise ValueError("a part of a file has a name")
    return Node(FILE, filesize, links, blocksizes, inline)


def _shard(hash_type: int, fanout: int, links: list[Link]) -> Node:
    """One node of a sharded directory."""
    if hash_type != MURMUR3_X64_64:
        raise ValueError(f"a sharded directory by the hash 0x{hash_type:x}")
    if fanout < 8 or fanout > MAX_FANOUT or fanout & (fanout - 1):
        raise ValueError(f"a sharded directory with {fanout} slots in a node")
    if len(links) > fanout:
        raise ValueError(f"{len(links)} links in {fanout} slots")
    length = prefix_length(fanout)
    taken: dict[int, None] = {}
    for link in links:
        try:
            slot = int(link.name[:length], 16)
        except ValueError:
            slot = -1
        if link.name[:length] != f"{slot:0{length}X}" or slot >= fanout:
            raise ValueError(f"entry {link.name[:80]!a}: its slot is none")
        if slot in taken:  # two ways to one node, on each level, would be endless entries of few blocks
            raise ValueError(f"two links in the slot {link.name[:length]}")
        taken[slot] = None
    node = Node(DIRECTORY, 0, links, fanout=fanout)
    _check_names(list(node.entries()))
    return node


def _check_names(links: list[Link]) -> None:
    seen: dict[str, None] = {}
    for link in links:
        fault = "stands twice" if link.name in seen else fault_of_name(name_bytes(link.name))
        if fault:
            raise ValueError(f"entry {link.name[:80]!a}: {fault}")
        seen[link.name] = None


def name_bytes(name: str) -> bytes:
    """An entry's name as bytes; also of a name that no file system gives, which has them in the way of its text."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def fault_of_name(name: bytes) -> str:
    """Why this can be no entry of a directory; empty if it can."""
    if name in (b"", b".", b".."):
        return "not a name of a file"
    if b"/" in name or b"\0" in name:
        return "a slash or a zero byte in a name"
    return f"a name has at most {_MAX_NAME} bytes" if len(name) > _MAX_NAME else ""
