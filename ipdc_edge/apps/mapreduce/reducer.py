"""Reducing: sorted lines grouped by key, each group's values as an iterator that is never held in memory.

Owns the grouping. Never sorts and never writes. Values are decoded a batch of lines at a time by the JSON
scanner; only when the user's function reads on past a batch is the next one fetched, and what it leaves
unread is skipped.
"""

from __future__ import annotations

from itertools import chain, starmap

from ipdc_edge.apps.mapreduce.mapper import without_none
from ipdc_edge.apps.mapreduce.merge import group_end, key_of
from ipdc_edge.codec.records import decode_key
from ipdc_edge.codec.value_lines import plain_values

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Pairs = Iterator[tuple[object, object]]

NO_KEY = object()


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
        self.key: object = NO_KEY  # of the group given out last
        self.records = 0  # lines
        self.groups = 0

    def __iter__(self) -> Iterator[tuple[object, Iterator[object]]]:
        decode = self._decode
        while self._more():
            lines, start = self._lines, self._start
            count = len(lines)
            while start < count:
                encoded = key_of(lines[start])
                end = group_end(lines, start, encoded)
                self.key = key = decode_key(encoded)
                self.groups += 1
                if end < count:
                    yield key, iter(decode(lines, start, end, encoded))
                    start = end
                else:
                    self._start = start
                    values = self._across(encoded)
                    yield key, values
                    self._skip(encoded)
                    break

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
