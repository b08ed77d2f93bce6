"""A memory cgroup for each node of a lab, from its first byte on: what the node may take, and what the kernel counted.

Owns the cgroups (tests/booted/cgroups.py makes them, of version 1 or 2) and the start of a node inside one. Needs root.
The kernel counts the cache of files too, and takes that back when the limit is reached: so a peak at the limit says
only that files were read, and what counts is that nothing was killed or swapped.
"""

from __future__ import annotations

import os
import subprocess
import sys

from processes import NotMeasured  # beside this file

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, CHECKOUT)
from tests.booted import cgroups  # noqa: E402
from tests.network.hosts import _start_time  # noqa: E402

# joins the cgroup, then starts the node as `lab up` does
START = ("import sys; open(sys.argv[1], 'w').write('0'); from ipdc_edge.commands.laboratory import LabNode; "
         "LabNode(*sys.argv[2:]).start()")


class Limit:
    """One node's."""

    def __init__(self, name: str, memory: int) -> None:
        owner = f"ipdc-t{os.getpid()}-{_start_time(os.getpid())}"  # so that the next run removes what this one left
        self.name, self.cgroup = name, cgroups.Cgroup(f"{owner}-{name}")
        try:
            self.cgroup.make(memory)
        except (AssertionError, OSError) as error:
            raise NotMeasured(f"no cgroup with a limit: {error}") from error

    def start(self, python: str, directory: str, environment: dict[str, str]) -> None:
        """Starts the lab's node of this name inside."""
        command = [python, "-c", START, str(self.cgroup.memory / "cgroup.procs"), directory, self.name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"{self.name} did not start in its cgroup: {done.stderr}")

    def figures(self) -> dict[str, float]:
        """In MB: the peak of all that is counted, the cache of files included, what is no cache now, and swap."""
        return {"peak": round(cgroups.peak(self.cgroup.memory) / 2**20, 1),
                "available": round(cgroups.available(self.cgroup.memory) / 2**20, 1),
                "swap": round(cgroups.swapped(self.cgroup.memory) / 2**20, 1)}

    def killed(self) -> list[str]:
        """One line for each process that the kernel ended."""
        return [f"{self.name}: {line}" for line in self.cgroup.oom_kills()]

    def remove(self) -> None:
        self.cgroup.remove()
