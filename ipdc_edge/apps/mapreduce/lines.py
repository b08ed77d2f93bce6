"""Lines of a split: which lines of a file belong to a byte range, read exactly once.

Owns the rule of splits and the decoding of lines. Never calls the user's code. For a split [start, end) those
lines belong to it whose first byte p satisfies start < p <= end, and p = 0 for the first; so a reader drops
everything up to its first newline, and stops at the newline that it finds at or after `end`. A last line
without newline counts.

Lines are made in chunks of some 64 KB by C code (decode, split), because a Python loop over lines would cost
more than the user's own work. Text is UTF-8; what is not comes as surrogate escapes. A carriage return is
kept.
"""

from __future__ import annotations

from itertools import accumulate, count
from operator import add

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 64 * 1024  # bytes of text turned into lines at a time


def spans(read: Callable[[], bytes | bytearray | None], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset in the file, whole lines) for the split [start, end), at most about CHUNK bytes or one line
    each.

    `read` gives consecutive blocks of any size from offset `start` on, and nothing at the end of the file; it
    is not asked again after the block with the split's last newline.
    """
    here = start  # offset of the block
    skipping = start > 0
    pieces: list[bytes] = []  # of a line that is not finished yet
    pieces_at = start
    while True:
        block = read()
        if not block:
            if pieces:
                yield pieces_at, b"".join(pieces)
            return
        begin = 0
        if skipping:
            if here >= end:
                return  # whatever newline comes now, the line after it begins beyond the end
            begin = block.find(b"\n") + 1
            if not begin:
                here += len(block)
                continue
            skipping = False
            if here + begin > end:
                return
        final = block.find(b"\n", max(begin, end - here)) + 1
        stop = final or block.rfind(b"\n", begin) + 1
        if stop and pieces:
            first = block.find(b"\n", begin) + 1
            pieces.append(bytes(block[begin:first]))
            yield pieces_at, b"".join(pieces)
            pieces = []
            begin = first
        while begin < stop:
            edge = stop
            if stop - begin > CHUNK:
                edge = block.rfind(b"\n", begin, begin + CHUNK) + 1 or block.find(b"\n", begin + CHUNK) + 1
            yield here + begin, bytes(block[begin:edge])
            begin = edge
        if final:
            return
        if begin < len(block):
            if not pieces:
                pieces_at = here + begin
            pieces.append(bytes(block[begin:]))
        here += len(block)


class LineSource:
    """All lines of a task's splits, in chunks, and where in them the user's code is just now.

    `inputs` are the task's ranges {"name", "start", "end", ...}; stream n carries the blocks of inputs[n].
    """

    def __init__(
        self,
        inputs: list[dict[str, object]],
        read: Callable[[int], bytes | bytearray | None],
        progress: Callable[[int, int], None],
    ) -> None:
        self._inputs = inputs
        self._read = read
        self._progress = progress
        self.records = 0
        self.bytes = 0
        self._name: object = None
        self._base = 0
        self._lines: list[str] = []
        self._lengths: list[int] | None = None
        self._iterator: Iterator[str] = iter(())

    def chunks(self) -> Iterator[tuple[Iterator[int], Iterator[str]]]:
        """(offsets, lines) of each chunk, two iterators of equal length that are consumed in step."""
        for stream, source in enumerate(self._inputs):
            start, end = source["start"], source["end"]
            assert isinstance(start, int) and isinstance(end, int)
            self._name = source.get("name")
            for base, span in spans(lambda stream=stream: self._read(stream), start, end):  # type: ignore[misc]
                lines = span.decode("utf-8", "surrogateescape").split("\n")
                # The byte lengths of lines are those of the text only when it is ASCII.
                self._lengths = None if span.isascii() else [len(line) for line in span.split(b"\n")]
                if not lines[-1]:
                    lines.pop()
                self._base, self._lines, self._iterator = base, lines, iter(lines)
                lengths = map(len, lines) if self._lengths is None else self._lengths
                # Offsets: all lengths before, and one newline for each line before.
                yield map(add, accumulate(lengths, initial=base), count()), self._iterator
                self.records += len(lines)
                self.bytes += len(span)
                self._progress(self.records, self.bytes)

    def position(self) -> dict[str, object]:
        """Input, byte offset and text of the line that was given out last; empty before the first."""
        given = len(self._lines) - self._iterator.__length_hint__()  # type: ignore[attr-defined]
        if not given:
            return {}
        lengths = self._lengths or [len(line) for line in self._lines[:given]]
        offset = self._base + sum(lengths[: given - 1]) + given - 1
        return {"input": self._name, "offset": offset, "record": self._lines[given - 1][:500]}
