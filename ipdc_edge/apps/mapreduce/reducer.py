"""Reducing: sorted lines grouped by key, each group's values as an iterator that is never held in memory.

Owns the grouping. Never sorts and never writes. Lines are taken apart some hundreds at a time by C code, which also
makes ints of values that are ints; other values are decoded a key at a time by the JSON scanner. Only when the user's
function reads on past a batch is the next one fetched, and what it leaves unread is skipped.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import chain, compress, count, islice, repeat, starmap
from operator import add, ne

from ipdc_edge.apps.mapreduce.calls import Calls
from ipdc_edge.apps.mapreduce.mapper import without_none
from ipdc_edge.apps.mapreduce.merge import group_end, key_of
from ipdc_edge.codec.keys import BadRecord, decode_key, decode_keys
from ipdc_edge.codec.records import decode_ints
from ipdc_edge.codec.value_lines import plain_values

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Pairs = Iterator[tuple[object, object]]

NO_KEY = object()
WINDOW = 512  # lines that are taken apart at a time, by C code


class Groups:
    """(key, values) for each key of sorted batches of lines. BadRecord for lines that are no records."""

    def __init__(
        self,
        batches: Iterable[list[str]],
        progress: Callable[[int, int], None],
        decode: Callable[[list[str], int, int, str], list[object]] = plain_values,
    ) -> None:
        """decode: see value_lines.Codec."""
        self._batches = iter(batches)
        self._decode = decode
        self._progress = progress
        self._lines: list[str] = []
        self._start = 0
        self._calls = Calls()
        self.records = 0  # lines
        self.groups = 0

    @property
    def key(self) -> object:
        """Of the group that was given out last, or NO_KEY."""
        return next(iter(self._calls.under_way()), NO_KEY)

    def __iter__(self) -> Iterator[tuple[object, Iterator[object]]]:
        return chain.from_iterable(self._several())

    def _several(self) -> Iterator[Iterator[tuple[object, Iterator[object]]]]:
        """The groups, some at a time, so that C code walks through them."""
        while self._more():
            lines, start = self._lines, self._start
            last = key_of(lines[-1])  # may go on in the next batch
            self._start = bisect_left(lines, last + "\x00", start)
            for keys, lists in self._whole(lines, start, self._start):
                self.groups += len(keys)
                yield zip(self._calls.begin(keys), map(iter, lists))
            self.groups += 1
            yield zip(self._calls.begin([decode_key(last)]), [self._across(last)])
            self._skip(last)

    def _whole(self, lines: list[str], start: int, end: int) -> Iterator[tuple[list[object], Iterable[list[object]]]]:
        """(keys, the values of each) for some groups at a time. lines[start:end] has all lines of its keys."""
        while start < end:
            stop = min(start + WINDOW, end)
            if stop < end:  # where a group ends
                name = key_of(lines[stop - 1])
                if lines[stop].startswith(name + "\x00"):
                    stop = bisect_left(lines, name + "\x00", start, stop)
                    if stop == start:
                        stop = group_end(lines, start, name)
            names, marks, texts = zip(*map(str.partition, lines[start:stop], repeat("\x00")))
            if "" in marks:
                raise BadRecord("a record without NUL between key and values")
            begins = [0, *compress(count(1), map(ne, islice(names, 1, None), names))]
            ends = [*begins[1:], stop - start]
            firsts = list(map(names.__getitem__, begins))
            lists: Iterable[list[object]] | None = None
            if self._decode is plain_values:
                lists = decode_ints(texts, begins, ends)
            if lists is None:
                absolute = partial(add, start)
                lists = map(self._decode, repeat(lines), map(absolute, begins), map(absolute, ends), firsts)
            yield decode_keys(firsts), lists
            start = stop

    def _more(self) -> bool:
        """Whether there is a line to look at; fetches the next batch when this one is used up."""
        while self._start >= len(self._lines):
            lines = next(self._batches, None)
            if lines is None:
                return False
            self._lines, self._start = lines, 0
            self.records += len(lines)
            self._progress(self.records, 0)
        return True

    def _across(self, encoded: str) -> Iterator[object]:
        """The values of a key that may go on in the next batches."""
        while self._more() and self._lines[self._start].startswith(encoded + "\x00"):
            start = self._start
            self._start = end = group_end(self._lines, start, encoded)
            yield from self._decode(self._lines, start, end, encoded)

    def _skip(self, encoded: str) -> None:
        """Past the rest of a key, undecoded."""
        while self._more() and self._lines[self._start].startswith(encoded + "\x00"):
            self._start = group_end(self._lines, self._start, encoded)


def reduced_pairs(reduce: Callable[..., object], groups: Groups) -> Pairs:
    """All pairs that the user's reduce gives for the groups; the loop over groups runs in C but for the grouping."""
    results: Iterator[Iterable[tuple[object, object]]]
    results = starmap(without_none(reduce), groups)
    return chain.from_iterable(results)
