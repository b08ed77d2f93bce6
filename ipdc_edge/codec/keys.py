"""Keys: their order, how they become one-byte text that sorts in it, and which partition a key belongs to.

Owns the encoding of keys, and the errors of whatever cannot travel. Never knows of values or lines (records.py).

Keys are ordered, and equal only to keys of the same type (so 1, 1.0 and True are three keys):

    None < False < True < int < float < str < bytes < tuple

ints and floats by value (-0.0 is 0.0; NaN is refused), str and bytes by their (UTF-8) bytes, as `LC_ALL=C
sort` has it, tuples item by item. The encoding is one tag letter and a body, such that comparing encoded keys
compares keys:

    None   A
    bool   B0 or B1
    int    I + length letter + hexadecimal digits, a negative one's complemented (see `_encode_int`)
    float  R + 16 hexadecimal digits of the IEEE bits, order-preserving
    str    S + the text
    bytes  X + the bytes
    tuple  Z + each item's encoding and 0x02 + 0x01

In str and bytes a byte c < 0x20 becomes 0x03, c + 0x40; so NUL, LF, 0x01 and 0x02 never occur in a body, and
since they are smaller than all that does, a prefix sorts before what it is a prefix of. str with surrogate
escapes (undecodable input bytes) is carried as those bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import filterfalse, repeat
from operator import mod

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_KEY = 64 * 1024  # bytes of one encoded key
MAX_DEPTH = 50  # of tuples within tuples in a key

_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">Q")
_SIGN, _ALL = 1 << 63, (1 << 64) - 1
_CONTROL = re.compile("[\x00-\x1f]")
_ESCAPED = re.compile("\x03([\x40-\x5f])")
_SHORT = 31  # hexadecimal digits of an int that one length letter can tell
_INT_BODY = re.compile("(?:[\x30-\x4e\x51-\x6f]|[/p][0-9a-f]{8})[0-9a-f]+")
_FLOAT_BODY = re.compile("[0-9a-f]{16}")
_ITEM_END, _TUPLE_END = "\x02", "\x01"


class BadRecord(ValueError):
    """Bytes that are no record: a peer's fault (or a broken disk's), never the user's code."""


class ValueNotCarried(IpdcError):
    """{role} of type {type} cannot travel between nodes{where}: {reason}"""


def refuse(role: str, thing: object, reason: str, key: object = None) -> ValueNotCarried:
    where = f" (key {ascii(key)[:200]})" if role == "a value" else f" ({ascii(thing)[:200]})"
    return ValueNotCarried(role=role, type=type(thing).__name__, where=where, reason=reason)


# Text and bytes as one-byte text


def to_line_text(text: str) -> str:
    """Any text (surrogate escapes allowed) as one-byte text. UnicodeEncodeError for other lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def from_line_text(text: str) -> str:
    """The inverse of to_line_text; total."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")


def encode_key(key: object) -> str:
    """The encoded key as one-byte text. ValueNotCarried for types (and NaN) that have no place in the order."""
    if type(key) is str and key.isascii() and key.isprintable():  # nearly all keys there are
        if len(key) < MAX_KEY:
            return "S" + key
    try:
        encoded = encode_item(key, MAX_DEPTH)
    except UnicodeEncodeError:
        reason = "it holds a lone surrogate, which has no place in UTF-8; clean it with encode('utf-8', 'replace')"
        raise refuse("a key", key, reason) from None
    if len(encoded) > MAX_KEY:
        raise refuse("a key", key, f"it takes {len(encoded)} bytes, at most {MAX_KEY}; make a key of its hash")
    return encoded


def not_plain(table: Iterable[str]) -> list[str]:
    """Those keys, all of which are str, that are no short printable ASCII text. The encoding of the others is
    "S" and themselves. C code looks at the keys."""
    names = [*filterfalse(str.isascii, table), *filterfalse(str.isprintable, filter(str.isascii, table))]
    if max(map(len, table), default=0) >= MAX_KEY:
        names += [name for name in table if len(name) >= MAX_KEY and name.isascii() and name.isprintable()]
    return names


def encode_item(key: object, depth: int) -> str:
    if isinstance(key, str):
        return "S" + _CONTROL.sub(_escape, to_line_text(str(key) if type(key) is str else str.__str__(key)))
    if key is None:
        return "A"
    if isinstance(key, bool):
        return "B1" if key else "B0"
    if isinstance(key, int):
        return "I" + _encode_int(int(key))
    if isinstance(key, float):
        return "R" + _encode_float(key)
    if isinstance(key, bytes):
        return "X" + _CONTROL.sub(_escape, key.decode("latin-1"))
    if isinstance(key, tuple):
        if not depth:
            raise refuse("a key", key, f"tuples stand more than {MAX_DEPTH} deep in each other")
        return "Z" + "".join([encode_item(item, depth - 1) + _ITEM_END for item in key]) + _TUPLE_END
    raise refuse("a key", key, "keys are None, bool, int, float, str, bytes, or tuples of these")


def _escape(match: re.Match[str]) -> str:
    return "\x03" + chr(ord(match[0]) + 0x40)


def _unescape(match: re.Match[str]) -> str:
    return chr(ord(match[1]) - 0x40)


def _encode_int(number: int) -> str:
    """m digits: the letter 0x50 + m, or "p" and eight digits of m beyond 31; negative: all of it mirrored."""
    if number >= 0:
        digits = f"{number:x}"
        length = len(digits)
        return (chr(0x50 + length) if length <= _SHORT else f"p{length:08x}") + digits
    length = (number.bit_length() + 3) // 4
    digits = f"{(1 << 4 * length) - 1 + number:0{length}x}"
    return (chr(0x4F - length) if length <= _SHORT else f"/{0xFFFFFFFF - length:08x}") + digits


def _encode_float(number: float) -> str:
    if number != number:
        raise refuse("a key", number, "NaN equals nothing, not even itself, so it has no place in an order")
    bits: int = _BITS.unpack(_DOUBLE.pack(number + 0.0))[0]  # -0.0 + 0.0 is 0.0
    return f"{bits ^ _ALL if bits & _SIGN else bits | _SIGN:016x}"


def decode_key(encoded: str) -> object:
    """The key of its encoding. BadRecord for anything that encode_key would not have made."""
    if encoded[:1] == "S" and encoded.isascii() and encoded.isprintable():
        return encoded[1:]
    try:
        key = decode_item(encoded, MAX_DEPTH)
        if encode_key(key) != encoded:  # another spelling would make two keys of one
            raise BadRecord(f"a key in no canonical form: {ascii(encoded)[:200]}")
    except (ValueNotCarried, IndexError) as error:
        raise BadRecord(f"no key: {ascii(encoded)[:200]} ({error})") from None
    return key


def decode_keys(names: list[str]) -> list[object]:
    """decode_key of each of these, which are sorted; by C code for plain text."""
    if names[0][:1] == names[-1][:1] == "S":
        whole = "".join(names)
        if whole.isascii() and whole.isprintable():
            return [name[1:] for name in names]
    return list(map(decode_key, names))


def decode_item(encoded: str, depth: int) -> object:
    tag, body = encoded[:1], encoded[1:]
    if tag == "S":
        return from_line_text(_ESCAPED.sub(_unescape, body))
    if tag == "I" and _INT_BODY.fullmatch(body):
        return _decode_int(body)
    if tag == "R" and _FLOAT_BODY.fullmatch(body):
        bits = int(body, 16)
        number: float = _DOUBLE.unpack(_BITS.pack(bits ^ _SIGN if bits & _SIGN else bits ^ _ALL))[0]
        return number
    if tag == "X":
        return _ESCAPED.sub(_unescape, body).encode("latin-1")
    if tag == "Z" and depth:
        return _decode_tuple(body, depth)
    if encoded in ("A", "B0", "B1"):
        return {"A": None, "B0": False, "B1": True}[encoded]
    raise BadRecord(f"no key: {ascii(encoded)[:200]}")


def _decode_int(body: str) -> int:
    """Length letters are not believed but checked by encoding again."""
    mark = body[0]
    digits = body[9:] if mark in "/p" else body[1:]
    if mark >= "P":
        return int(digits, 16)
    return int(digits, 16) - (1 << 4 * len(digits)) + 1


def _decode_tuple(body: str, depth: int) -> tuple[object, ...]:
    items: list[object] = []
    start = 0
    while body[start] != _TUPLE_END:
        end = _item_end(body, start)
        items.append(decode_item(body[start:end], depth - 1))
        start = end + 1
    if start != len(body) - 1:
        raise BadRecord("bytes after the end of a tuple")
    return tuple(items)


def _item_end(body: str, start: int) -> int:
    """Where the item that begins at `start` is followed by 0x02, passing over tuples within it."""
    if body[start] != "Z":
        return _found(body.find(_ITEM_END, start))
    start += 1
    depth = 1
    while depth:
        if body[start] == _TUPLE_END:
            depth -= 1
            start += 1
            if depth and body[start] != _ITEM_END:
                raise BadRecord("a tuple in a tuple that is not ended")
            start += depth > 0
        elif body[start] == "Z":
            depth += 1
            start += 1
        else:
            start = _found(body.find(_ITEM_END, start)) + 1
    if body[start] != _ITEM_END:
        raise BadRecord("a tuple in a tuple that is not ended")
    return start


def _found(index: int) -> int:
    if index < 0:
        raise BadRecord("a tuple that is not ended")
    return index


def partition_of(encoded: str, count: int) -> int:
    """0 <= partition < count of an encoded key: CRC-32 of its bytes, the same on every machine and in every
    process."""
    return zlib.crc32(encoded.encode("latin-1")) % count


def partitions_of(prefix: str, names: list[str], count: int) -> Iterator[int]:
    """partition_of(prefix + name, count) for each name, computed by C code."""
    begun = zlib.crc32(prefix.encode("latin-1"))
    data = map(str.encode, names, repeat("latin-1"))
    return map(mod, map(zlib.crc32, data, repeat(begun)), repeat(count))
