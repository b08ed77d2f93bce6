"""The cgroups around a container: its memory, and what the kernel says of it; controllers of version 1 or version 2.

Under version 1 a container has a directory in every hierarchy that its systemd uses; under version 2 one. All lie
below ipdc-booted/, and carry the container's name.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

from tests.bare.debian import CannotMakeDebian
from tests.waiting import eventually

TOP = Path("/sys/fs/cgroup")
FIRST = ("cpu", "cpuacct", "cpuset", "memory", "pids")  # of version 1: those that systemd may use for limits
LOOK_EVERY = 0.05  # seconds between two looks at a container's memory


def unified() -> bool:
    """Whether the controllers are those of version 2."""
    return (TOP / "cgroup.controllers").exists()


def require() -> None:
    """Raises CannotMakeDebian where there are no cgroups that limits can be set in."""
    missing = "" if unified() else ", ".join(name for name in (*FIRST, "systemd") if not (TOP / name).is_dir())
    if missing:
        raise CannotMakeDebian(f"no cgroups for containers: {TOP} has neither version 2 nor {missing}")
    if not os.access(TOP if unified() else TOP / "memory", os.W_OK):
        raise CannotMakeDebian(f"{TOP} is read-only: in a container itself, run it privileged")


class Cgroup:
    """What bounds and measures one container, and what is below it."""

    def __init__(self, name: str) -> None:
        self.path = f"ipdc-booted/{name}"
        hierarchies = [""] if unified() else [n for n in (*FIRST, "systemd", "unified") if (TOP / n).is_dir()]
        self.directories = [TOP / hierarchy / self.path for hierarchy in hierarchies]
        self.memory = TOP / ("" if unified() else "memory") / self.path

    def make(self, memory: int | None) -> None:
        """Makes it, with at most `memory` bytes and no swap."""
        require()
        for directory in self.directories:
            directory.mkdir(parents=True, exist_ok=True)
        if unified():
            for parent in TOP, TOP / "ipdc-booted":
                (parent / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        else:
            for directory in (TOP / "cpuset/ipdc-booted", TOP / "cpuset" / self.path):
                for name in ("cpuset.cpus", "cpuset.mems"):  # an empty one takes no process
                    (directory / name).write_text((directory.parent / name).read_text())
        if memory is not None:
            limit_memory(self.memory, memory)

    def procs(self, init: int | None = None) -> list[str]:
        """The files that a process is written into to belong here; beside the container's first process if given."""
        if not unified():
            chosen = self.directories if init is None else [TOP / name / self.path for name in FIRST]
            return [str(directory / "cgroup.procs") for directory in chosen]
        if init is None:
            return [str(self.memory / "cgroup.procs")]
        own = Path(f"/proc/{init}/cgroup").read_text().partition("::")[2].strip()
        return [f"{TOP}{own}/cgroup.procs"]

    def remove(self) -> None:
        """Removes it; what ran in it must have ended, or be about to."""
        def gone(top: Path) -> bool:
            for directory, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # a process is still about to leave it
            return not top.exists()

        for top in self.directories:
            eventually(lambda top=top: gone(top), f"{top} is empty")
            try:
                top.parent.rmdir()
            except OSError:
                pass  # others' containers

    # -- what the kernel says

    def available(self) -> int:
        """Bytes that may still be taken before the limit: what is free, and what is only a cache of files."""
        return available(self.memory)

    def oom_kills(self) -> list[str]:
        """What the kernel's log says of processes it ended in here for lack of memory."""
        log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=True).stdout
        return [line for line in log.splitlines() if "oom-kill:" in line and self.path in line]


def limit_memory(directory: Path, memory: int) -> None:
    if unified():
        (directory / "memory.max").write_text(str(memory))
        (directory / "memory.swap.max").write_text("0")
    else:
        (directory / "memory.limit_in_bytes").write_text(str(memory))
        (directory / "memory.swappiness").write_text("0")


def available(directory: Path) -> int:
    names = ("memory.max", "memory.current") if unified() else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = ((directory / name).read_text().strip() for name in names)
    if limit == "max":
        raise ValueError(f"{directory} has no limit")
    statistics = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    prefix = "" if unified() else "total_"
    files = int(statistics[f"{prefix}inactive_file"]) + int(statistics[f"{prefix}active_file"])
    return int(limit) - int(used) + files - int(statistics[f"{prefix}dirty"])


def swapped(directory: Path) -> int:
    """Bytes in swap now."""
    if unified():
        return int((directory / "memory.swap.current").read_text())
    statistics = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return int(statistics.get("total_swap", 0))


def peak(directory: Path) -> int:
    """The most bytes that the kernel counted at once, the cache of files included."""
    return int((directory / ("memory.peak" if unified() else "memory.max_usage_in_bytes")).read_text())


class Lowest:
    """A context manager: how little a cgroup had available at worst, looked at all the time. Its end raises what kept
    it from looking."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.bytes, self.swap, self.looks = directory, 1 << 62, 0, 0
        self._error: Exception | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        try:
            while True:
                self.bytes = min(self.bytes, available(self.directory))
                self.swap = max(self.swap, swapped(self.directory))
                self.looks += 1
                if self._end.wait(LOOK_EVERY):
                    return
        except Exception as error:
            self._error = error

    def __enter__(self) -> Lowest:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.seconds = time.monotonic() - self.began
        if self._error is not None:
            raise self._error
