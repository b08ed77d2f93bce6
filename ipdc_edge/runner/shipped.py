"""A shipped file that a runner does not hold in memory, as the code of an architecture sees it.

Owns the descriptor's uses. Which files travel so, and HEAD, are agreed in codec/open_file.py.
"""

from __future__ import annotations

import os


class OpenFile(bytes):
    """The first HEAD bytes of the file, with `descriptor`, which stays open as long as the runner lives."""

    descriptor: int

    def __new__(cls, head: bytes, descriptor: int) -> OpenFile:
        """head: what stands in the file's first HEAD bytes."""
        file = super().__new__(cls, head)
        file.descriptor = descriptor
        return file

    def whole(self) -> bytes:
        """All of it, in memory. OSError."""
        return os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)

    def link(self) -> str:
        """A path under which this process and all that it starts find the file; proc(5), /proc/PID/fd."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"
