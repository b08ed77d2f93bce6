"""Detached processes that a later command finds again: started with a pid file, ended through it.

Owns pid files and signals. A pid alone proves nothing, because the kernel gives it anew: a pid file also
holds the process's start time, and signals go through a pidfd that was checked against it. Never searches
processes by name.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence

from ipdc_edge.errors import IpdcError


class NotEnded(IpdcError):
    """Process {pid} ({what}) does not end, not even by SIGKILL."""


def start(
    command: Sequence[str], environ: Mapping[str, str], log: str, pid_file: str
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, its output appended to `log`, and writes its pid file."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, env=dict(environ), cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True)
    fresh = f"{pid_file}.new"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(f"{process.pid} {_start_time(process.pid)}\n")
    os.replace(fresh, pid_file)
    return process


def running(pid_file: str) -> int | None:
    """The pid of the process that the pid file names, if that very process is still there."""
    fd = _open(pid_file)
    if fd is None:
        return None
    os.close(fd)
    return _read(pid_file)[0]


def end(pid_file: str, patience: float, what: str) -> bool:
    """Ends the process: SIGTERM, and SIGKILL after `patience` seconds; removes the pid file. Whether there
    was one. Raises NotEnded."""
    fd = _open(pid_file)
    if fd is not None:
        try:
            signal.pidfd_send_signal(fd, signal.SIGTERM)
            if not select.select([fd], [], [], patience)[0]:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                if not select.select([fd], [], [], 10.0)[0]:
                    raise NotEnded(pid=_read(pid_file)[0], what=what)
        except ProcessLookupError:
            pass  # it ended by itself in between
        finally:
            os.close(fd)
    try:
        os.unlink(pid_file)
    except FileNotFoundError:
        pass  # never started
    return fd is not None


def _open(pid_file: str) -> int | None:
    """A pidfd of the process, checked; None where it is gone."""
    pid, started = _read(pid_file)
    if not pid:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # In this order: what the pidfd holds cannot change any more, so a start time read now is its process's.
    if _start_time(pid) == started and not select.select([fd], [], [], 0)[0]:
        return fd
    os.close(fd)
    return None


def _read(pid_file: str) -> tuple[int, int]:
    try:
        with open(pid_file, encoding="ascii") as file:
            pid, started = file.read(100).split()
        return max(0, int(pid)), int(started)
    except (FileNotFoundError, ValueError):
        return 0, 0


def _start_time(pid: int) -> int:
    """Clock ticks since boot at which a process began: field 22 of /proc/PID/stat, see proc(5). -1 when it
    is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1
