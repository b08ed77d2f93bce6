"""CAR version 1: blocks one after the other in a stream, each with its CID.

Owns the bytes of the header and of what stands before a block. Never holds a block.
Source: https://ipld.io/specs/transport/car/carv1/
"""

from __future__ import annotations

from ipdc_edge.codec.cid import SHA2_256, cid_to_bytes, encode_varint, parse_cid


def car_header(root: str) -> bytes:
    """The beginning of a CAR with one root: the dag-cbor of {"roots": [root], "version": 1}, with its length."""
    cid = b"\0" + cid_to_bytes(root)  # 0: the multibase prefix that every CID in dag-cbor has
    head = bytes((0x58, len(cid))) if len(cid) > 23 else bytes((0x40 | len(cid),))
    body = b"\xa2\x65roots\x81\xd8\x2a" + head + cid + b"\x67version\x01"
    return encode_varint(len(body)) + body


def section_head(cid: str, size: int, version_0: bool = False) -> bytes:
    """What stands before a block of so many bytes; its CID as version 0 where that is how it was linked."""
    name = bytes((SHA2_256, 32)) + parse_cid(cid).digest if version_0 else cid_to_bytes(cid)
    return encode_varint(len(name) + size) + name
