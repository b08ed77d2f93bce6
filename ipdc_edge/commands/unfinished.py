"""Where `get` writes until all has come: a directory of its own beside the place that it is for.

Owns those directories, `.ipdc-get-` and twelve digits: their names, the lock by which one knows that somebody still
works in one, and what is done with those that a killed process left. Never removes what it is not sure of: one of
another user, one in use, one that holds anything else, or the only copy of what was about to be replaced.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NAME = re.compile(r"\.ipdc-get-[0-9a-f]{12}")
NEW, OLD = "new", "old"  # what comes, and what is being replaced
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unfinished(directory: str) -> Iterator[str]:
    """A path in a new directory there, at which is nothing yet. When the block ends the directory goes, with all that
    is still in it, whatever ends it: SIGTERM and SIGHUP too are KeyboardInterrupt in the block. OSError."""
    made: tuple[str, int] | None = None
    caught = [number for number in (signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) == signal.SIG_DFL]  # nohup and its like stay in force
    try:
        for number in caught:
            signal.signal(number, _interrupt)
        with undisturbed():
            made = _make(directory)
        yield os.path.join(made[0], NEW)
    finally:
        with undisturbed():
            if made is not None:
                shutil.rmtree(made[0], ignore_errors=True)
                os.close(made[1])
            for number in caught:
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that would end this process wait until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def clear(directory: str) -> Iterator[tuple[str, bool]]:
    """Remove what killed processes left in a directory. (path, whether it is gone) of each: one stays that has what
    stood where something was to be replaced, while what should replace it did not come to its place."""
    with suppress(OSError), os.scandir(directory) as found:
        paths = [entry.path for entry in found if NAME.fullmatch(entry.name)]
        for path in sorted(paths):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if os.fstat(descriptor).st_uid != os.geteuid():
                        continue
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    within = set(os.listdir(descriptor))
                    if within == {NEW, OLD}:
                        yield path, False
                    elif within <= {NEW} or within == {OLD}:
                        shutil.rmtree(path)
                        yield path, True
                finally:
                    os.close(descriptor)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _make(directory: str) -> tuple[str, int]:
    """(path, descriptor that holds the lock) of a new one."""
    while True:
        path = os.path.join(directory, f".ipdc-get-{os.urandom(6).hex()}")
        os.mkdir(path, 0o700)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # another process cleared it away before it was locked
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        except OSError:  # a file system without such locks: nobody clears there either
            return path, descriptor
        if os.path.exists(path):
            return path, descriptor
        os.close(descriptor)
