"""A map task's inputs as records, in chunks, and where in them the user's code is just now.

Owns the order of ranges, the decoding of lines, and how long a line may be. Never calls the user's code; what a
line means is the format's affair (formats.py).

Lines are made in chunks of some 64 KB by C code (decode, split), because a Python loop over lines would cost
more than the user's own work. Text is UTF-8; what is not comes as surrogate escapes. A carriage return is
kept, but by formats that take it as part of the line's end.
"""

from __future__ import annotations

from itertools import accumulate, count
from operator import add

from ipdc_edge.apps.mapreduce.lines import CHUNK, WHOLE, InputError, LineTooLong, spans

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Read = Callable[[], bytes | bytearray | None]

MEGABYTE = 1024 * 1024
LINE_SHARE = 8  # a line takes up to an eighth of the job's memory: it is held twice, wide characters take more
FILE_SHARE = 4  # and a whole file a fourth
LEAST_LINE = MEGABYTE  # bytes
MOST_RECORD = 500  # characters of a record in an error


class LineRefused(InputError):
    """{input}, byte offset {offset}: a line of more than {most} bytes, which is all that a runner with {memory} MB of
    memory has room for: give the job more memory (--memory), or break the line"""

    at_record = True


class FileRefused(InputError):
    """{input}: a whole file of more than {most} bytes, which is all that a runner with {memory} MB of memory has room
    for: give the job more memory, or read it by lines"""


class InputUnreadable(InputError):
    """{input}, byte offset {offset}: a record that is no {format}: {reason}{hint}"""

    at_record = True


class Source:
    """All records of a task's ranges.

    `inputs` are the task's ranges {"name", "start", "end", "compression"?...}; stream n carries the blocks of
    inputs[n]. `parse` makes a record of a line's text (ValueError: it cannot); None: the line is the record.
    """

    format = "lines"
    parse: Callable[[str], object] | None = None
    skips_blank = False  # whether lines of white space are no records

    def __init__(
        self,
        inputs: list[dict[str, Any]],
        read: Callable[[int], bytes | bytearray | None],
        progress: Callable[[int, int], None],
        memory: int = 1 << 40,
    ) -> None:
        self._inputs = inputs
        self._read = read
        self._progress = progress
        self._memory = memory
        self.most_line = max(LEAST_LINE, memory // LINE_SHARE)
        self.records = 0
        self.bytes = 0  # of lines; of a compressed input: as it lies there
        self.name: str | None = None  # of the input
        self._base = 0
        self._lines: list[str] = []
        self._lengths: list[int] | None = None
        self._offsets: list[int] | None = None  # when they are not those of all lines
        self._iterator: Iterator[str] = iter(())

    # Bytes

    def opened(self) -> Iterator[tuple[dict[str, Any], Read, int, int]]:
        """(the range, what reads its blocks, start, end), one range after the other."""
        for stream, source in enumerate(self._inputs):
            self.name = source.get("name")
            self._lines, self._iterator, self._offsets = [], iter(()), None

            def read(stream: int = stream) -> bytes | bytearray | None:
                return self._read(stream)

            if source.get("compression"):
                from ipdc_edge.apps.mapreduce.compressed import decompressed

                counted = self._counted(read)
                yield source, decompressed(counted, source["compression"], str(self.name), self._memory), 0, WHOLE
            else:
                yield source, read, source["start"], source["end"]

    def _counted(self, read: Read) -> Read:
        def counting() -> bytes | bytearray | None:
            block = read()
            self.bytes += len(block or b"")
            self._progress(self.records, self.bytes)
            return block

        return counting

    def _spans(self, source: dict[str, Any], read: Read, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        try:
            yield from spans(read, start, end, self.most_line)
        except LineTooLong as error:
            self._place(error.offset)
            raise self._refused(error.offset) from None

    def _refused(self, offset: int) -> LineRefused:
        return LineRefused(
            input=self.name, offset=offset, most=self.most_line, memory=self._memory // MEGABYTE
        )

    def files(self) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
        """(range, its own lines as they are, in chunks of whole lines) for each range; each is to be read before the
        next."""
        for source, read, start, end in self.opened():
            yield source, self._raw(source, read, start, end)

    def _raw(self, source: dict[str, Any], read: Read, start: int, end: int) -> Iterator[bytes]:
        for _offset, span in self._spans(source, read, start, end):
            yield span
            self._count(source, span.count(b"\n") + (not span.endswith(b"\n")), len(span))

    def _count(self, source: dict[str, Any], records: int, size: int) -> None:
        self.records += records
        if not source.get("compression"):
            self.bytes += size
        self._progress(self.records, self.bytes)

    # Records

    def chunks(self) -> Iterator[tuple[Iterator[int], Iterator[Any]]]:
        """(offsets, records) of each chunk, two iterators of equal length that are consumed in step."""
        parse = None if self.parse is None else self._parsed
        for offsets, lines in self.line_chunks():
            yield offsets, lines if parse is None else map(parse, lines)

    def line_chunks(self) -> Iterator[tuple[Iterator[int], Iterator[str]]]:
        """The same with the lines that records are made of."""
        for source, read, start, end in self.opened():
            for base, span in self._spans(source, read, start, end):
                size = len(span)
                lines = self._decoded(base, span)
                # The byte lengths of lines are those of the text only when it is ASCII.
                self._lengths = None if span.isascii() else [len(line) for line in span.split(b"\n")]
                del span
                self._base, self._lines, self._offsets, self._iterator = base, lines, None, iter(lines)
                lengths = map(len, lines) if self._lengths is None else self._lengths
                # Offsets: all lengths before, and one newline for each line before.
                offsets = map(add, accumulate(lengths, initial=base), count())
                if self.skips_blank and not all(map(str.strip, lines)):
                    places = [(offset, line) for offset, line in zip(offsets, lines) if line.strip()]
                    self._offsets = [offset for offset, _ in places]
                    self._lines = lines = [line for _, line in places]
                    self._iterator, offsets = iter(lines), iter(self._offsets)  # type: ignore[assignment]
                yield offsets, self._iterator
                self._count(source, len(lines), size)

    def _decoded(self, base: int, span: bytes) -> list[str]:
        if len(span) <= CHUNK * 2 or span.find(b"\n", 0, -1) >= 0:
            lines = span.decode("utf-8", "surrogateescape").split("\n")
            if not lines[-1]:
                lines.pop()
            return lines
        try:  # a long line alone: without a second copy of it
            with memoryview(span) as view:
                return [str(view[:-1] if span.endswith(b"\n") else view, "utf-8", "surrogateescape")]
        except MemoryError:
            self._place(base)
            raise self._refused(base) from None

    def record(self, line: Any) -> object:
        """What the line that was given out last means. InputUnreadable."""
        return line if self.parse is None else self._parsed(line)

    def _parsed(self, line: str) -> object:
        try:
            return self.parse(line)  # type: ignore[misc]
        except ValueError as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: Exception) -> InputUnreadable:
        """The error for the record that was given out last."""
        place = self.position()
        return InputUnreadable(
            input=place.get("input"), offset=place.get("offset"), format=self.format, reason=str(error), hint=""
        )

    def _place(self, offset: int) -> None:
        """From now on the position is that of a line which nobody gets to see."""
        self._base, self._lines, self._lengths, self._offsets, self._iterator = offset, [""], [0], None, iter([""])
        next(self._iterator)

    def position(self) -> dict[str, object]:
        """Input, byte offset and text of the line that was given out last; no more than the input before the first."""
        given = len(self._lines) - self._iterator.__length_hint__()  # type: ignore[attr-defined]
        if not given:
            return {} if self.name is None else {"input": self.name}
        if self._offsets is not None:
            offset = self._offsets[given - 1]
        else:
            lengths = self._lengths or [len(line) for line in self._lines[:given]]
            offset = self._base + sum(lengths[: given - 1]) + given - 1
        return {"input": self.name, "offset": offset, "record": self._lines[given - 1][:MOST_RECORD]}
