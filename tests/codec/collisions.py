"""Names whose hashes begin as one likes, by running MurmurHash3 backwards: sharded directories as deep as can be."""

from __future__ import annotations

import random

from ipdc_edge.codec.hamt import name_hash

_WORD = (1 << 64) - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def name_of(wanted: bytes, seed: int) -> bytes:
    """A name of sixteen bytes that has this hash of eight; another one for each seed."""
    chance = random.Random(f"{wanted.hex()} {seed}")
    while True:
        one = chance.getrandbits(64)
        first, second = _before_final(one), _before_final(int.from_bytes(wanted, "big") - one & _WORD)
        later = second - first & _WORD
        earlier = (first - later & _WORD) ^ 16
        name = _block(earlier, later ^ 16)
        if not {0, ord("/")} & set(name):
            assert name_hash(name) == wanted
            return name


def _block(first: int, second: int) -> bytes:
    """The sixteen bytes that bring the two words of the state here from zero."""
    one = _turned_back((first - 0x52DCE729) * _inverse(5) & _WORD, 27)
    two = _turned_back((second - 0x38495AB5) * _inverse(5) - first & _WORD, 31)
    low = _turned_back(one * _inverse(_C2) & _WORD, 31) * _inverse(_C1) & _WORD
    high = _turned_back(two * _inverse(_C1) & _WORD, 33) * _inverse(_C2) & _WORD
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def _before_final(word: int) -> int:
    word = (word ^ word >> 33) * _inverse(0xC4CEB9FE1A85EC53) & _WORD
    word = (word ^ word >> 33) * _inverse(0xFF51AFD7ED558CCD) & _WORD
    return word ^ word >> 33


def _turned_back(word: int, by: int) -> int:
    return (word >> by | word << (64 - by)) & _WORD


def _inverse(number: int) -> int:
    return pow(number, -1, 1 << 64)
