"""Published block headers of Bitcoin: their fields, and the hashes that everybody knows them by."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Header(NamedTuple):
    """The 76 bytes before the nonce, the nonce that was found, and the hash."""

    bytes: bytes
    nonce: int
    hash: str


def made(version: int, previous: str, merkle_root: str, time: int, bits: int) -> bytes:
    """The fields as they stand in a header; hashes are published with their highest byte first."""
    roots = bytes.fromhex(previous)[::-1] + bytes.fromhex(merkle_root)[::-1]
    return struct.pack("<I", version) + roots + struct.pack("<II", time, bits)


_GENESIS = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
GENESIS = Header(made(1, "00" * 32, "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b", 1231006505,
                      0x1D00FFFF), 2083236893, _GENESIS)
BLOCK_1 = Header(made(1, _GENESIS, "0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098", 1231469665,
                      0x1D00FFFF), 2573394689, "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048")
BLOCK_125552 = Header(made(1, "00000000000008a3a41b85b8b29ad444def299fee21793cd8b9e567eab02cd81",
                           "2b12fcf1b09288fcaff797d71e950e71ae42b91e8bdb2304758dfcffc2b620e3", 1305998791, 0x1A44B9F2),
                      2504433986, "00000000000000001e8d6829a8a21adc5d38d0a473b144b6765798e61f98bd1d")
PUBLISHED = {"genesis": GENESIS, "block 1": BLOCK_1, "block 125552": BLOCK_125552}
