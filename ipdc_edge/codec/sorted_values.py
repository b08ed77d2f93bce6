"""Values that sort: the lines of a job whose reduce wants each key's values in order (`sort_values`).

Owns the encoding of one value such that sorting lines sorts values: `key NUL value`, one line a pair, the value
encoded as keys are (keys.py), in their documented order:

    None < False < True < int < float < str < bytes < tuple or list

Beside keys: lists stand where tuples do, and both come back as lists (as values do elsewhere); -0.0 comes back as it
was, just before 0.0; NaN and dicts are refused, for they have no place in an order.
"""

from __future__ import annotations

from ipdc_edge.codec import keys
from ipdc_edge.codec.keys import BadRecord, ValueNotCarried, decode_key
from ipdc_edge.codec.records import MAX_DEPTH, MAX_LINE
from ipdc_edge.codec.value_lines import Codec

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_ORDER = "values of a job that sorts them are None, bool, int, float, str, bytes, or tuples and lists of these"


def encode_value(value: object, key: object = None) -> str:
    """The encoded value as one-byte text. ValueNotCarried names type and key."""
    kind = type(value)
    if kind is str and value.isascii() and value.isprintable():  # type: ignore[attr-defined]
        return "S" + value  # type: ignore[operator]
    try:
        return _encode(value, key, MAX_DEPTH)
    except UnicodeEncodeError:
        reason = "it holds a lone surrogate, which has no place in UTF-8; clean it with encode('utf-8', 'replace')"
        raise keys.refuse("a value", value, reason, key) from None


def _encode(value: object, key: object, depth: int) -> str:
    if isinstance(value, (tuple, list)):
        if not depth:
            raise keys.refuse("a value", value, f"containers stand more than {MAX_DEPTH} deep in each other", key)
        return "Z" + "".join([_encode(item, key, depth - 1) + "\x02" for item in value]) + "\x01"
    if isinstance(value, float):
        if value != value:
            raise keys.refuse("a value", value, "NaN equals nothing, so it has no place in an order", key)
        if not value and str(float(value))[0] == "-":
            return _MINUS_ZERO
    elif isinstance(value, bytearray):
        value = bytes(value)
    elif not (value is None or isinstance(value, (int, str, bytes))):
        raise keys.refuse("a value", value, _NO_ORDER, key)
    return keys.encode_item(value, MAX_DEPTH)


_MINUS_ZERO = "R7fffffffffffffff"  # the greatest number below 0.0's "R8000000000000000"


def decode_value(text: str) -> object:
    """The value of its encoding. BadRecord for anything that encode_value would not have made."""
    if text[:1] == "S" and text.isascii() and text.isprintable():
        return text[1:]
    try:
        value = _listed(keys.decode_item(text, MAX_DEPTH))
        if encode_value(value) != text:
            raise BadRecord(f"a value in no canonical form: {ascii(text)[:200]}")
    except (ValueNotCarried, IndexError) as error:
        raise BadRecord(f"no value: {ascii(text)[:200]} ({error})") from None
    return value


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _no_singles(prefix: str, names: Sequence[str], lists: Sequence[Sequence[object]]) -> list[str]:
    return []


def _many(prefix: str, names: Sequence[str], lists: Sequence[Sequence[object]]) -> list[str]:
    """The lines of many keys, prefix + name each, one for each value."""
    lines: list[str] = []
    for name, values in zip(names, lists):
        head = f"{prefix}{name}\x00"
        try:
            made = [head + encode_value(value) for value in values]
        except ValueNotCarried:
            for value in values:  # the same, and names the key
                encode_value(value, decode_key(prefix + name))
            raise
        if made and max(map(len, made)) >= MAX_LINE:
            longest = max(range(len(made)), key=lambda number: len(made[number]))
            reason = f"it takes {len(made[longest])} bytes with its key, at most {MAX_LINE}"
            raise keys.refuse("a value", values[longest], reason, decode_key(prefix + name))
        lines += made
    return lines


def _decode(lines: list[str], start: int, end: int, encoded: str) -> list[object]:
    cut = len(encoded) + 1
    return [decode_value(line[cut:]) for line in lines[start:end]]


SORTED = Codec(_no_singles, _many, _decode, True)
