"""What this process writes to disk, counted: flash wears by bytes written and by fsyncs.

Owns the counters, for the process as a whole and for each job, and what an idle hour took. Never writes anything: all
of it is in memory, and begins anew with the process. Whoever writes or syncs calls it beside that. A job's bytes are
those of its blocks, results, spills and facts in the ledger, without what SQLite adds in pages; the process' are the
kernel's own count, with children that have ended. SQLite's fsyncs are those of durable commits; a checkpoint, every
4 MB of its log, takes two more.

Source: proc(5), /proc/PID/io.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

MOST_JOBS = 256  # that are remembered
HOUR = 3600.0  # seconds of idleness that are looked back on
STEP = 60.0  # seconds between two samples of an idle time
LONG_ENOUGH = 600.0  # seconds of idleness that say something about an hour
LINES = "write_bytes", "cancelled_write_bytes"  # of /proc/self/io


class Idle(NamedTuple):
    """What a time without jobs took."""

    seconds: float
    written: int
    fsyncs: int


class Job(NamedTuple):
    """A job's share on this node since the process began."""

    written: int = 0
    fsyncs: int = 0


def process_writes() -> int:
    """Bytes that this process and its ended children had written to disks, less what was removed before it got
    there. 0 where the kernel does not count them."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            found = dict(line.split(": ") for line in file)
    except OSError:
        return 0
    wrote, cancelled = (int(found.get(name, 0)) for name in LINES)
    return max(0, wrote - cancelled)


class Flash:
    """The counters. Safe for threads."""

    def __init__(self, writes: Callable[[], int] = process_writes) -> None:
        self.fsyncs = 0
        self.last: Idle | None = None  # the last idle time that was long enough
        self._writes = writes
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._samples: deque[tuple[float, int, int]] = deque()  # time, bytes, fsyncs; of the present idle time

    @property
    def written(self) -> int:
        """Bytes of the process as a whole."""
        return self._writes()

    def wrote(self, owner: str, size: int) -> None:
        """Bytes were written for an owner in the block store, or for a job."""
        self._count(owner, size, 0)

    def synced(self, owners: Iterable[str] = (), count: int = 1) -> None:
        """fsync was called; each of these owners or jobs is charged with it."""
        with self._lock:
            self.fsyncs += count
        for owner in owners:
            self._count(owner, 0, count)

    def moved(self, old: str, new: str) -> None:
        """What was written for a submission is its job's."""
        with self._lock:
            share = self._jobs.pop(old, None)
        if share is not None:
            self._count(new, *share)

    def job(self, job: str) -> Job | None:
        """A job's share; None where nothing is known of it."""
        with self._lock:
            return self._jobs.get(job)

    def _count(self, owner: str, size: int, fsyncs: int) -> None:
        job = owner.partition(".")[0]  # a worker's content is under JOB.MASTER
        with self._lock:
            written, synced = self._jobs.pop(job, Job())
            if len(self._jobs) >= MOST_JOBS:
                del self._jobs[next(iter(self._jobs))]
            self._jobs[job] = Job(written + size, synced + fsyncs)

    def look(self, now: float, busy: bool) -> None:
        """To be called every few seconds, on a clock that never goes back."""
        if busy:
            if (idle := self.idle(now)) is not None and idle.seconds >= LONG_ENOUGH:
                self.last = idle
            self._samples.clear()
        elif not self._samples or now - self._samples[-1][0] >= STEP:
            self._samples.append((now, self.written, self.fsyncs))
            while len(self._samples) > 1 and now - self._samples[1][0] >= HOUR:
                self._samples.popleft()

    def idle(self, now: float) -> Idle | None:
        """The present time without jobs, at most about an hour of it; None while there are any."""
        if not self._samples:
            return None
        at, written, fsyncs = self._samples[0]
        return Idle(now - at, max(0, self.written - written), self.fsyncs - fsyncs)


FLASH = Flash()  # of this process, as /proc/self/io is
