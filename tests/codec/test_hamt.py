"""Names are placed as every other implementation places them."""

from __future__ import annotations

import pytest

from ipdc_edge.codec.hamt import name_hash, prefix_length, slot

# MurmurHash3_x64_128's first word, by the package mmh3 5.2 (smhasher's own code)
KNOWN = {
    b"": "0000000000000000",
    b"hello": "cbd8a7b341bd9b02",
    b"The quick brown fox jumps over the lazy dog": "e34bbc7bbc071b6c",
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_hash(name: bytes) -> None:
    assert name_hash(name).hex() == KNOWN[name]


def test_each_level_uses_the_next_bits() -> None:
    assert [slot(b"hello", depth, 256) for depth in range(8)] == list(bytes.fromhex(KNOWN[b"hello"]))
    assert [slot(b"hello", depth, 8) for depth in range(3)] == [0b110, 0b010, 0b111]
    with pytest.raises(ValueError, match="level 8"):
        slot(b"hello", 8, 256)


def test_the_length_of_a_prefix() -> None:
    assert [prefix_length(fanout) for fanout in (8, 16, 256, 512, 1024)] == [1, 1, 2, 3, 3]
