"""Links are found in any dag-cbor, and no bytes cost more than they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import BadCid, canonical, cid_to_bytes, raw_cid
from ipdc_edge.codec.dag_cbor import MAX_NESTING, follow, links

ONE, TWO = raw_cid(b"1"), raw_cid(b"2")


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    return bytes((major << 5 | 25,)) + number.to_bytes(2, "big")


class Link(str):
    """A CID that is to be written as a link."""


def encode(value: object) -> bytes:
    """The dag-cbor of a value, by the specification, but for the order of keys."""
    if isinstance(value, Link):
        content = b"\0" + cid_to_bytes(value)
        return b"\xd8\x2a" + head(2, len(content)) + content
    if isinstance(value, bool) or value is None:
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, float):
        import struct

        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encode, value))
    assert isinstance(value, dict)
    return head(5, len(value)) + b"".join(encode(key) + encode(item) for key, item in value.items())


def found(value: object) -> list[str]:
    """Its links, by walking the value itself."""
    if isinstance(value, Link):
        return [str(value)]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [link for item in inside for link in found(item)]


leaves = st.one_of(
    st.sampled_from([Link(ONE), Link(TWO)]), st.integers(-9999, 9999), st.booleans(), st.none(), st.floats(),
    st.binary(max_size=40), st.text(max_size=40))
values = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=5)), max_leaves=20)


@given(values)
def test_every_link_is_found(value: object) -> None:
    assert list(links(encode(value))) == found(value)


def test_paths_lead_through_maps_and_lists_to_links() -> None:
    block = encode({"a": [1, {"b": Link(ONE)}], "c": Link(TWO), "d": b"x", "ü": 1})
    assert follow(block, [b"a", b"1", b"b", b"rest"]) == (ONE, 3)
    assert follow(block, [b"c"]) == (TWO, 1)
    assert follow(block, [b"a"]) == (None, 1)
    assert follow(block, ["ü".encode()]) == (None, 1)
    assert follow(block, []) == (None, 0)
    assert follow(encode(Link(ONE)), []) == (ONE, 0)
    for path in ([b"e"], [b"a", b"2"], [b"a", b"-1"], [b"d", b"0"], [b"a", b"b"], [b"a", b"9" * 30]):
        with pytest.raises(KeyError):
            follow(block, path)


@pytest.mark.parametrize("block", [
    b"", b"\x9b" + b"\xff" * 8, b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x5f\xff", b"\x01\x01", b"\xc1\x01",
    b"\xd8\x2a\x01", b"\xd8\x2a\x41\x01", b"\xd8\x2a\x58", b"\x81" * (MAX_NESTING + 2), b"\x18",
])
def test_what_is_no_dag_cbor_is_refused(block: bytes) -> None:
    with pytest.raises((ValueError, BadCid)):
        list(links(block))


@given(st.binary(max_size=200), st.lists(st.binary(max_size=3), max_size=4))
def test_any_bytes_are_read_or_refused(block: bytes, path: list[bytes]) -> None:
    try:
        assert all(canonical(link) == link for link in links(block))
    except (ValueError, BadCid):
        pass
    try:
        link, used = follow(block, path)
    except (ValueError, BadCid, KeyError):
        return
    assert 0 <= used <= len(path) and (link is not None or used == len(path))
