"""Mapping: the user's map over lines, as one stream of pairs.

Owns how map and map_lines are called. Never stores a pair. The loops over lines and over the pairs of a line
run in C (itertools), so that a word costs little more than in a loop written by hand.
"""

from __future__ import annotations

from itertools import chain

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipdc_edge.apps.mapreduce.lines import LineSource

    Pairs = Iterator[tuple[object, object]]

CO_GENERATOR = 0x20  # inspect.CO_GENERATOR; that module costs 2 MB


def without_none(function: Callable[..., object]) -> Callable[..., Iterable[tuple[object, object]]]:
    """The function itself when it is a generator function; else one that turns its None into no pairs."""
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & CO_GENERATOR:
        return function  # type: ignore[return-value]

    def call(*arguments: object) -> Iterable[tuple[object, object]]:
        pairs = function(*arguments)
        return () if pairs is None else pairs  # type: ignore[return-value]

    return call


def mapped_pairs(function: Callable[..., object], source: LineSource) -> Pairs:
    """All pairs of `map(key, line)` over the source's lines; key is the line's byte offset."""
    call = without_none(function)
    return chain.from_iterable(chain.from_iterable(map(call, offsets, lines) for offsets, lines in source.chunks()))


def mapped_lines(function: Callable[..., object], source: LineSource) -> Pairs:
    """All pairs of `map_lines(lines)`, which is called once with an iterator over all lines."""
    pairs = without_none(function)(chain.from_iterable(lines for _offsets, lines in source.chunks()))
    return iter(pairs)
