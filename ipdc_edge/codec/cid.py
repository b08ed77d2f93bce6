"""Content identifiers: the names of blocks, made from what is in them.

Owns the text and the bytes of a CID (https://github.com/multiformats/cid, multihash, multibase) and the check
of a block against its name. Never touches files or the network. Everywhere else a CID is a `str` of version 1
in base32 (`bafk...`, `bafy...`); this module is the only one that looks inside. We make sha2-256 only and
read sha2-256 and the identity hash (the gateway's probe `bafkqaaa`, and the tiny inlined leaves that some
tools make): a second real hash would give one block two names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71
SHA2_256 = 0x12
IDENTITY = 0x00

MAX_IDENTITY = 128  # bytes; what Kubo allows in an identity hash
MAX_TEXT = 256  # characters; the longest CID that we read has 223

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_TO_DIGITS = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")  # so that int(text, 32) reads it
_BASE32_TEXT = re.compile(r"b[a-z2-7]+", re.ASCII)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VERSION_0_TEXT = re.compile(rf"Qm[{_BASE58}]{{44}}", re.ASCII)
_V1_RAW_SHA = bytes((1, RAW, SHA2_256, 32))


class BadCid(IpdcError):
    """Not a CID that this node reads: {text} ({reason}). It should look like bafkrei... or Qm..."""


class BlockMismatch(IpdcError):
    """The {size} bytes received as {cid} are not that block: their hash differs."""


@dataclass(frozen=True, slots=True)
class Cid:
    """A CID taken apart: `codec` says how to read the block (RAW, DAG_PB, ...), `digest` is its hash.

    With `hash` IDENTITY, `digest` is the block itself.
    """

    codec: int
    digest: bytes
    hash: int = SHA2_256


def raw_cid(data: Buffer) -> str:
    """The CID of `data` as a raw leaf."""
    return "b" + _encode_base32(_V1_RAW_SHA + hashlib.sha256(data).digest())


def dag_pb_cid(block: Buffer) -> str:
    """The CID of an encoded dag-pb node."""
    return make_cid(DAG_PB, hashlib.sha256(block).digest())


def make_cid(codec: int, digest: bytes) -> str:
    """CID version 1 in base32 of a block with this codec and sha2-256 digest (32 bytes)."""
    if len(digest) != 32:
        raise ValueError(f"a sha2-256 digest has 32 bytes, not {len(digest)}")
    return "b" + _encode_base32(b"\x01" + encode_varint(codec) + bytes((SHA2_256, 32)) + digest)


@lru_cache(maxsize=64)  # to read or fetch a block takes six looks at its CID
def parse_cid(text: str) -> Cid:
    """Take apart CIDv1 in base32 or CIDv0 (`Qm...`). Anything else, of any length, is BadCid."""
    if len(text) > MAX_TEXT:
        raise BadCid(text=_shown(text), reason=f"longer than {MAX_TEXT} characters")
    if _VERSION_0_TEXT.fullmatch(text):
        return Cid(DAG_PB, _decode_version_0(text))
    if not _BASE32_TEXT.fullmatch(text):
        raise BadCid(text=_shown(text), reason="neither base32 nor a CID of version 0")
    try:
        return cid_from_bytes(_decode_base32(text))
    except BadCid as error:
        raise BadCid(text=_shown(text), reason=error.details["reason"]) from None


def is_cid(text: str) -> bool:
    """Whether `parse_cid` would take it."""
    try:
        parse_cid(text)
    except BadCid:
        return False
    return True


def canonical(text: str) -> str:
    """The one spelling under which we know the block: version 1 in base32, also for a `Qm...`."""
    return cid_from_parts(parse_cid(text)) if text.startswith("Qm") else cid_checked(text)


def cid_checked(text: str) -> str:
    """`text`, if it is a CID of version 1, which has only one spelling in base32; else BadCid."""
    parse_cid(text)
    return text


def cid_from_parts(cid: Cid) -> str:
    """The text of a CID that was taken apart."""
    return "b" + _encode_base32(_to_bytes(cid))


def cid_to_bytes(text: str) -> bytes:
    """The binary CID, as it stands in a dag-pb link. A `Qm...` becomes a bare multihash, as version 0 is."""
    cid = parse_cid(text)
    if text.startswith("Qm"):
        return bytes((SHA2_256, 32)) + cid.digest
    return _to_bytes(cid)


def cid_from_bytes(data: bytes) -> Cid:
    """Take apart a binary CID of version 1, or the bare sha2-256 multihash of version 0."""
    if len(data) == 34 and data[0] == SHA2_256 and data[1] == 32:
        return Cid(DAG_PB, bytes(data[2:]))
    try:
        version, at = decode_varint(data, 0)
        codec, at = decode_varint(data, at)
        hash_code, at = decode_varint(data, at)
        length, at = decode_varint(data, at)
    except ValueError as error:
        raise BadCid(text=_shown(data.hex()), reason=str(error)) from None
    digest = bytes(data[at:])
    if version != 1:
        reason = f"version {version}"
    elif hash_code not in (SHA2_256, IDENTITY):
        reason = f"hash 0x{hash_code:x}; only sha2-256 is read"
    elif length != len(digest) or (hash_code == SHA2_256 and length != 32):
        reason = "the hash has a wrong length"
    elif length > MAX_IDENTITY:
        reason = f"more than {MAX_IDENTITY} inlined bytes"
    else:
        return Cid(codec, digest, hash_code)
    raise BadCid(text=_shown(data.hex()), reason=reason)


def verify(cid: str, data: Buffer) -> None:
    """Raise BlockMismatch unless `data` is the block named `cid`."""
    verify_digest(cid, hashlib.sha256(data).digest(), data)


def verify_digest(cid: str, sha256: bytes, data: Buffer) -> None:
    """The same for one who has hashed the block already, piece by piece. `data` is compared for identity
    hashes only."""
    parts = parse_cid(cid)
    same = parts.digest == (sha256 if parts.hash == SHA2_256 else bytes(data))
    if not same:
        raise BlockMismatch(cid=cid, size=len(data))


def inlined(cid: str) -> bytes | None:
    """The block that an identity CID carries in itself; None for every other CID."""
    parts = parse_cid(cid)
    return parts.digest if parts.hash == IDENTITY else None


def encode_varint(number: int) -> bytes:
    """Unsigned LEB128, as multiformats and protobuf write it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_varint(data: Buffer, at: int) -> tuple[int, int]:
    """(number, position after it). ValueError when it is cut, over 64 bits, or longer than needed."""
    number = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("cut inside a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number over 64 bits")
    if number >> 64:
        raise ValueError("a number over 64 bits")
    if byte == 0 and shift:
        raise ValueError("a number that is not in its shortest form")
    return number, at


def _to_bytes(cid: Cid) -> bytes:
    return b"\x01" + encode_varint(cid.codec) + bytes((cid.hash,)) + encode_varint(len(cid.digest)) + cid.digest


def _encode_base32(data: bytes) -> str:
    characters = (len(data) * 8 + 4) // 5  # rounded up
    number = int.from_bytes(data, "big") << (characters * 5 - len(data) * 8)
    return "".join([_BASE32[number >> shift & 31] for shift in range(characters * 5 - 5, -1, -5)])


def _decode_base32(text: str) -> bytes:
    bits = (len(text) - 1) * 5
    padding = bits % 8
    number = int(text[1:].translate(_TO_DIGITS), 32)
    if padding >= 5 or number & ((1 << padding) - 1):
        raise BadCid(text=_shown(text), reason="its last character is not canonical")
    return (number >> padding).to_bytes(bits // 8, "big")


def _decode_version_0(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    if number >> 272:
        raise BadCid(text=text, reason="the hash has a wrong length")
    data = number.to_bytes(34, "big")
    if data[:2] != bytes((SHA2_256, 32)):
        raise BadCid(text=text, reason="not a sha2-256 hash")
    return data[2:]


def _shown(text: str) -> str:
    """As it may stand in a message: bounded, on one line."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
