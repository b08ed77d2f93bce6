"""Records: how (key, values) pairs of user code become lines that sort by key, and back.

Owns the lines and the encoding of values; that of keys, and their order, is keys.py's. Never touches a file and never
decides how records are grouped. A record is one line (without its LF here):

    key NUL value[,value...]

one key with one or more of its values: neighbours of one key share a line, which is what keeps a job without
`combine` small. In memory a line is `str` in which each character stands for one byte (latin-1 of the UTF-8
bytes): CPython sorts and searches one-byte text in place, some 1.4 times as fast as `bytes`, and the order is
that of the bytes.

Values are JSON (ensure_ascii off, compact); bytes as DAG-JSON {"/": {"bytes": base64 without padding}}
(https://ipld.io/specs/codecs/dag-json/spec/#bytes). A tuple comes back as a list, as in any JSON.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from json.encoder import encode_basestring

from ipdc_edge.codec.keys import BadRecord, ValueNotCarried, decode_key, from_line_text, refuse, to_line_text

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LINE = 1024 * 1024  # bytes of one record line; readers hold one line of each run
LINE_TARGET = 8 * 1024  # bytes of values after which another line is begun
MOST_INTS = 64 * 1024  # bytes of text that become lists of ints at once
MAX_DEPTH = 50  # of containers within containers in a value

_SURROGATE = re.compile("[\ud800-\udfff]")
_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_json_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_WORD = 1 << 62  # ints up to here need no thought about their length
_SIMPLE = frozenset((str, int, float, bool, type(None)))


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
    parts = texts
    if len(begins) < len(texts):
        parts = [",".join(texts[one:after]) for one, after in zip(begins, ends)]
    listing = f"[[{'],['.join(parts)}]]"
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
