"""Node ids as text: base58 of a sha2-256 multihash, the form of libp2p's peer ids of ECDSA keys (`Qm...`).
Pure."""

from __future__ import annotations

import re

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
NODE_ID = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{44}")
MULTIHASH = b"\x12\x20"  # sha2-256, 32 bytes follow


def node_id(digest: bytes) -> str:
    """The id that stands for a SHA-256 digest of 32 bytes."""
    value = int.from_bytes(MULTIHASH + digest, "big")
    text = ""
    while value:
        value, digit = divmod(value, 58)
        text = ALPHABET[digit] + text
    return text
