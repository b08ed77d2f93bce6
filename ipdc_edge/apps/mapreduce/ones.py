"""Pairs whose value is the int 1, counted instead of kept: what word counts, histograms and logs by status give.

Owns the table {key: how often}, what it weighs, and how it becomes a table of lists or lines of records. Never calls
combine. It serves while all keys are str and all values are 1 itself; the first pair that is another ends it, and the
sorter goes on with lists. A pair costs no memory here, and less than half the time of an append; what comes of it is
the same, since values that are all 1 have no order.
"""

from __future__ import annotations

from collections import Counter
from sys import getsizeof

from ipdc_edge.codec.keys import encode_key
from ipdc_edge.codec.records import LINE_TARGET

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterable

ONE = 1  # CPython has one object for it; another int 1, were there one, only ends the counting
# Bytes of a table's entry besides its key: the dict's slots, half empty, what it takes while it grows, and sometimes an
# int. With words of usual length a budget of 6 MB ends just before the dict would double (43,690 entries).
ENTRY = 88
VALUE = 2  # bytes that a value takes as text
SAMPLE = 16  # keys of a batch that are weighed
FREQUENT = 8  # from so many on a key is worth keeping when the others go
SMALL = 8  # a table that takes less than this part of a budget as lists becomes lists
MOST = LINE_TARGET // VALUE  # ones in a line
_TEXT = "1," * MOST


class Ones:
    """One sorter's table, as long as it lasts."""

    def __init__(self, combined: bool) -> None:
        """combined: whether all values of a key become few before they are written."""
        self.table: Counter[str] = Counter()
        self.given = 0  # pairs in the table
        self.text = 0.0  # of the keys of the last batch, bytes on the average
        self._combined = combined
        self._key_bytes = 60.0  # on the average of late
        self._turn = 0

    def take(self, batch: list[tuple[object, object]]) -> bool:
        """Counts a batch; False, and nothing is counted, when it has another pair. TypeError, ValueError: no pairs."""
        keys = [key for key, value in batch if value is ONE and type(key) is str]
        if len(keys) != len(batch):
            return False
        self.table.update(keys)
        self.given += len(keys)
        self._turn += 1
        step = len(keys) // SAMPLE + 1
        sample = keys[self._turn % step :: step] or keys
        self._key_bytes += (sum(map(getsizeof, sample)) / len(sample) - self._key_bytes) / 8
        self.text = sum(map(len, sample)) / len(sample)
        return True

    def used(self) -> float:
        """Bytes of memory, those of the lines that it will become included where they may be long."""
        return len(self.table) * (ENTRY + self._key_bytes) + (0 if self._combined else self.given * VALUE)

    def frequent(self) -> Counter[str]:
        """What had better stay when the rest is spilled, since it would come again at once: none where much would."""
        if not self._combined:
            return Counter()
        kept = {key: count for key, count in self.table.items() if count >= FREQUENT}
        return Counter(kept) if len(kept) * 3 < len(self.table) else Counter()

    def leave(self, kept: Counter[str]) -> Counter[str]:
        """The table without what is kept, which stays."""
        gone, self.table = self.table, kept
        for key in kept:
            del gone[key]
        self.given = kept.total()
        return gone

    def lists(self, budget: int) -> dict[object, list[object]] | None:
        """The table with lists of values; None when they would take too much of a budget."""
        if self.given * 8 > budget // SMALL:
            return None
        return {key: [ONE] * count for key, count in self.table.items()}


def put_encoded(others: dict[str, int], names: list[str], table: dict[str, int]) -> None:
    """Moves these keys out of the table to the others, under their encoding; two spellings of the same bytes become
    one."""
    for key in names:
        name = encode_key(key)
        others[name] = others.get(name, 0) + table.pop(key)


def long_ones(names: list[str], counts: list[int]) -> None:
    """A name with more ones than a line may have comes several times, in place."""
    if max(counts) > MOST:
        for number, count in enumerate(counts[:]):
            whole, rest = divmod(count - 1, MOST)
            counts[number] = rest + 1
            names += [names[number]] * whole
            counts += [MOST] * whole


def lines_of(tag: str, names: Iterable[str], counts: Iterable[int]) -> list[str]:
    """The record lines of keys, tag + name each, in step with them; no count is more than MOST."""
    return [f"{tag}{name}\x00{_TEXT[: count + count - 1]}" for name, count in zip(names, counts)]
