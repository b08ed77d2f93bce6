"""dag-pb: the bytes of a node that is links and a piece of data.

Owns that format alone, both ways. What the data mean is for others (`unixfs`), and whether a block is what its CID says
is checked by `cid.verify`.

Source: https://ipld.io/specs/codecs/dag-pb/spec/. Links come before the data. Each writes its `Name` field, also where
it is empty: the specification advises to leave that out, but Kubo and the profile's own test vectors write it, and the
CID depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipdc_edge.codec.cid import cid_from_bytes, cid_from_parts, decode_varint, encode_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS = 8192  # of a node that we read; a directory below the HAMT threshold has at most about 5,500


class Link(NamedTuple):
    """A child: `tsize` counts the bytes of all blocks below it, its own included. `version_0`: that is how the link is
    written; a copy of the block goes by the same name."""

    name: str
    cid: str
    tsize: int
    version_0: bool = False


def link_bytes(cid: bytes, name: bytes, tsize: int) -> bytes:
    """A link's field. `cid` is the binary one."""
    body = bytes_field(1, cid) + bytes_field(2, name) + b"\x18" + encode_varint(tsize)
    return bytes_field(2, body)


def link_length(cid: int, name: int, tsize: int) -> int:
    """The bytes that `link_bytes` makes, of a CID and a name of so many bytes."""
    body = 3 + len(encode_varint(cid)) + cid + len(encode_varint(name)) + name + len(encode_varint(tsize))
    return 1 + len(encode_varint(body)) + body


def bytes_field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return bytes((number << 3 | 2,)) + encode_varint(len(value)) + value


def parse_dag_pb(data: bytes) -> tuple[list[Link], bytes | None]:
    """The links of a node of any meaning, and what it holds. ValueError, BadCid."""
    links: list[Link] = []
    held: bytes | None = None
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            if len(links) == MAX_LINKS:
                raise ValueError(f"more than {MAX_LINKS} links")
            links.append(_parse_link(value))
        elif number == 1 and isinstance(value, bytes) and held is None:
            held = value
        else:
            raise ValueError(f"field {number} has no place in a dag-pb node")
    return links, held


def _parse_link(data: bytes) -> Link:
    target: str | None = None
    name = ""
    tsize = 0
    version_0 = False
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes) and target is None:
            target = cid_from_parts(cid_from_bytes(value))
            version_0 = value[0] != 1
        elif number == 2 and isinstance(value, bytes):
            name = value.decode("utf-8", "surrogateescape")
        elif number == 3 and isinstance(value, int):
            tsize = value
        else:
            raise ValueError(f"field {number} has no place in a link")
    if target is None:
        raise ValueError("a link without a target")
    return Link(name, target, tsize, version_0)


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protobuf message: a varint is an int, a length-delimited field bytes."""
    at = 0
    while at < len(data):
        tag, at = decode_varint(data, at)
        if tag & 7 == 0:
            number, at = decode_varint(data, at)
            yield tag >> 3, number
        elif tag & 7 == 2:
            length, at = decode_varint(data, at)
            if length > len(data) - at:
                raise ValueError("cut inside a field")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")


def packed(data: bytes) -> list[int]:
    """The numbers of a packed field."""
    numbers = []
    at = 0
    while at < len(data):
        number, at = decode_varint(data, at)
        numbers.append(number)
    return numbers
