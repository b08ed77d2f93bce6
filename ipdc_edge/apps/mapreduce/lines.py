"""Lines of a split: which lines of a file belong to a byte range, read exactly once.

Owns the rule of splits, and raw spans of whole lines. Never decodes (source.py does) and never calls the
user's code. For a split [start, end) those lines belong to it whose first byte p satisfies start < p <= end, and
p = 0 for the first; so a reader drops everything up to its first newline, and stops at the newline that it finds
at or after `end`. A last line without newline counts.
"""

from __future__ import annotations

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 64 * 1024  # bytes of text given out at a time
WHOLE = 1 << 62  # no file is longer: the end of a range that is a whole file


class InputError(IpdcError):
    """{reason}"""  # of what cannot be read, whichever way a task reads it

    at_record = False  # whether it is about the record that was given out last


class LineTooLong(Exception):
    """A line that has no end within `most` bytes; `offset` is where it begins."""

    def __init__(self, offset: int, most: int) -> None:
        super().__init__(offset, most)
        self.offset = offset
        self.most = most


def spans(
    read: Callable[[], bytes | bytearray | None], start: int, end: int, most: int = WHOLE
) -> Iterator[tuple[int, bytes]]:
    """(offset in the file, whole lines) for the split [start, end), at most about CHUNK bytes or one line
    each.

    `read` gives consecutive blocks of any size from offset `start` on, and nothing at the end of the file; it
    is not asked again after the block with the split's last newline. LineTooLong, without a name yet, as soon as
    more than `most` bytes are gathered and their line has no end.
    """
    here = start  # offset of the block
    skipping = start > 0
    pieces: list[bytes] = []  # of a line that is not finished yet
    gathered, pieces_at = 0, start
    while True:
        block = read()
        if not block:
            if pieces:
                yield pieces_at, _joined(pieces)
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
            yield pieces_at, _joined(pieces)
            gathered, begin = 0, first
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
            gathered += len(block) - begin
            if gathered > most:
                raise LineTooLong(pieces_at, most)
        here += len(block)


def _joined(pieces: list[bytes]) -> bytes:
    """One text of the pieces, which are given back at once: the line may be long."""
    whole = b"".join(pieces)
    pieces.clear()
    return whole
