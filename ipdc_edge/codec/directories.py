"""UnixFS directories of any size, as blocks: one, or many where one would be too big (HAMT, a sharded directory).

Owns when a directory is sharded, and the nodes that it is made of then. Holds its entries, packed (about 100 bytes each
and their names, some 14 MB for 100,000), and the links of one node a level; never a child's block, and none of its own
once it was given out.

Sources: IPIP-0499 for the profile (256 slots in a node; one block as long as it has at most 256 KiB, reckoned to the
byte), https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory, and Kubo for what the text leaves open: the bits that say
which slots are taken are one big-endian number without its leading zero bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import cid_from_bytes, cid_from_parts, cid_to_bytes, dag_pb_cid, decode_varint, encode_varint
from ipdc_edge.codec.dag_pb import bytes_field, link_bytes, link_length
from ipdc_edge.codec.hamt import MURMUR3_X64_64, name_hash
from ipdc_edge.codec.unixfs import MAX_DIRECTORY, BadDirectory, directory_block, fault_of_name, name_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

FANOUT = 256  # slots of a node: a byte of a name's hash says which, the next one at the next level
_LEVELS = 8  # bytes of a hash
_SHARD = b"\x08\x05"  # a UnixFS node of the type HAMTShard
_HASH_AND_FANOUT = b"\x28" + encode_varint(MURMUR3_X64_64) + b"\x30" + encode_varint(FANOUT)


class DirectoryBuilder:
    """Takes the entries of one directory in any order, and then gives its blocks. `length` is what they take as one
    block, in bytes."""

    def __init__(self) -> None:
        self.length = len(bytes_field(1, b"\x08\x01"))
        self.count = 0
        self.cid = ""
        self.tsize = 0
        self._entries: list[bytes] = []  # name, zero byte, tsize, CID; before them the hash, once it is needed

    def add(self, name: str, cid: str, tsize: int) -> None:
        """One entry; the link to it is of version 1. BadDirectory for a name that no file system could hold."""
        raw, target = name_bytes(name), cid_to_bytes(cid)
        fault = fault_of_name(raw)
        if fault:
            raise BadDirectory(name=ascii(name), reason=fault)
        self._entries.append(raw + b"\0" + encode_varint(tsize) + target)
        self.count += 1
        self.length += link_length(len(target), len(raw), tsize)

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        """(cid, block) of all nodes, children before parents; afterwards `cid` and `tsize` (the bytes of all blocks,
        and of those of the entries) are known. Once. BadDirectory for a name that stands twice."""
        if self.length <= MAX_DIRECTORY:
            entries = [_unpacked(entry) for entry in self._entries]
            self.cid, block = directory_block(
                (name.decode("utf-8", "surrogateescape"), cid_from_parts(cid_from_bytes(cid)), tsize)
                for name, cid, tsize in entries)
            self.tsize = len(block) + sum(tsize for _, _, tsize in entries)
            yield self.cid, block
            return
        for at, entry in enumerate(self._entries):
            self._entries[at] = name_hash(entry[: entry.index(b"\0")]) + entry
        self._entries.sort()
        self.cid, self.tsize = yield from self._shard(0, len(self._entries), 0)

    def _shard(self, begin: int, end: int, depth: int) -> Generator[tuple[str, bytes], None, tuple[str, int]]:
        """The nodes of these entries, whose hashes are the same in `depth` bytes; (cid, tsize) of the last one."""
        links, total, taken = [], 0, 0
        while begin < end:
            slot = self._entries[begin][depth]
            after = bisect_left(self._entries, slot + 1, begin, end, key=lambda entry: entry[depth])
            prefix = b"%02X" % slot
            if after == begin + 1:
                name, cid, tsize = _unpacked(self._entries[begin][_LEVELS:])
                links.append(link_bytes(cid, prefix + name, tsize))
            else:
                self._check_hashes(begin, after, depth)
                below, tsize = yield from self._shard(begin, after, depth + 1)
                links.append(link_bytes(cid_to_bytes(below), prefix, tsize))
            total += tsize
            taken |= 1 << slot
            begin = after
        bits = taken.to_bytes((taken.bit_length() + 7) // 8, "big")
        block = b"".join(links) + bytes_field(1, _SHARD + bytes_field(2, bits) + _HASH_AND_FANOUT)
        root = dag_pb_cid(block)
        yield root, block
        return root, total + len(block)

    def _check_hashes(self, begin: int, end: int, depth: int) -> None:
        """BadDirectory for entries that no further level tells apart."""
        one, other = self._entries[begin], self._entries[begin + 1]
        if depth + 1 < _LEVELS:
            return
        name, other_name = _unpacked(one[_LEVELS:])[0], _unpacked(other[_LEVELS:])[0]
        reason = "the name stands twice" if name == other_name else (
            f"it has the same hash as {other_name!r}, and a sharded directory can hold only one of them")
        raise BadDirectory(name=ascii(name.decode("utf-8", "surrogateescape")), reason=reason)


def _unpacked(entry: bytes) -> tuple[bytes, bytes, int]:
    """(name, binary CID, tsize)."""
    at = entry.index(b"\0")
    tsize, after = decode_varint(entry, at + 1)
    return entry[:at], entry[after:], tsize
