"""Sorting pairs by partition and key, within a budget of memory, combining on the way.

Owns the table of pairs, when it is folded by the user's combine, and when it is spilled as sorted runs. Never reads
input. Pairs are kept as {key: [values]}: a list append for each pair is the least that Python can do, a key's bytes
are encoded once for all its values, and only distinct keys are sorted; values that are all 1 are only counted
(ones.py). When the table has reached its budget, long
lists are folded by combine; when that does not give back enough, everything is written to scratch as one sorted run
for each partition. Without combine, a table in which keys hardly repeat becomes sorted text in memory long before that
(packed.py), and only the text is spilled. At the end all spills, the text and the table are merged, once more through
combine, into one run for each partition. The order of values within a key is fixed by the input and the budget, so
attempts agree byte for byte.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, islice, repeat

from ipdc_edge.apps.mapreduce.calls import Calls
from ipdc_edge.apps.mapreduce.mapper import refuse_no_pair, without_none
from ipdc_edge.apps.mapreduce.merge import merge, merge_runs
from ipdc_edge.apps.mapreduce.ones import ONE, Ones, lines_of, long_ones, put_encoded
from ipdc_edge.apps.mapreduce.packed import MOST_RUNS, Packed
from ipdc_edge.apps.mapreduce.partitioner import Partitioner
from ipdc_edge.apps.mapreduce.recombine import WRITE_LINES, recombined, regrouped, through_command
from ipdc_edge.apps.mapreduce.weights import Given, text_length, weight_of
from ipdc_edge.codec.keys import decode_key, encode_key, not_plain
from ipdc_edge.codec.runs import RunWriter
from ipdc_edge.codec.value_lines import PLAIN

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ipdc_edge.apps.mapreduce.merge import Blocks
    from ipdc_edge.apps.mapreduce.partitioner import Buckets
    from ipdc_edge.codec.value_lines import Codec
    from ipdc_edge.runner.scratch import Scratch, Segment

    Combine = Callable[[object, Iterator[object]], Iterable[tuple[object, object]] | None]
    Pairs = Iterator[tuple[object, object]]
    Table = dict[object, list[object]]

FIRST_BATCH, MOST_BATCH = 16, 256  # pairs between two looks at the budget
SAMPLE = 16  # pairs of a batch that are weighed
FOLD_FROM = 8  # values of a key that make folding worth a call
FOLD_GAIN = 0.7  # of the budget: what folding must come below, or the table is spilled
PACK_TABLE = 0.25  # of the budget: a table of keys that hardly repeat is packed when it takes so much,
PACK_REPEATS = 2  # which are those with fewer pairs than this on the average;
PACK_TEXT = 0.625  # of the budget: packed text that is spilled
ENTRY = 140  # bytes of a table's entry besides key and values: the list object, its first slots, the dict's slots
LINE = 16  # bytes of memory of a line besides key and value, where each value has its own
_TEXT_ONLY = frozenset((str,))


class Sorter:
    """Takes pairs, gives one sorted run for each of `partitions`. One sorter serves one task."""

    def __init__(
        self,
        budget: int,
        partitions: int,
        combine: Combine | None,
        scratch: Scratch,
        partition: Callable[[object, int], int] | None = None,
        codec: Codec = PLAIN,
        combiner: Callable[[Pairs], Pairs] | None = None,
        most: Callable[[], int] | None = None,
    ) -> None:
        """partition(key, count): the user's, instead of the key's hash; combiner: takes the sorted pairs of a
        partition and gives others, as a command does, instead of combine; most(): bytes of text that may have been
        given by now."""
        self._given = Given(most)
        self._codec = codec
        self._partitions = partitions
        self._partitioner = Partitioner(partitions, partition)
        self._combiner = combiner
        self._budget = budget
        self._combine = None if combine is None else without_none(combine)
        self._scratch = scratch
        self._ones: Ones | None = None if codec.by_line else Ones(combine is not None)  # as long as it serves
        self._table: Table = {}
        # Only while keys that are no str occur. Python takes 1, 1.0 and True for one key: a table for each type.
        self._typed: dict[type, Table] | None = None
        self._encoded: Table = {}  # keys of other types still, by their encoding
        self._packed = Packed(partitions, budget)
        self._packs = combine is None and combiner is None  # what combines had better see all pairs of a key
        self._spills: list[list[list[Segment]]] = []  # [spill][partition] -> blocks
        self._value_bytes = 0.0
        self._key_bytes = 60.0  # of a key, on the average of late
        self._turn = 0
        self._waiting = 0  # pairs in the table
        self.pairs = 0
        self._calls = Calls()  # of combine

    @property
    def spills(self) -> int:
        """How many times the table, or packed text, went to scratch."""
        return len(self._spills)

    def add(self, pairs: Iterator[tuple[object, object]]) -> None:
        """All pairs of an iterator. ValueNotCarried for keys or values that cannot travel; the user's own errors."""
        size = FIRST_BATCH
        while batch := list(islice(pairs, size)):
            try:
                counted = self._ones is not None and self._count(batch)
                if not counted:
                    (self._take_text if self._typed is None else self._take_any)(batch)
            except (TypeError, ValueError):
                refuse_no_pair(batch)
                raise
            mean = 0.0 if counted else self._weigh(batch)
            self._waiting += len(batch)
            used = self._used()
            if used > self._budget * PACK_TABLE and self._packs and self._hardly_repeats():
                self._pack()
            elif used + self._packed.bytes > self._budget:
                self._make_room()
            # Big values: look at the budget more often.
            size = max(1, min(MOST_BATCH, size * 2, int(self._budget // (16 * (mean + ENTRY)))))

    def _count(self, batch: list[tuple[object, object]]) -> bool:
        """Counts a batch of ones. False for any other, before which the table of ones becomes one of lists."""
        ones = self._ones
        assert ones is not None
        if ones.take(batch):
            if self._given.bounded:
                self._given.add(len(batch), ones.text + 4)
            return True
        lists = ones.lists(self._budget)
        if lists is None:
            self._spill(last=True)  # the table goes: nothing may stay in it
        else:
            self._table, self._value_bytes = lists, 8.0 * ones.given
        self._ones = None
        return False

    def _weigh(self, batch: list[tuple[object, object]]) -> float:
        """Counts a batch by a sample spread over it: what a map yields may have a pattern. The mean of a value."""
        step = len(batch) // SAMPLE + 1
        self._turn += 1
        sample = batch[self._turn % step :: step] or batch[:1]
        weight = 8 + sum([weight_of(value) for _, value in sample]) / len(sample)
        self._key_bytes += (sum([weight_of(key) for key, _ in sample]) / len(sample) - self._key_bytes) / 8
        if self._codec.by_line:
            weight += LINE + self._key_bytes
        self._value_bytes += len(batch) * weight
        if self._given.bounded:
            text = sum([text_length(key) + text_length(value) for key, value in sample]) / len(sample)
            self._given.add(len(batch), text)
        return weight

    def _take_text(self, batch: list[tuple[object, object]]) -> None:
        """The inner loop of nearly every job."""
        table = self._table
        rest = iter(batch)
        for key, value in rest:
            try:
                table[key].append(value)
            except KeyError:
                if type(key) is not str:
                    break
                table[key] = [value]
            except TypeError:
                encode_key(key)  # says what a key may be
                raise
        else:
            return
        self._typed = {str: table, int: {}, float: {}, bool: {}, bytes: {}, type(None): {}, tuple: {}}
        self._add_any(key, value)
        self._take_any(list(rest))

    def _take_any(self, batch: list[tuple[object, object]]) -> None:
        """The same for keys of mixed types."""
        typed = self._typed
        assert typed is not None
        for key, value in batch:
            kind = type(key)
            if kind is tuple and not _TEXT_ONLY.issuperset(map(type, key)):  # type: ignore[call-overload]
                self._add_any(key, value)
                continue
            try:
                typed[kind][key].append(value)
            except KeyError:
                self._add_any(key, value)
            except TypeError:
                encode_key(key)
                raise

    def _add_any(self, key: object, value: object) -> None:
        assert self._typed is not None
        kind = type(key)
        table = self._typed.get(kind)
        if table is None or (kind is tuple and not _TEXT_ONLY.issuperset(map(type, key))):  # type: ignore[call-overload]
            table, key = self._encoded, encode_key(key)
        elif key != key:
            encode_key(key)  # NaN: refused at once, it would never meet itself
        table.setdefault(key, []).append(value)

    # Memory

    def _tables(self) -> list[Table]:
        return [self._table] if self._typed is None else [*self._typed.values(), self._encoded]

    def _used(self) -> float:
        if self._ones is not None:
            return self._ones.used()
        total = self._value_bytes
        return total + sum(map(len, self._tables())) * (ENTRY + self._key_bytes)

    def _hardly_repeats(self) -> bool:
        keys = len(self._ones.table) if self._ones is not None else sum(map(len, self._tables()))
        return self._waiting < keys * PACK_REPEATS

    def _pack(self) -> None:
        self._packed.add(self._drain(last=True))
        if self._packed.bytes > self._budget * PACK_TEXT or self._packed.runs == MOST_RUNS:
            self._spill_packed()

    def _make_room(self) -> None:
        if self._packed.bytes:
            self._spill_packed()
            return
        if self._combine is None or self._ones is not None:
            self._spill()
            return
        hot = self._fold()
        if self._used() >= self._budget * FOLD_GAIN:
            # Frequent keys would come again at once, and be written in every spill: they stay.
            kept: Table = {}
            if self._typed is None and len(hot) * 3 < len(self._table):
                kept = {key: self._table.pop(key) for key in hot}
            self._spill()
            self._table.update(kept)

    def _fold(self) -> list[object]:
        """Long lists through combine. Short ones cost a call each and give little back. Gives the keys whose list has
        become one number; what combine made otherwise is weighed anew, it may be as big as before."""
        untouched = gone = before = 0
        weight = 0
        numbers: list[object] = []
        for table in self._tables():
            long = [key for key, values in table.items() if len(values) >= FOLD_FROM]
            before += sum(map(len, table.values()))
            if long:
                lists = list(map(table.__getitem__, long))
                keys = [decode_key(str(key)) for key in long] if table is self._encoded else long
                folded = self._combined(keys, lists)
                untouched -= sum(map(len, lists))
                gone += sum(map(len, lists)) - sum(map(len, folded))
                weight += sum([8 + weight_of(value) for values in folded for value in values])
                table.update(zip(long, folded, strict=True))
                numbers += [key for key, values in zip(long, folded, strict=True) if _is_number(values)]
        untouched += before
        self.pairs += gone
        self._value_bytes = self._value_bytes * untouched / max(1, before) + weight
        return numbers

    def _combined(self, keys: list[object], lists: Sequence[Iterable[object]]) -> list[list[object]]:
        """Each key's values through combine: new lists, in step with `keys`. The calls are made by C code."""
        combine = self._combine
        assert combine is not None
        pairs = list(chain.from_iterable(map(combine, self._calls.begin(keys), map(iter, lists))))
        if [key for key, _value in pairs] == keys:  # one pair for each key, as nearly always
            result = [[value] for _key, value in pairs]
        else:
            result = regrouped(keys, pairs)
        self._calls.end()
        return result

    def calling(self) -> tuple[str, object] | None:
        """("combine" or "partition", the key that this function of the user's works on); None when neither does."""
        for role, calls in (("combine", self._calls), ("partition", self._partitioner.calls)):
            for key in calls.under_way():
                return role, key
        return None

    def check(self, key: object, value: object) -> None:
        """ValueNotCarried when this pair cannot travel."""
        self._codec.many("", (encode_key(key),), ((value,),))

    # Order

    def _drain(self, last: bool) -> Buckets:
        """The sorted record lines of each partition; empties the tables, but for what had better stay until the last.

        Names are taken in the order of their making, a few at a time from the end: neighbours in time are
        neighbours in memory, and what becomes a line is given back at once. Only lines are sorted.
        """
        buckets = self._partitioner.buckets()
        self._waiting = 0
        if self._ones is not None:
            self._drain_ones(self._ones, last, buckets)
        else:
            self._drain_lists(buckets)
        for number, bucket in enumerate(buckets):
            bucket.sort()
            if self._combiner is not None and bucket:
                buckets[number] = through_command(bucket, self._combiner, self._codec)
        return buckets

    def _drain_ones(self, ones: Ones, last: bool, buckets: Buckets) -> None:
        table = ones.leave(Counter() if last else ones.frequent())
        names, counts = list(table), list(table.values())
        table.clear()
        others: dict[str, int] = {}  # by their encoding
        for some, often in _from_the_end(names, counts):
            if odd := not_plain(some):
                found = dict(zip(some, often))
                put_encoded(others, odd, found)
                some, often = list(found), list(found.values())
            self._write_ones(some, often, True, buckets)
        names, counts = list(others), list(others.values())
        others.clear()
        for some, often in _from_the_end(names, counts):
            self._write_ones(some, often, False, buckets)

    def _write_ones(self, names: list[str], counts: list[int], plain: bool, buckets: Buckets) -> None:
        """Names that are counted into the buckets, as lines. Those that occurred once are not combined."""
        tag = "S" if plain else ""
        self.pairs += sum(counts)
        if self._combine is None:
            if not names:  # all of some were others
                return
            long_ones(names, counts)
            self._partitioner.deal(names, lines_of(tag, names, counts), plain, buckets)
            return
        several = [(name, count) for name, count in zip(names, counts) if count != 1]
        once = [name for name, count in zip(names, counts) if count == 1]
        self._partitioner.deal(once, [f"{tag}{name}\x001" for name in once], plain, buckets)
        if several:
            names = [name for name, _count in several]
            keys: list[object] = names if plain else list(map(decode_key, names))  # type: ignore[assignment]
            lists = self._combined(keys, [repeat(ONE, count) for _name, count in several])
            self._write(names, lists, plain, buckets)

    def _drain_lists(self, buckets: Buckets) -> None:
        plain, others = self._table, self._encoded
        for table in self._tables():
            if table is not others:
                names = not_plain(table) if self._typed is None else list(table)  # type: ignore[arg-type]
                while names:
                    key = names.pop()
                    others.setdefault(encode_key(key), []).extend(table.pop(key))
        self._table, self._encoded, self._typed = {}, {}, None
        self._value_bytes = 0.0
        self._move(plain, True, buckets)
        self._move(others, False, buckets)

    def _move(self, table: Table, plain: bool, buckets: Buckets) -> None:
        """Names and their values into the buckets, as lines; they are taken from the table. plain: "S" + name is the
        encoded key, else name is."""
        names: list[str] = list(table)  # type: ignore[arg-type]
        lists = list(table.values())
        table.clear()
        while names:
            some, values = names[-WRITE_LINES:], lists[-WRITE_LINES:]
            del names[-WRITE_LINES:], lists[-WRITE_LINES:]
            lengths = list(map(len, values))
            self.pairs += sum(lengths)
            if self._combine is not None and max(lengths) > 1:
                self._combine_several(some, values, plain)
            self._write(some, values, plain, buckets)

    def _write(self, names: list[str], lists: list[list[object]], plain: bool, buckets: Buckets) -> None:
        tag = "S" if plain else ""
        lines = self._codec.singles(tag, names, lists)
        if lines:
            self._partitioner.deal(names, lines, plain, buckets)
        elif self._partitioner.single:
            buckets[0] += self._codec.many(tag, names, lists)
        else:
            for name, values, partition in zip(names, lists, self._partitioner.of(names, plain)):
                buckets[partition] += self._codec.many(tag, (name,), (values,))

    def _combine_several(self, names: list[str], lists: list[list[object]], plain: bool) -> None:
        """Replaces, in place, lists of more than one value by what combine makes of them."""
        several = [number for number, values in enumerate(lists) if len(values) > 1]
        self._combine_lists(several, names, lists, plain)

    def _combine_lists(self, several: list[int], names: list[str], lists: list[list[object]], plain: bool) -> None:
        """The same for those of these numbers."""
        keys: list[object] = [names[number] if plain else decode_key(names[number]) for number in several]
        for number, values in zip(several, self._combined(keys, [lists[number] for number in several])):
            lists[number] = values

    def _spill(self, last: bool = False) -> None:
        self._spills.append([self._written(pieces_of(lines)) for lines in self._drain(last)])

    def _spill_packed(self) -> None:
        partitions = range(self._partitions)
        self._spills.append([self._written(merge(self._packed.take(partition))) for partition in partitions])

    def _written(self, batches: Iterable[list[str]]) -> list[Segment]:
        """Where a run of these lines lies now."""
        segments: list[Segment] = []
        writer = RunWriter(lambda block: segments.append(self._scratch.append(block)))
        for lines in batches:
            writer.feed(lines)
        writer.finish()
        return segments

    def finish(self, emit: Callable[[int, bytes], None]) -> list[dict[str, int]]:
        """Writes each partition's run by emit(partition, block), in the order of partitions; what each one holds."""
        written = []
        for partition, lines in enumerate(self._drain(last=True)):
            writer = RunWriter(partial(emit, partition))
            if not self._spills and not self._packed.bytes:
                writer.feed_all(lines)
            else:
                for batch in self._merged(partition, lines):
                    writer.feed(batch)
            writer.finish()
            written.append({"records": writer.records, "bytes": writer.bytes})
        return written

    def _merged(self, partition: int, rest: list[str]) -> Iterator[list[str]]:
        """The lines of all spills of one partition and of what the table still held."""
        runs: list[Blocks] = [self._scratch.reader(spill[partition]) for spill in self._spills if spill[partition]]
        pieces = pieces_of(rest)
        # half the budget, because the table's own lines are still there
        batches = merge_runs(
            runs, self._scratch, self._budget // 2, [lambda: next(pieces, []), *self._packed.take(partition)])
        if self._combine is None:
            return batches
        return recombined(batches, partial(self._combine_several, plain=False), self._codec)


def pieces_of(lines: list[str]) -> Iterator[list[str]]:
    """The lines, some at a time."""
    return (lines[start : start + WRITE_LINES] for start in range(0, len(lines), WRITE_LINES))


def _is_number(values: list[object]) -> bool:
    return len(values) == 1 and type(values[0]) in (int, float)


def _from_the_end(names: list[str], counts: list[int]) -> Iterator[tuple[list[str], list[int]]]:
    """Some of them at a time, which are taken from the lists."""
    while names:
        some, often = names[-WRITE_LINES:], counts[-WRITE_LINES:]
        del names[-WRITE_LINES:], counts[-WRITE_LINES:]
        yield some, often
