"""Running commands and jobs in turns, and what they took: wall time, processor time of whole process trees, PSS.

Owns the measuring and the table's head with machine, commit and command. Never decides what is compared. Time and
memory are taken in different rounds: reading PSS costs the measured time too. Every round runs everything once, in one
order, so that a machine that becomes busy is busy for all; ratios are taken within a round.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from statistics import median
from typing import NamedTuple

from memory import Lab, Node  # beside this file
from processes import NotMeasured, Reading, descendants, read_pss

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.1  # seconds between two looks at memory
PATIENCE = 30.0  # seconds for what a command leaves behind
PR_SET_CHILD_SUBREAPER = 36
UP = 5  # times that a lab is waited for


class Took(NamedTuple):
    """One run: seconds by the clock, and of processors."""

    wall: float
    processor: float


class Peak:
    """The highest PSS of a set of processes, kB: of all together, and of each group's biggest process."""

    def __init__(self, groups: Callable[[], Mapping[str, Iterable[int]]]) -> None:
        """groups: the processes that there are now, by what they are called."""
        self.sum = 0
        self.each: dict[str, int] = {}
        self._groups = groups
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(INTERVAL):
            total = Reading()
            for name, pids in self._groups().items():
                for pid in pids:
                    found = read_pss(pid)
                    self.each[name] = max(self.each.get(name, 0), found.pss)
                    total += found
            self.sum = max(self.sum, total.pss)

    def text(self) -> str:
        """MB: the sum, and each."""
        parts = ", ".join(f"{name} {kb / 1024:.0f}" for name, kb in self.each.items())
        return f"{self.sum / 1024:.0f} ({parts})"


class Meter:
    """Processor time of processes that stay, and of all below them: looked at every few moments, because a runner that
    is killed in its sandbox leaves its time to nobody. What one used after the last look at it is missed."""

    def __init__(self, pids: Iterable[int], every: float = INTERVAL / 2) -> None:
        self._pids, self._every = list(pids), every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def __enter__(self) -> Meter:
        self._first = self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._last.update(self._read())

    def seconds(self) -> float:
        """User and system, of all."""
        return sum(ticks - self._first.get(pid, 0) for pid, ticks in self._last.items()) / TICKS

    def _look(self) -> None:
        while not self._over.wait(self._every):
            self._last.update(self._read())

    def _read(self) -> dict[int, int]:
        found = {}
        for pid in self._pids:
            for each in [pid, *descendants(pid)]:
                try:
                    with open(f"/proc/{each}/stat") as file:
                        fields = file.read().rpartition(")")[2].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                found[each] = int(fields[11]) + int(fields[12])
        return found


def start(words: Sequence[str], env: Mapping[str, str] | None = None, output: str = os.devnull,
          cwd: str | None = None) -> tuple[subprocess.Popen[bytes], object]:
    """A command that runs, and the file with what it says on standard error."""
    errors = tempfile.TemporaryFile()
    with open(output, "wb") as out:
        return subprocess.Popen(words, env=None if env is None else dict(env), stdout=out, stderr=errors,
                                cwd=cwd), errors


def run(words: Sequence[str], env: Mapping[str, str] | None = None, output: str = os.devnull,
        behind: Sequence[int] = (), cwd: str | None = None, peak: bool = False) -> tuple[Took, Peak | None]:
    """A command to its end, with the processor time of all that it started (what it leaves behind is waited for, as a
    JVM) and that the processes `behind` it take meanwhile. NotMeasured."""
    before = _of_children()
    with Meter(behind) as meter:
        _adopt(True)
        began = time.monotonic()
        child, errors = start(words, env, output, cwd)
        watch = Peak(lambda: {"biggest": [child.pid, *descendants(child.pid)]}) if peak else None
        with watch or nullcontext():
            _, status = os.waitpid(child.pid, 0)
        wall = time.monotonic() - began
        _adopt(False)
        _wait_for_adopted()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        errors.seek(0)  # type: ignore[attr-defined]
        said = errors.read()[-1500:].decode(errors="replace")  # type: ignore[attr-defined]
        raise NotMeasured(f"{' '.join(words[:5])}: exit {child.returncode}\n{said}")
    return Took(wall, meter.seconds() + _of_children() - before), watch


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt(wanted: bool) -> None:
    """Whether orphans of a command become children of this process; prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0):
        raise NotMeasured(os.strerror(ctypes.get_errno()))


def _wait_for_adopted() -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(INTERVAL / 10)
        except ChildProcessError:
            return
    raise NotMeasured("a command left something running")


def up(lab: Lab) -> list[Node]:
    """The nodes of a lab when all see each other: fifty take longer than `lab up` waits. NotMeasured, and it ends."""
    for patience in range(UP, 0, -1):
        try:
            return lab.up()
        except NotMeasured:
            if patience == 1:
                lab.down()
                raise
    raise AssertionError


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """The median, and from least to most."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def head() -> str:
    """What stands above every table: command, commit, machine."""
    said = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(["git", "-C", CHECKOUT, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    commit = said.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
    python = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True).stdout.strip()
    command = shlex.join(["/usr/bin/python3", os.path.relpath(sys.argv[0], CHECKOUT), *sys.argv[1:]])
    busy = os.getloadavg()[0]
    return (f"`{command}`, {time.strftime('%-d %B %Y')}, commit {commit}, {platform.machine()}, "
            f"{os.cpu_count()} cores, Linux {platform.release()}, {python}; load at the end {busy:.1f}.")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
