"""Ends everything that a child started: all processes of the session that it leads.

Owns nothing but the looking and the killing. A process group is not enough, because the user's programs have groups of
their own. What leaves the session too is held by the sandbox's cgroup, where there is one.

Source: proc(5), /proc/PID/stat.
"""

from __future__ import annotations

import os
import signal

ROUNDS = 20  # looks at all processes; each finds fewer, unless somebody forks for a living


def kill_session(leader: int) -> None:
    """SIGKILL to every process of the session, until none is left. The leader itself must not have been waited for:
    until then nobody else has its number."""
    for _ in range(ROUNDS):
        members = [pid for pid in _processes() if pid != leader and _session(pid) == leader]
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if not members:
            return


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _session(pid: int) -> int | None:
    """The session of a process that runs; None for one that has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _parent, _group, session = file.read().rpartition(b")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(session)
