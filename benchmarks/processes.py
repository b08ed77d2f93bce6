"""What processes take, read from /proc, for benchmarks.

Owns finding a node's processes and reading their memory in kB. Never starts or ends one. A process that ends
while it is read counts as nothing: that is normal for runners.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


class NotMeasured(Exception):
    """The lab or a job failed: there are no figures."""


@dataclass
class Reading:
    """One process, or the sum of some: kB."""

    pss: int = 0
    private: int = 0
    count: int = 0

    def __add__(self, other: Reading) -> Reading:
        return Reading(self.pss + other.pss, self.private + other.private, self.count + other.count)


def read_pss(pid: int) -> Reading:
    """What `pid` takes now; nothing when it has just ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = file.read().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return Reading()
    kb = {line.split(b":")[0]: int(line.split()[1]) for line in lines}
    if not kb:
        return Reading()
    return Reading(kb[b"Pss"], kb[b"Private_Clean"] + kb[b"Private_Dirty"], 1)


def highest_rss(pid: int) -> int:
    """kB, the kernel's own record of this process; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"VmHWM")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid: int) -> list[int]:
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found + [grandchild for child in found for grandchild in descendants(child)]


def process_of(home: str, is_it: Callable[[list[str]], bool]) -> int:
    """The process with IPDC_HOME=`home` whose command line satisfies `is_it`; not a child of another such."""
    marker, found = f"IPDC_HOME={home}".encode(), {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = marker in file.read().split(b"\0")
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = [word.decode(errors="replace") for word in file.read().split(b"\0")[:-1]]
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if ours and words and is_it(words):
            found[int(name)] = parent
    pids = [pid for pid, parent in found.items() if parent not in found]
    if len(pids) != 1:
        raise NotMeasured(f"{len(pids)} processes instead of one for {home}: {pids}")
    return pids[0]
