"""Going on without bad records: what a job with `skip_bad` runs instead of the loops in mapper.py and reducer.py.

Owns what is a bad record, and how many there may be. A record is bad when it cannot be parsed, when map raises on
it, or when it gives what is no pair or cannot be carried; a key is, when its reduce does. It is set aside whole: none
of its pairs counts, so they are held until map or reduce has come to its end (what the functions counted by
`context` stays). What is given to a map_lines cannot be told apart: there only records that cannot be parsed are
bad. Never hides what is not the record's fault: memory, damaged runs, a daemon that is gone. Imported only by jobs
that want it.
"""

from __future__ import annotations

import marshal
from itertools import chain

from ipdc_edge.apps.mapreduce.mapper import refuse_no_pair, without_none
from ipdc_edge.apps.mapreduce.source import InputUnreadable
from ipdc_edge.apps.mapreduce.weights import weight_of
from ipdc_edge.codec.keys import BadRecord
from ipdc_edge.codec.runs import BadRun
from ipdc_edge.runner.failure import place
from ipdc_edge.runner.scratch import ScratchBroken, ScratchFull

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipdc_edge.apps.mapreduce.reducer import Groups
    from ipdc_edge.apps.mapreduce.source import Source
    from ipdc_edge.runner.scratch import Scratch, Segment
    from ipdc_edge.runner.task_io import TaskIo

    Pair = tuple[object, object]
    Check = Callable[[object, object], object]
    Place = Callable[[], dict[str, object]]

NOT_THE_RECORDS = (MemoryError, BadRecord, BadRun, ScratchBroken, ScratchFull)
MOST_ERROR = 500  # characters
MOST_HELD = 256 * 1024  # bytes of a record's pairs in memory
PAIR = 64  # bytes of a pair besides key and value


class Skipper:
    """Counts one task's bad records; the one that is too many ends the task."""

    def __init__(self, most: int, io: TaskIo) -> None:
        self._most = most
        self._io = io
        self.scratch = io.scratch
        self.count = 0

    def bad(self, error: Exception, position: dict[str, object]) -> None:
        """Sets a record aside; raises the error when there are too many, or when it is not the record's."""
        if isinstance(error, NOT_THE_RECORDS):
            raise error
        self.count += 1
        if self.count > self._most:
            note = f"bad record number {self.count} of this task, and skip_bad allows {self._most}"
            place(error, {**position, "note": note})
            raise error
        self._io.set_aside({**position, "error": _words(error)})


def _words(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MOST_ERROR]
    except Exception:  # a user's exception class whose own __str__ fails
        return type(error).__name__


def _held(pairs: Iterable[Pair], check: Check | None, scratch: Scratch) -> Iterable[Pair]:
    """All pairs of a record; whatever is wrong with one is raised. Many wait in scratch."""
    held: list[Pair] = []
    waiting: list[Segment] = []
    size = 0
    for thing in pairs:
        try:
            key, value = thing
        except (TypeError, ValueError):
            refuse_no_pair([thing])
            raise
        if check is not None:
            check(key, value)
        held.append((key, value))
        size += PAIR + weight_of(key) + weight_of(value)
        if size > MOST_HELD:
            _put(held, waiting, scratch)
            size = 0
    return held if not waiting else chain(chain.from_iterable(_taken(waiting, scratch)), held)


def _put(held: list[Pair], waiting: list[Segment], scratch: Scratch) -> None:
    """Pairs into scratch, with their types as they are: only this process reads them again."""
    try:
        data = marshal.dumps(held)
    except ValueError:
        return  # there is a type among them that it does not know (of a user's own): they stay where they are
    waiting.append(scratch.append(data))
    held.clear()


def _taken(waiting: list[Segment], scratch: Scratch) -> Iterator[list[Pair]]:
    for segment in waiting:
        yield marshal.loads(b"".join(iter(scratch.reader([segment]), b"")))  # noqa: S302  (our own, in an unnamed file)


def read(
    skipper: Skipper, function: Callable[..., object] | None, is_lines: bool, source: Source, where: str,
    check: Check | None,
) -> Iterator[Pair]:
    """The pairs of the first step's map (None: the records themselves) over all records that are good."""
    if is_lines:
        assert function is not None
        yield from without_none(function)(record for _offset, record in _records(skipper, source))
        return
    if function is None:
        yield from _records(skipper, source)
        return
    call = without_none(function)
    for offset, record in _records(skipper, source):
        try:
            held = _held(call(offset, record), check, skipper.scratch)
        except Exception as error:
            skipper.bad(error, {"where": where, **source.position()})
        else:
            yield from held


def _records(skipper: Skipper, source: Source) -> Iterator[Pair]:
    """(offset, record) for those that can be parsed."""
    for offsets, lines in source.line_chunks():
        for offset, line in zip(offsets, lines):
            try:
                record = source.record(line)
            except InputUnreadable as error:
                skipper.bad(error, {"where": "input", **source.position()})
            else:
                yield offset, record


def mapped(
    skipper: Skipper, function: Callable[..., object], pairs: Iterator[Pair], where: str, place_now: Place,
    check: Check | None,
) -> Iterator[Pair]:
    """The pairs of a later step's map; what is set aside is one pair that it was given."""
    call = without_none(function)
    for key, value in pairs:
        try:
            held = _held(call(key, value), check, skipper.scratch)
        except Exception as error:
            skipper.bad(error, {"where": where, **place_now(), "record": f"key {ascii(key)[:500]}"})
        else:
            yield from held


def reduced(
    skipper: Skipper, function: Callable[..., object], groups: Groups, where: str, place_now: Place,
    check: Check | None,
) -> Iterator[Pair]:
    """The pairs of a reduce; what is set aside is one key."""
    call = without_none(function)
    for key, values in groups:
        try:
            held = _held(call(key, values), check, skipper.scratch)
        except Exception as error:
            skipper.bad(error, {"where": where, **place_now()})
        else:
            yield from held
