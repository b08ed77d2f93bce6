"""Merging sorted runs, many at a time, in memory that does not grow with them.

Owns the k-way merge, its rounds when there are more runs than the fan-in, and how much text of each run is
held. Never looks into values. Instead of a heap that is touched for every record, each round takes from every
run all lines up to the smallest of the buffered last lines (found by bisection) and sorts them together: the
sorted pieces are what list.sort() is fastest at, and the Python loop runs once for thousands of lines.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import repeat

from ipdc_edge.codec.keys import BadRecord
from ipdc_edge.codec.runs import OPEN_RUN, RunReader, RunWriter

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipdc_edge.runner.scratch import Scratch, Segment

    Lines = Callable[[], list[str]]  # the next sorted lines of a run; empty at its end
    Blocks = Callable[[], bytes | bytearray | None]  # the next block of a run; nothing at its end

FAN_IN = 48  # an open run takes about 60 kB, whatever its text: more would show in how much a node takes for many maps
MOST_FAN_IN = 64  # a gigabyte in splits of the usual size, where a budget has this room for each:
RUN_ROOM = OPEN_RUN + 160 * 1024
LEAST_TEXT, MOST_TEXT = 2 * 1024, 64 * 1024
COST_OF_TEXT = 20  # bytes of memory for a byte of buffered text: short lines are objects of 60 bytes, in two lists


def text_share(budget: int, runs: int) -> int:
    """Bytes of text to hold of each run so that `runs` of them, blocks and all, stay within `budget` bytes of
    memory."""
    runs = max(1, runs)
    return max(LEAST_TEXT, min(MOST_TEXT, (budget - runs * OPEN_RUN) // (runs * COST_OF_TEXT)))


def shared_fan_in(budget: int) -> int:
    """How many runs may be open when the merge lives beside a sorter: their blocks alone must fit into `budget`."""
    return max(8, min(FAN_IN, budget // (OPEN_RUN + LEAST_TEXT * COST_OF_TEXT)))


def usual_fan_in(budget: int) -> int:
    """How many runs may be open where nothing lives beside the merge."""
    return max(FAN_IN, min(MOST_FAN_IN, budget // RUN_ROOM))


def merge(sources: list[Lines]) -> Iterator[list[str]]:
    """The lines of all sources in order, in batches. Each source must be sorted (RunReader checks it)."""
    buffers: list[list[str]] = []
    pulls: list[Lines] = []
    for pull in sources:
        lines = pull()
        if lines:
            buffers.append(lines)
            pulls.append(pull)
    starts = [0] * len(buffers)
    while len(buffers) > 1:
        limit = min([lines[-1] for lines in buffers])
        batch: list[str] = []
        ended = False
        for number, lines in enumerate(buffers):
            start = starts[number]
            if lines[-1] == limit:
                batch += lines[start:] if start else lines
                buffers[number] = pulls[number]()
                starts[number] = 0
                ended = ended or not buffers[number]
            elif lines[start] <= limit:
                starts[number] = bisect_right(lines, limit, start)
                batch += lines[start : starts[number]]
        if ended:
            alive = [number for number, lines in enumerate(buffers) if lines]
            buffers = [buffers[number] for number in alive]
            pulls = [pulls[number] for number in alive]
            starts = [starts[number] for number in alive]
        batch.sort()
        yield batch
    if buffers:
        lines, pull = buffers[0][starts[0] :], pulls[0]
        del buffers
        while lines:
            yield lines
            lines = pull()


def merge_runs(
    runs: list[Blocks], scratch: Scratch, budget: int, extra: list[Lines] | None = None,
    origins: list[str] | None = None, fan_in: int = 0,
) -> Iterator[list[str]]:
    """The lines of all runs (and of `extra` sources) in order, at most `fan_in` (or as many as is usual) runs open at a
    time.

    Only when there are more, some are first merged into longer ones in scratch: as few as bring the number
    down, so a record is rewritten as seldom as can be. `budget` bytes of memory are shared by the open runs.
    `origins` say whose each run is, for errors.
    """
    extra = extra or []
    fan_in = fan_in or usual_fan_in(budget)
    waiting = list(zip(runs, origins or repeat("")))
    while len(waiting) + len(extra) > fan_in:
        several = min(fan_in, len(waiting) + len(extra) - fan_in + 1)
        segments = _merge_to_scratch(waiting[:several], scratch, budget)
        waiting = [*waiting[several:], (scratch.reader(segments), "")]
    text = text_share(budget, len(waiting) + len(extra))
    return merge([*extra, *(RunReader(read, text, origin).lines for read, origin in waiting)])


def _merge_to_scratch(runs: list[tuple[Blocks, str]], scratch: Scratch, budget: int) -> list[Segment]:
    segments: list[Segment] = []
    writer = RunWriter(lambda block: segments.append(scratch.append(block)))
    text = text_share(budget, len(runs))
    for lines in merge([RunReader(read, text, origin).lines for read, origin in runs]):
        writer.feed(lines)
    writer.finish()
    return segments


def key_of(line: str) -> str:
    """The encoded key of a line. BadRecord when it has none."""
    cut = line.find("\x00")
    if cut < 0:
        raise BadRecord("a record without NUL between key and values")
    return line[:cut]


def group_end(lines: list[str], start: int, encoded: str) -> int:
    """Index after the last of the sorted `lines` that have the key of lines[start], which is `encoded`."""
    end = start + 1
    if end < len(lines) and lines[end].startswith(encoded + "\x00"):
        # After a key stands NUL, and whatever may stand there in a longer key is greater than 0x01 or equal
        # to it.
        end = bisect_left(lines, encoded + "\x01", end + 1)
    return end
