"""What a second job over the same input moves and writes, and one over a file that grew, on a lab of three.

usage: /usr/bin/python3 benchmarks/deduplication.py [--size 256M] [--rounds 3] [--json FILE]

Node 1 submits jobs that count lines and does none of their tasks; nodes 2 and 3 do, and hold nothing of the input
before the first one of a round. In every round: a job without a cache (`input_cache = 0`), a first job, a second one
over the same file, and one over the file with a tenth appended. For each: input that came to workers from node 1 (what
the job's status says), what its workers' daemons handed to their disks (/proc/PID/io, with runners that have ended,
after a sync), and seconds from submission to the result. Medians, least and most.

Exit code: 0; 1 where the median second job moves any input, or the third more than what is new; 2 when it was not
measured. The lab lies below /var/tmp: where that is memory, no kernel counts bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from statistics import median
from typing import Any, NamedTuple

from flash import Lab, written  # beside this file
from memory import parse_size
from processes import NotMeasured
from text import NoDictionary, make_text

CODE = """\
def map_lines(lines):
    yield "lines", sum(1 for _ in lines)


def reduce(key, values):
    yield key, sum(values)
"""
JOBS = ("without a cache", "first job", "second job", "a tenth appended")
BLOCK = 1 << 20
PATIENCE = 60.0  # seconds for a setting


class Run(NamedTuple):
    """One job: bytes of input that its workers fetched, bytes that they wrote, seconds."""

    moved: int
    wrote: int
    wall: float


class Domain(Lab):
    """Three nodes, of which two work."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, 3)
        self.run("drain")
        self.code = os.path.join(directory, "Count.py")
        with open(self.code, "w") as file:
            file.write(CODE)

    def forget(self, cache: str) -> None:
        """Workers hold no input, and keep it as this setting says."""
        for home in self.homes[1:]:
            for setting in ("0", cache):
                self._take_up(home, setting)

    def _take_up(self, home: str, setting: str) -> None:
        path = os.path.join(home, "ipdc.conf")
        with open(path) as file:
            lines = [line for line in file if not line.startswith("input_cache")]
        with open(path, "w") as file:
            file.writelines([*lines, f"input_cache = {setting}\n"])
        os.kill(self.pid(home, "daemon"), signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while setting == "0" and any(owner.startswith("cached.") for owner in self.ask(home)["owners"]):
            if time.monotonic() > end:
                raise NotMeasured("what was kept does not go")
            time.sleep(0.1)

    def job(self, text: str) -> Run:
        """Submit, wait for the result, and look what it took."""
        before = self.wrote()
        began = time.monotonic()
        told = self.run("submit", self.code, "--input", text, "-k", "2", "--json").splitlines()[-1]
        wall = time.monotonic() - began
        self.wait_idle()
        status = json.loads(self.run("status", json.loads(told)["id"], "--json"))
        return Run(int(status["fetched_bytes"]), self.wrote() - before, wall)

    def wrote(self) -> int:
        os.sync()  # or what was written last is counted with the next job
        return sum(written(self.pid(home, "daemon")) for home in self.homes[1:])

    def wait_idle(self) -> None:
        end = time.monotonic() + PATIENCE
        while any(self.ask(home)["held_jobs"] for home in self.homes):
            if time.monotonic() > end:
                raise NotMeasured("a job was not cleaned up")
            time.sleep(0.1)


def measure(domain: Domain, size: int, rounds: int) -> dict[str, Any]:
    text = os.path.join(domain.directory, "text")
    make_text(text, size)
    size = os.path.getsize(text)
    new = size // 10 + size % BLOCK  # the last block of before is another one now
    runs: dict[str, list[Run]] = {name: [] for name in JOBS}
    for _ in range(rounds):
        os.truncate(text, size)
        for name, cache in zip(JOBS, ("0", "auto", "", "")):
            if cache:
                domain.forget(cache)
            if name == JOBS[-1]:
                with open(text, "rb+") as file:
                    start = file.read(size // 10)
                    file.seek(size)
                    file.write(start)
            runs[name].append(domain.job(text))
            print(f"{name}: {runs[name][-1]}", flush=True)
    second, third = (int(median(run.moved for run in runs[name])) for name in JOBS[2:])
    over = [f"the second job moved {second} bytes"] if second else []
    if third > new + 2 * BLOCK:  # blocks at the end of a split may go to both sides
        over.append(f"the third job moved {third} bytes, {new} are new")
    return {"size": size, "new": new, "runs": {name: [run._asdict() for run in each] for name, each in runs.items()},
            "over": over}


def table(found: dict[str, Any]) -> str:
    lines = ["| | input moved, MB | written by workers, MB | s | least to most |", "| --- | ---: | ---: | ---: | --- |"]
    for name, runs in found["runs"].items():
        walls = sorted(run["wall"] for run in runs)
        moved, wrote = (median(run[key] for run in runs) / 1e6 for key in ("moved", "wrote"))
        lines.append(f"| {name} | {moved:.1f} | {wrote:.1f} | {median(walls):.2f} |"
                     f" {walls[0]:.2f} to {walls[-1]:.2f} |")
    return "\n".join([*lines, *(f"OVER: {line}" for line in found["over"])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("256M"), metavar="BYTES")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="ipdc-deduplication-", dir="/var/tmp")
    domain = None
    try:
        domain = Domain(directory)
        found = measure(domain, args.size, args.rounds)
    except (NotMeasured, NoDictionary) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        if domain is not None:
            domain.run("lab", "down", "--dir", directory)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
          f"{found['size']} bytes, {found['new']} in new blocks after a tenth is appended")
    print(table(found))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)
    return 1 if found["over"] else 0


if __name__ == "__main__":
    sys.exit(main())
