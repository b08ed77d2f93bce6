"""How much memory this machine, or the memory cgroup that this process lives in, has in all and left.

Owns reading /proc/meminfo and the kernel's memory cgroups, version 1 and 2. Decides nothing. In a container with a
limit /proc/meminfo is the host's, so the smallest of all limits above this process counts too. Sources: proc(5),
cgroups(7), the kernel's admin-guide/cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

import os
import re

PROC, CGROUPS = "/proc", "/sys/fs/cgroup"
MOST = 8192  # bytes of any file here
# (limit, use, what of the use is file cache, which the kernel gives back): v2, then v1
FILES = (
    ("memory.max", "memory.current", re.compile(rb"^(?:in)?active_file (\d+)", re.M)),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", re.compile(rb"^total_(?:in)?active_file (\d+)", re.M)),
)


def read(path: str) -> bytes:
    """The beginning of a small file of the kernel's; empty where there is none. Cheaper than `open`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, MOST)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


class MachineMemory:
    """Reads at every call; `physical` (bytes) alone is fixed."""

    def __init__(self, proc: str = PROC, cgroups: str = CGROUPS) -> None:
        self._meminfo = os.path.join(proc, "meminfo")
        self.physical = _kilobytes(read(self._meminfo), b"MemTotal")
        if not self.physical:
            self.physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        own = read(os.path.join(proc, "self", "cgroup")).decode("utf-8", "replace")
        self._files, self._groups = _groups(own, cgroups)

    def look(self) -> tuple[int, int]:
        """(total, available): bytes that this process and its like may use in all, and those that can be had without
        swapping: the kernel's own estimate, or less where a limit leaves less."""
        total, available = self.physical, _kilobytes(read(self._meminfo), b"MemAvailable")
        most, use, cache = self._files
        for group in self._groups:
            limit = _number(read(os.path.join(group, most)), self.physical)  # "max" and v1's huge number are none
            if limit < self.physical:
                used = _number(read(os.path.join(group, use)), 0)
                given_back = sum(map(int, cache.findall(read(os.path.join(group, "memory.stat")))))
                total, available = min(total, limit), min(available, limit - used + min(given_back, used))
        return total, max(0, available)


def _groups(text: str, root: str) -> tuple[tuple[str, str, re.Pattern[bytes]], list[str]]:
    """The names of the files, and the directories from this process's memory cgroup to the topmost one that is seen."""
    files, path = FILES[0], "/"
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "memory" in controllers.split(","):  # v1, also where systemd has a v2 tree beside it
            files, path, root = FILES[1], group, os.path.join(root, "memory")
            break
        if number == "0":
            path = group
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # outside of what this process's cgroup namespace shows
        parts = []
    found = [os.path.join(root, *parts[:count]) for count in range(len(parts), -1, -1)]
    return files, [group for group in found if os.path.exists(os.path.join(group, files[0]))]


def _kilobytes(meminfo: bytes, name: bytes) -> int:
    found = re.search(rb"^%s:\s+(\d+) kB" % name, meminfo, re.M)
    return int(found[1]) * 1024 if found else 0


def _number(text: bytes, otherwise: int) -> int:
    return int(text) if text.strip().isdigit() else otherwise
