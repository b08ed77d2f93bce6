"""Records: how (key, values) pairs of user code become lines that sort by key, and back.

Owns the order of keys, their encoding and that of values, and which partition a key belongs to. Never touches
a file and never decides how records are grouped. A record is one line (without its LF here):

    key NUL value[,value...]

one key with one or more of its values: neighbours of one key share a line, which is what keeps a job without
`combine` small. In memory a line is `str` in which each character stands for one byte (latin-1 of the UTF-8
bytes): CPython sorts and searches one-byte text in place, some 1.4 times as fast as `bytes`, and the order is
that of the bytes.

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

Values are JSON (ensure_ascii off, compact); bytes as DAG-JSON {"/": {"bytes": base64 without padding}}
(https://ipld.io/specs/codecs/dag-json/spec/#bytes). A tuple comes back as a list, as in any JSON.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from itertools import chain, filterfalse, repeat
from json.encoder import encode_basestring
from operator import mod

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeVar

    Value = TypeVar("Value")

MAX_LINE = 1024 * 1024  # bytes of one record line; readers hold one line of each run
MAX_KEY = 64 * 1024  # bytes of one encoded key
LINE_TARGET = 8 * 1024  # bytes of values after which another line is begun
MOST_INTS = 64 * 1024  # bytes of text that become lists of ints at once
MAX_DEPTH = 50  # of tuples within tuples in a key, of containers within containers in a value

_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">Q")
_SIGN, _ALL = 1 << 63, (1 << 64) - 1
_CONTROL = re.compile("[\x00-\x1f]")
_ESCAPED = re.compile("\x03([\x40-\x5f])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = 31  # hexadecimal digits of an int that one length letter can tell
_INT_BODY = re.compile("(?:[\x30-\x4e\x51-\x6f]|[/p][0-9a-f]{8})[0-9a-f]+")
_FLOAT_BODY = re.compile("[0-9a-f]{16}")
_ITEM_END, _TUPLE_END = "\x02", "\x01"

_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_json_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_WORD = 1 << 62  # ints up to here need no thought about their length
_SIMPLE = frozenset((str, int, float, bool, type(None)))


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


# Keys


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


def without_plain(table: dict[Any, Value]) -> dict[Any, Value]:
    """Takes from a table all keys, which are str, but those of short printable ASCII text, whose encoding is "S" and
    themselves; gives what it took, in the same order. C code looks at the keys."""
    names = dict.fromkeys(chain(filterfalse(str.isascii, table), filterfalse(str.isprintable, table)))
    if max(map(len, table), default=0) >= MAX_KEY:
        names.update(dict.fromkeys([name for name in table if len(name) >= MAX_KEY]))
    return {name: table.pop(name) for name in names}


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


# Values


def encode_singles(prefix: str, names: Sequence[str], lists: Sequence[Sequence[object]]) -> list[str]:
    """The lines of many keys, prefix + name each, in step with them, if each has one int; else an empty list."""
    if max(map(len, lists), default=0) == min(map(len, lists), default=0) == 1:
        values = [value for (value,) in lists]
        if set(map(type, values)) == {int} and -_WORD < min(values) and max(values) < _WORD:  # type: ignore[type-var,operator]
            return [f"{prefix}{name}\x00{value}" for name, value in zip(names, values)]
    return []


def encode_many(prefix: str, names: Sequence[str], lists: Sequence[Sequence[object]]) -> list[str]:
    """The lines of many keys, prefix + name each; several for a key with much to carry, none for one without
    values."""
    lines: list[str] = []
    for name, values in zip(names, lists):
        if values:
            lines += encode_lines(prefix + name, values)
    return lines


def encode_lines(encoded: str, values: Sequence[object]) -> list[str]:
    """The record lines of an encoded key and its values, in their order. ValueNotCarried names type and key."""
    prefix = encoded + "\x00"
    if len(values) == 1:
        value = values[0]
        if type(value) is int and -_WORD < value < _WORD:
            return [f"{prefix}{value}"]
    lines = []
    start, step = 0, 256
    while start < len(values):
        try:
            text = _encode_values(values[start : start + step], None)
        except ValueNotCarried:
            _encode_values(values[start : start + step], decode_key(encoded))  # the same, and names the key
            raise
        if len(text) > LINE_TARGET and step > 1:
            # Too long for one line: try again with as many as should fit.
            step = max(1, min(step - 1, step * LINE_TARGET // len(text)))
            continue
        if len(text) + len(prefix) >= MAX_LINE:
            reason = f"it takes {len(text)} bytes, with its key at most {MAX_LINE}"
            raise refuse("a value", values[start], reason, decode_key(encoded))
        lines.append(f"{prefix}{text}")
        start += step
    return lines


def _encode_values(values: Sequence[object], key: object) -> str:
    """Values as JSON joined by commas, in one-byte text. ValueNotCarried names the type and the key."""
    kinds = set(map(type, values))
    try:
        if len(kinds) == 1:
            kind = next(iter(kinds))
            if kind is int:
                return ",".join(map(str, values))
            if kind is str:
                return to_line_text(",".join(map(encode_basestring, values)))  # type: ignore[arg-type]
        if not kinds <= _SIMPLE:
            values = [_plain(value, key, MAX_DEPTH) for value in values]
        text = _json_text(values)[1:-1]
        try:
            return to_line_text(text)
        except UnicodeEncodeError:
            return _json_ascii(values)[1:-1]
    except UnicodeEncodeError:  # a lone surrogate that is no undecodable byte: JSON can spell it
        return _json_ascii(values)[1:-1]
    except ValueError as error:  # an int of more digits than this interpreter turns into text
        raise refuse("a value", max(values, key=lambda value: isinstance(value, int)), str(error), key) from None


def value_text(value: object, key: object) -> str:
    """A value as people read it in a result: JSON as in a record, but as real text. ValueNotCarried as above."""
    return from_line_text(_encode_values((value,), key))


def json_text(values: Sequence[object], key: object) -> str:
    """Values as one JSON text joined by commas, which UTF-8 can carry: surrogates are escaped. ValueNotCarried."""
    try:
        plain = [_plain(value, key, MAX_DEPTH) for value in values]
        text = _json_text(plain)
        return (text if _SURROGATE.search(text) is None else _json_ascii(plain))[1:-1]
    except ValueError as error:  # an int of more digits than this interpreter turns into text
        raise refuse("a value", values, str(error), key) from None


def _plain(value: object, key: object, depth: int) -> object:
    """The value in JSON's own types; refuses what JSON would change in silence."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return {"/": {"bytes": b2a_base64(value, newline=False).rstrip(b"=").decode("ascii")}}
    if not depth:
        raise refuse("a value", value, f"containers stand more than {MAX_DEPTH} deep in each other", key)
    if isinstance(value, (list, tuple)):
        return [_plain(item, key, depth - 1) for item in value]
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise refuse("a value", value, f"its key {ascii(name)[:80]} is not a str", key)
        if "/" in value:
            raise refuse("a value", value, 'the key "/" is reserved by DAG-JSON', key)
        return {name: _plain(item, key, depth - 1) for name, item in value.items()}
    reason = "values are None, bool, int, float, str, bytes, or lists, tuples and dicts (with str keys) of these"
    raise refuse("a value", value, reason, key)


def _revive(found: dict[str, object]) -> object:
    inner = found.get("/")
    if inner is None:
        return found
    text = inner.get("bytes") if isinstance(inner, dict) and len(inner) == 1 and len(found) == 1 else None
    if not isinstance(text, str):
        raise BadRecord('a value with the reserved key "/" that is not bytes')
    try:
        return a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        raise BadRecord("bytes in a value that are no base64") from None


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_scan_bytes = json.JSONDecoder(object_hook=_revive).scan_once  # type: ignore[attr-defined]


def decode_ints(texts: Sequence[str], begins: Sequence[int], ends: Sequence[int]) -> list[list[object]] | None:
    """The values of texts[begin:end] for each begin and end, which cover all of these parts of lines after NUL: if all
    are ints without a sign, and not very many; else None. One call of C code reads them all."""
    whole = ",".join(texts)
    if len(whole) > MOST_INTS or not all(texts) or not whole.replace(",", "").isdecimal():  # so nothing can end a list
        return None
    listing = f"[[{'],['.join([','.join(texts[one:after]) for one, after in zip(begins, ends)])}]]"
    try:
        values: list[list[object]] = _scan(listing, 0)[0]
    except (ValueError, StopIteration):
        return None
    return values


def decode_values(text: str) -> list[object]:
    """The values of a line's part after NUL, or of several such parts joined by commas. BadRecord for
    anything else."""
    if text.isdecimal() and len(text) < 20:
        return [int(text)]
    if not text.isascii():
        text = from_line_text(text)
    listing = f"[{text}]"
    scan = _scan_bytes if '{"/":' in text else _scan
    try:
        values: list[object]
        values, end = scan(listing, 0)
    except (ValueError, StopIteration, RecursionError) as error:
        raise BadRecord(f"no values: {ascii(text)[:200]} ({error})") from None
    if end != len(listing) or not values:
        raise BadRecord(f"no values: {ascii(text)[:200]}")
    return values
