"""Scratch: where sorted runs wait on disk when memory is not enough.

Owns the offsets within the unnamed files that the daemon handed over. Never opens a path: the sandbox has no
writable disk. Their number times the size limit of each is the cap; all of it is given back when a task ends.
"""

from __future__ import annotations

import os

from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable

Segment = tuple[int, int, int]  # descriptor, offset, bytes

READ = 8 * 1024  # bytes taken from the disk's cache at a time


class ScratchFull(IpdcError):
    """the task's scratch files are full ({bytes} bytes): smaller splits, a combine, or more memory would help"""


class ScratchBroken(IpdcError):
    """this node cannot write to its scratch directory {directory}: {reason}. Make room there, or end its daemon: the
    others do its tasks"""


class Scratch:
    """Append-only blocks over several files, each at most `limit` bytes."""

    def __init__(self, descriptors: list[int], limit: int) -> None:
        self.descriptors = descriptors  # also for a task that lays them out by itself: they are not emptied then
        self._limit = limit
        self._used = [0] * len(descriptors)
        self.written = 0

    def append(self, block: bytes) -> Segment:
        """Where the block lies now. ScratchFull when no file has room; ScratchBroken where the disk has none."""
        for number, descriptor in enumerate(self.descriptors):
            offset = self._used[number]
            if offset + len(block) <= self._limit:
                view = memoryview(block)
                try:
                    while view:
                        view = view[os.pwrite(descriptor, view, offset + len(block) - len(view)) :]
                except OSError as error:
                    path = os.readlink(f"/proc/self/fd/{descriptor}")  # as the daemon has it
                    raise ScratchBroken(directory=os.path.dirname(path), reason=error.strerror) from None
                self._used[number] += len(block)
                self.written += len(block)
                return descriptor, offset, len(block)
        raise ScratchFull(bytes=sum(self._used))

    def reader(self, segments: list[Segment]) -> Callable[[], bytes]:
        """A function that gives the blocks' bytes, a little at a time, then nothing: a merge holds many such
        readers."""
        pieces = (
            (descriptor, at, min(READ, offset + length - at))
            for descriptor, offset, length in segments
            for at in range(offset, offset + length, READ)
        )

        def read() -> bytes:
            for descriptor, offset, length in pieces:
                return os.pread(descriptor, length, offset)
            return b""

        return read

    def clear(self) -> None:
        """Gives all space back to the disk."""
        for number, descriptor in enumerate(self.descriptors):
            if self._used[number]:
                os.ftruncate(descriptor, 0)
                self._used[number] = 0
        self.written = 0
