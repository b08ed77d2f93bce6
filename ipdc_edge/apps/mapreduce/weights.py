"""How much memory keys and values take, and how much text they are: estimates, for a budget and a bound.

Owns the bound of what a task gives into the shuffle. Never looks at more of the pairs than it is shown.
"""

from __future__ import annotations

from sys import getsizeof

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable

PAIR = 8  # bytes that a pair counts beside its text


class OutputTooBig(IpdcError):
    """the task gave more than {megabytes} MB of pairs, and may give {limit} MB: does the program ever end? If so, allow
    it more: --output-limit"""


class Given:
    """Text that a task has given."""

    def __init__(self, most: Callable[[], int] | None) -> None:
        """most(): bytes that there may be by now; without it there is no bound."""
        self.bounded = most is not None
        self._most = most
        self._bytes = 0.0

    def add(self, pairs: int, text: float) -> None:
        """text: bytes of a pair, on the average. OutputTooBig when that is more than there may be."""
        assert self._most is not None
        self._bytes += pairs * (PAIR + text)
        if self._bytes > self._most():
            raise OutputTooBig(megabytes=int(self._bytes) >> 20, limit=self._most() >> 20)


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
