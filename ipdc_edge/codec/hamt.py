"""Where a name lies in a sharded directory of UnixFS (HAMT): its hash, and the slot at each level.

Owns the hash and how its bits are used. Never holds a directory: `unixfs` reads the nodes, whoever walks asks here for
the one slot in which a name can be.

Sources: https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory; MurmurHash3_x64_128 by Austin Appleby (public domain), of
which the first eight bytes count. Debian 12 and 13 both ship no Python module of it that they share with each other.
"""

from __future__ import annotations

MURMUR3_X64_64 = 0x22  # its number among the multihashes, as it stands in a node
HASH_BITS = 64
MAX_FANOUT = 1024  # what other readers take at most; Kubo writes 256

_WORD = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def name_hash(name: bytes) -> bytes:
    """The eight bytes by which a name is placed, in the order in which they are used."""
    first = second = 0
    whole = len(name) & ~15
    for at in range(0, whole, 16):
        first ^= _mixed_first(int.from_bytes(name[at : at + 8], "little"))
        first = (_turned(first, 27) + second) * 5 + 0x52DCE729 & _WORD
        second ^= _mixed_second(int.from_bytes(name[at + 8 : at + 16], "little"))
        second = (_turned(second, 31) + first) * 5 + 0x38495AB5 & _WORD
    second ^= _mixed_second(int.from_bytes(name[whole + 8 :], "little"))
    first ^= _mixed_first(int.from_bytes(name[whole : whole + 8], "little"))
    first ^= len(name)
    second ^= len(name)
    first = first + second & _WORD
    second = second + first & _WORD
    return (_final(first) + _final(second) & _WORD).to_bytes(8, "big")


def slot(name: bytes, depth: int, fanout: int) -> int:
    """The slot of a name in a node `depth` levels below the root. ValueError where the hash has no more bits."""
    bits = fanout.bit_length() - 1
    begin = depth * bits
    if begin + bits > HASH_BITS:
        raise ValueError(f"a sharded directory has no level {depth}")
    return int.from_bytes(name_hash(name), "big") >> (HASH_BITS - begin - bits) & (fanout - 1)


def prefix_length(fanout: int) -> int:
    """Characters of a link's name that say its slot, in upper-case hexadecimal."""
    return len(f"{fanout - 1:X}")


def _mixed_first(word: int) -> int:
    return _turned(word * _C1 & _WORD, 31) * _C2 & _WORD


def _mixed_second(word: int) -> int:
    return _turned(word * _C2 & _WORD, 33) * _C1 & _WORD


def _turned(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & _WORD


def _final(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _WORD
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _WORD
    return word ^ word >> 33
