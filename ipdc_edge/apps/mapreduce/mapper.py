"""Mapping: the user's map over records, or over the pairs of the step before, as one stream of pairs.

Owns how map and map_lines are called. Never stores a pair. The loops over records and over the pairs of a record
run in C (itertools), so that a word costs little more than in a loop written by hand.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, starmap

from ipdc_edge.apps.mapreduce.context import code_of
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from ipdc_edge.apps.mapreduce.source import Source

    Pairs = Iterator[tuple[object, object]]

CO_GENERATOR = 0x20  # inspect.CO_GENERATOR; that module costs 2 MB


class NoPair(IpdcError):
    """a function must yield (key, value) pairs, and gave {thing}: `yield key, value` for each, not `return`"""


def without_none(function: Callable[..., object]) -> Callable[..., Iterable[tuple[object, object]]]:
    """The function itself when it is a generator function; else one that turns its None into no pairs."""
    code = code_of(function.func if isinstance(function, partial) else function)
    if code is not None and code.co_flags & CO_GENERATOR:
        return function  # type: ignore[return-value]

    def call(*arguments: object) -> Iterable[tuple[object, object]]:
        pairs = function(*arguments)
        return () if pairs is None else pairs  # type: ignore[return-value]

    return call


def source_pairs(source: Source) -> Pairs:
    """(offset, record) of each record, as a step without map passes them on."""
    return chain.from_iterable(zip(offsets, records) for offsets, records in source.chunks())


def mapped_pairs(function: Callable[..., object], source: Source) -> Pairs:
    """All pairs of `map(key, record)` over the source's records; key is the line's byte offset."""
    call = without_none(function)
    return chain.from_iterable(chain.from_iterable(map(call, offsets, lines) for offsets, lines in source.chunks()))


def mapped_lines(function: Callable[..., object], source: Source) -> Pairs:
    """All pairs of `map_lines(records)`, which is called once with an iterator over all records."""
    pairs = without_none(function)(chain.from_iterable(records for _offsets, records in source.chunks()))
    return iter(pairs)


def mapped_again(function: Callable[..., object], pairs: Pairs) -> Pairs:
    """All pairs of `map(key, value)` over the pairs of the step before."""
    return chain.from_iterable(starmap(without_none(function), pairs))


def mapped_stream(function: Callable[..., object], pairs: Pairs) -> Pairs:
    """All pairs of a map that is called once, with an iterator over the pairs of the step before."""
    return iter(without_none(function)(pairs))


def refuse_no_pair(batch: list[Any]) -> None:
    """NoPair for the first of what a map gave that is no pair; nothing when all are."""
    for thing in batch:
        try:
            _key, _value = thing
        except (TypeError, ValueError):
            raise NoPair(thing=f"{ascii(thing)[:200]} of type {type(thing).__name__}") from None
