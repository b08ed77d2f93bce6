"""What a role's program has written, kept outside its sandbox: a role that is started again on its node finds it there.

Owns the form in two spill files, which outlive the runner (drivers/runner.py): the last whole state of the output
directory and the one before, so that a runner which dies while it writes has lost no more than what was new. A file is

    number      8 bytes, big-endian: the higher is the newer state, the other is written next; 0: there is none
    size        8 bytes: of the tar that follows. Both are written when it is whole

They are gone with the job, and with the daemon: neither is a backup. Nobody but the job's own role reads them.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedIOBase

SAVE_EVERY = 5.0  # seconds between two states; each is written to the node's disk, which wears
PIECE = 1 << 20
HEAD = 16  # bytes


class Kept:
    """The states of one directory in two files."""

    def __init__(self, descriptors: list[int], top: str, alive: Callable[[], None] = lambda: None) -> None:
        """descriptors: two, of files that may be read and written; top: the directory; alive: called while it works."""
        self.descriptors, self.top, self.alive = descriptors, top, alive
        self.written = 0  # bytes, by this process
        self._due = 0.0
        self._seen: object = None  # the directory at the last look
        self._saved: object = []  # and when it was saved; it begins empty

    def restore(self) -> int:
        """Puts the newest state into the directory; its bytes, 0 where there is none. OSError."""
        number, size, descriptor = max(self._states())
        if not number:
            return 0
        import tarfile

        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(HEAD)
            with tarfile.open(fileobj=_Slow(file, self.alive), mode="r|") as tar:  # type: ignore[call-overload]
                tar.extraction_filter = _as_it_was  # type: ignore[assignment]
                tar.extractall(self.top)
        self._saved = self._seen = _looks(self.top)
        return size

    def look(self, now: float) -> None:
        """Saves the directory where it has changed, and nothing has been written there since the last look. OSError."""
        seen, self._seen = self._seen, _looks(self.top)
        if now >= self._due and self._seen == seen and seen != self._saved:
            self.save()
            self._due = now + SAVE_EVERY

    def save(self) -> None:
        """Saves the directory; what changes meanwhile makes it void, and the state before stays. OSError."""
        before = _looks(self.top)
        if before == self._saved:
            return
        states = self._states()
        descriptor, number = min(states)[2], max(states)[0] + 1
        os.ftruncate(descriptor, HEAD)
        try:
            size = self._pack(descriptor)
        except OSError as error:
            if error.errno not in (None, errno.ENOENT, errno.ENOTDIR):
                raise
            return  # the program has just cut a file short, or renamed it
        if _looks(self.top) == before:
            _write(descriptor, number.to_bytes(8, "big") + size.to_bytes(8, "big"), 0)
            self._saved = before

    def _pack(self, descriptor: int) -> int:
        """Writes the tar behind the head; its bytes."""
        import tarfile

        with os.fdopen(os.dup(descriptor), "wb", PIECE) as file:
            file.seek(HEAD)
            with tarfile.open(fileobj=_Slow(file, self.alive), mode="w|") as tar:  # type: ignore[call-overload]
                for name in sorted(os.listdir(self.top)):
                    tar.add(os.path.join(self.top, name), name)
            file.flush()
            size = file.tell() - HEAD
        self.written += size
        return size

    def _states(self) -> list[tuple[int, int, int]]:
        """(number, size, descriptor) of each file."""
        found = []
        for descriptor in self.descriptors:
            head = os.pread(descriptor, HEAD, 0).ljust(HEAD, b"\0")
            found.append((int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big"), descriptor))
        return found


class _Slow:
    """A file on a disk that may take its time; `alive` is called with each piece."""

    def __init__(self, file: BufferedIOBase, alive: Callable[[], None]) -> None:
        self.file, self.alive = file, alive

    def read(self, size: int) -> bytes:
        self.alive()
        return self.file.read(size)

    def write(self, data: bytes) -> int:
        self.alive()
        return self.file.write(data)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    if os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(f"not all of {len(data)} bytes could be written")


def _as_it_was(member: object, path: str) -> object:
    """It comes from this very directory, of the same program."""
    return member


def _looks(top: str) -> list[tuple[str, int, int, int]]:
    """What of a directory changes when anything is written in it: names, inodes, sizes and times."""
    return sorted(_entries(top))


def _entries(top: str) -> Iterator[tuple[str, int, int, int]]:
    below = [top]
    while below:
        directory = below.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    yield entry.path, found.st_ino, found.st_size, found.st_mtime_ns
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
        except FileNotFoundError:  # gone meanwhile
            continue
