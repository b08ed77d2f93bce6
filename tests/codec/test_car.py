"""A CAR as others write it."""

from __future__ import annotations

from ipdc_edge.codec.car import car_header, section_head
from ipdc_edge.codec.cid import cid_to_bytes, raw_cid

ROOT = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"


def test_the_header_is_dag_cbor() -> None:
    body = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + cid_to_bytes(ROOT) + b"\x67version\x01"
    assert car_header(ROOT) == bytes((len(body),)) + body
    assert b"\xd8\x2a\x45\x00\x01\x55\x00\x00\x67" in car_header("bafkqaaa"), "a short CID has a short head"


def test_a_section() -> None:
    cid = raw_cid(b"abc")
    assert section_head(cid, 3) == bytes((36 + 3,)) + cid_to_bytes(cid)
    assert section_head(cid, 1 << 20)[:3] == b"\xa4\x80\x40"
