"""How much memory keys and values take, and how much text they are: estimates, for a budget and a bound. Pure."""

from __future__ import annotations

from sys import getsizeof


def weight_of(value: object, depth: int = 3) -> int:
    """Bytes that a value takes besides the list's slot; small ints, bools and None are shared."""
    kind = type(value)
    if kind is int:
        return 0 if -5 <= value <= 256 else 32  # type: ignore[operator]
    if value is None or kind is bool:
        return 0
    size = getsizeof(value)
    if depth and isinstance(value, (tuple, list)):
        size += sum([weight_of(item, depth - 1) for item in value])
    elif depth and isinstance(value, dict):
        size += sum([getsizeof(name) + weight_of(item, depth - 1) for name, item in value.items()])
    return size


def text_length(thing: object) -> int:
    """Bytes of text, roughly."""
    return len(thing) if isinstance(thing, (str, bytes)) else 4
