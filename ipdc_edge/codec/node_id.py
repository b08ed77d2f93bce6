"""Node ids as text: libp2p's peer id of the node's key, an ECDSA key on P-256 (`Qm...`).

Owns the form (https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md): base58 of the sha2-256
multihash of the key's protobuf. Pure: never sees a private key, and takes no key apart.
"""

from __future__ import annotations

import hashlib
import re

from .cid import encode_varint

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
NODE_ID = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{44}")
MULTIHASH = b"\x12\x20"  # sha2-256, 32 bytes follow
ECDSA = b"\x08\x03\x12"  # field 1, the key's type: ECDSA (3); field 2, its bytes: a length and the key follow


def node_id(digest: bytes) -> str:
    """The id that stands for a SHA-256 digest of 32 bytes."""
    value = int.from_bytes(MULTIHASH + digest, "big")
    text = ""
    while value:
        value, digit = divmod(value, 58)
        text = ALPHABET[digit] + text
    return text


def digest_of(node: str) -> bytes:
    """The 32 bytes that an id stands for; ValueError for a text that is no id."""
    value = 0
    for character in node:
        value = value * 58 + ALPHABET.index(character)
    data = value.to_bytes(34, "big") if value < 1 << 272 else b""
    if data[:2] != MULTIHASH:
        raise ValueError(f"not a node id: {node[:100]!r}")
    return data[2:]


def key_id(spki_der: bytes) -> str:
    """The id of a public key, which comes as X.509 writes it (SubjectPublicKeyInfo in DER)."""
    return node_id(hashlib.sha256(ECDSA + encode_varint(len(spki_der)) + spki_der).digest())
