"""A cgroup for each node of a lab: memory from its first byte on, or a share of a core, and what the kernel counted.

Owns the cgroups (tests/booted/cgroups.py makes them, of version 1 or 2) and how a node gets into one. Needs root.
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
from tests.bare.debian import CannotMakeDebian  # noqa: E402
from tests.booted import cgroups  # noqa: E402
from tests.network.hosts import _start_time  # noqa: E402

# joins the cgroup, then starts the node as `lab up` does
START = ("import sys; open(sys.argv[1], 'w').write('0'); from ipdc_edge.commands.laboratory import LabNode; "
         "LabNode(*sys.argv[2:]).start()")


PERIOD = 20_000  # microseconds; at the kernel's 100 ms a node would stand still for 90 of them, a slow board does not


class Share:
    """So many hundredths of one core for a node that runs already, and for all that it starts."""

    def __init__(self, name: str, percent: int, pids: list[int]) -> None:
        self.cgroup = _cgroup(name)
        try:
            self.cgroup.make(None)
            quota = PERIOD * percent // 100
            if cgroups.unified():
                (self.cgroup.memory / "cpu.max").write_text(f"{quota} {PERIOD}")
            else:
                directory = cgroups.TOP / "cpu" / self.cgroup.path
                (directory / "cpu.cfs_period_us").write_text(str(PERIOD))
                (directory / "cpu.cfs_quota_us").write_text(str(quota))
            for file in self.cgroup.procs():
                for pid in pids:
                    with open(file, "w") as procs:
                        procs.write(str(pid))
        except (CannotMakeDebian, OSError) as error:
            self.cgroup.remove()
            raise NotMeasured(f"no cgroup with a share of a core: {error}") from error

    def throttled(self) -> float:
        """Seconds for which it had to wait so far."""
        directory = self.cgroup.memory if cgroups.unified() else cgroups.TOP / "cpu" / self.cgroup.path
        found = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
        return int(found["throttled_usec"]) / 1e6 if "throttled_usec" in found else int(found["throttled_time"]) / 1e9

    def remove(self) -> None:
        """When nothing runs in it any more."""
        self.cgroup.remove()


def _cgroup(name: str) -> cgroups.Cgroup:
    owner = f"ipdc-t{os.getpid()}-{_start_time(os.getpid())}"  # so that the next run removes what this one left
    return cgroups.Cgroup(f"{owner}-{name}")


class Limit:
    """One node's memory."""

    def __init__(self, name: str, memory: int) -> None:
        self.name, self.cgroup = name, _cgroup(name)
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
