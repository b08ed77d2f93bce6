"""dag-cbor, as far as one must read it to follow links through it: the values are passed over; and lists of links.

Owns the walk over the bytes of a block. Never makes objects of them, so a block costs no more memory than it has, and
its nesting is bounded. Writes one kind of block only. Source: https://ipld.io/specs/codecs/dag-cbor/spec/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipdc_edge.codec.cid import cid_from_bytes, cid_from_parts, cid_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_NESTING = 128
_BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7
_LINK = 42  # the tag of a CID


class _Item(NamedTuple):
    """The head of a value: its major type, its number, and where its content begins."""

    major: int
    number: int
    at: int


def encode_list(words: Sequence[str], cids: Sequence[str]) -> bytes:
    """A block [*words, [links to these CIDs]]; without words the list of the links alone."""
    parts = [_encode_head(_LIST, len(words) + 1)] if words else []
    for word in words:
        text = word.encode()
        parts += [_encode_head(_TEXT, len(text)), text]
    parts.append(_encode_head(_LIST, len(cids)))
    for cid in cids:
        binary = b"\0" + cid_to_bytes(cid)  # the multibase prefix of binary
        parts += [_encode_head(_TAG, _LINK), _encode_head(_BYTES, len(binary)), binary]
    return b"".join(parts)


def _encode_head(major: int, number: int) -> bytes:
    """The shortest one, as dag-cbor wants it."""
    if number < 24:
        return bytes((major << 5 | number,))
    for extra, length in ((24, 1), (25, 2), (26, 4)):
        if number < 1 << 8 * length:
            return bytes((major << 5 | extra,)) + number.to_bytes(length, "big")
    raise ValueError(f"{number} of something in one block")


def links(data: bytes) -> Iterator[str]:
    """Every CID in the block, in the order of its bytes. ValueError, BadCid for what is no dag-cbor."""
    at, left = 0, [1]  # values that are still to come, on each level
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        item = _head(data, at)
        if item.major == _TAG:
            yield _link(data, item)
        at = item.at if item.major in (_LIST, _MAP) else _end(data, at)
        if item.major in (_LIST, _MAP):
            _check_count(data, item)
            left.append(item.number * (2 if item.major == _MAP else 1))
            _check_depth(len(left))
    if at != len(data):
        raise ValueError("bytes behind the value")


def follow(data: bytes, path: Sequence[bytes]) -> tuple[str | None, int]:
    """(link, how many names led to it); None where the path ends in this block. KeyError where it leads nowhere."""
    at = 0
    for used, name in enumerate(path):
        item = _head(data, at)
        if item.major == _TAG:
            return _link(data, item), used
        found = _entry(data, item, name)
        if found is None:
            raise KeyError(name)
        at = found
    item = _head(data, at)
    return (_link(data, item), len(path)) if item.major == _TAG else (None, len(path))


def _entry(data: bytes, item: _Item, name: bytes) -> int | None:
    """Where a map's or a list's entry of this name begins."""
    at = item.at
    _check_count(data, item)
    if item.major == _MAP:
        for _ in range(item.number):
            key = _head(data, at)
            behind = _end(data, at)
            if key.major == _TEXT and data[key.at : behind] == name:
                return behind
            at = _end(data, behind)
    elif item.major == _LIST and name.isdigit() and len(name) < 10 and int(name) < item.number:
        for _ in range(int(name)):
            at = _end(data, at)
        return at
    return None


def _end(data: bytes, at: int) -> int:
    """Where the value that begins here ends."""
    left = [1]
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        item = _head(data, at)
        at = item.at
        if item.major in (_BYTES, _TEXT):
            at += item.number
            if at > len(data):
                raise ValueError("cut inside a value")
        elif item.major in (_LIST, _MAP, _TAG):
            _check_count(data, item)
            left.append(1 if item.major == _TAG else item.number * (2 if item.major == _MAP else 1))
            _check_depth(len(left))
    return at


def _link(data: bytes, item: _Item) -> str:
    body = _head(data, item.at)
    content = data[body.at : body.at + body.number]
    if item.number != _LINK or body.major != _BYTES or len(content) != body.number or content[:1] != b"\0":
        raise ValueError("a tag that is no link")
    return cid_from_parts(cid_from_bytes(content[1:]))


def _head(data: bytes, at: int) -> _Item:
    if at >= len(data):
        raise ValueError("cut before a value")
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if short < 24:
        return _Item(major, short, at)
    if short > 27:
        raise ValueError("a length that dag-cbor does not know")
    width = 1 << (short - 24)
    if at + width > len(data):
        raise ValueError("cut inside a number")
    return _Item(major, int.from_bytes(data[at : at + width], "big"), at + width)


def _check_count(data: bytes, item: _Item) -> None:
    if item.major in (_LIST, _MAP) and item.number > len(data):  # every entry has a byte at least
        raise ValueError("more entries than bytes")


def _check_depth(depth: int) -> None:
    if depth > MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING}")
