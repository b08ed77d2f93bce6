"""What a board with 128 MB goes through, and what it took: install, reboot, a bigger node's job, a job of its own.

Owns the order of things and the figures. The board is qemu's (machine.py), the bigger node a real one on a host of
tests/network/hosts.py, which is the board's network too. Figures are the board's own: what the kernel calls available,
PSS, bytes that reached its disk. Judges nothing: test_board.py does.

usage: python3 -m tests.board.scenario [--deb FILE] [--json FILE] [--size BYTES]          prints a table
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.board.jobs import SIZE, own_job, readings, work_for
from tests.board.machine import Board
from tests.network.hosts import Domain, DomainNode, Network
from tests.package.building import build
from tests.waiting import eventually

# Prints at its end, by SIGTERM. Only builtins: it may not take what it is to measure.
WATCH = r"""#!/bin/bash
low=999999999 swap=0 looks=0
declare -A high
report() { echo "available $low"; echo "swap $swap"; for k in "${!high[@]}"; do echo "$k ${high[$k]}"; done; }
trap 'report; exit' TERM
exec 9<> <(:)
while :; do
  while read -r name kb _; do
    case $name in
      MemAvailable:) ((kb < low)) && low=$kb ;;
      SwapTotal:) total=$kb ;;
      SwapFree:) ((total - kb > swap)) && swap=$((total - kb)) ;;
    esac
  done < /proc/meminfo
  ((looks++ % 4)) || for procs in /sys/fs/cgroup/ipdc.slice/{,ipdc-r*.slice/}*.service/cgroup.procs; do
    kind=${procs%/*}; kind=${kind##*/}; kind=${kind%%[@.]*}
    sum=0
    while read -r pid; do
      while read -r name kb _; do [ $name != Pss: ] || { ((sum += kb)); break; }; done < /proc/$pid/smaps_rollup
    done < $procs
    ((sum > ${high[$kind]:-0})) && high[$kind]=$sum
  done 2>/dev/null
  read -t 0.5 -u 9
done
"""
# `is-active` of both at once is content with one
ACTIVE = "systemctl is-active --quiet ipdc-broker && systemctl is-active --quiet ipdc-edge"
KILLED = "dmesg | grep -iE 'out of memory|oom-kill|killed process' || true"


class Scenario:
    """One board's day."""

    def __init__(self, board: Board, network: Network, directory: str, size: int) -> None:
        self.board, self.network, self.directory, self.size = board, network, directory, size
        self.figures: dict[str, Any] = {"phases": {}}

    def phase(self, name: str) -> _Phase:
        """What happens inside is watched, and its figures are kept under that name."""
        return _Phase(self, name)

    def run(self) -> dict[str, Any]:
        board, figures = self.board, self.figures
        figures["boot_seconds"] = (round(time.monotonic() - board.began, 1), round(board.emulated(), 1))
        board.run("systemctl is-system-running --wait", seconds=600, check=False)
        board.write("/root/watch", WATCH)
        figures["memory"] = dict(re.findall(r"(\w+): +(\d+) kB", board.run("head -n 3 /proc/meminfo").stdout))
        with self.phase("install"):
            board.run("DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 install --no-install-recommends "
                      "/root/ipdc-edge.deb", seconds=1200)
            board.eventually(ACTIVE, "daemon and broker are active", 600)
        board.reboot()
        board.eventually(ACTIVE, "they are active after a reboot", 900)
        figures["ready_after"] = self._seconds_to_ready()
        board.run("systemctl is-system-running --wait", seconds=600, check=False)
        with self.phase("idle"):
            board.run("sleep 15")
        bigger = self._join()
        with self.phase("works"):
            figures["works"] = work_for(bigger, self.directory)
        bigger.stop()
        with self.phase("masters"):
            figures["masters"] = own_job(board, "/root/text", self.size)
        figures["killed"] = board.run(KILLED).stdout.strip()
        figures["failed"] = board.run("systemctl list-units --failed --plain --no-legend").stdout.strip()
        figures["swaps"] = board.run("cat /proc/swaps").stdout.strip().splitlines()[1:]
        figures["peaks"] = board.run("cd /sys/fs/cgroup/ipdc.slice; grep . memory.peak */memory.peak").stdout.split()
        return figures

    def _seconds_to_ready(self) -> dict[str, float]:
        """After the kernel's start: since when what has been active."""
        found = {}
        for unit in ("ipdc-broker", "ipdc-edge"):
            said = self.board.run(f"systemctl show -P ActiveEnterTimestampMonotonic {unit}").stdout
            found[unit] = round(int(said) / 1e6, 1)
        return found

    def _join(self) -> DomainNode:
        domain = Domain(self.network, self.directory, 1, sandbox="rlimits")  # sees the gate
        bigger = domain.nodes[0]
        self.board.run(f"ipdc-edge join {bigger.invite()}", seconds=600)
        eventually(lambda: "board" in bigger.ready(), "the bigger node sees the board ready", 300)
        return bigger


class _Phase:
    """Watches the board while a part of the scenario runs."""

    def __init__(self, scenario: Scenario, name: str) -> None:
        self.board, self.found = scenario.board, scenario.figures["phases"].setdefault(name, {})
        self.name = name

    def _written(self) -> int:
        return int(self.board.run("sync; set -- $(cat /sys/block/vda/stat); echo $7").stdout) * 512  # sectors

    def __enter__(self) -> None:
        print(f"-- {self.name}", file=sys.stderr, flush=True)
        self.before, self.began, self.emulated = self._written(), time.monotonic(), self.board.emulated()
        self.board.run("bash /root/watch > /run/watched 2>&1 & echo $! > /run/watch.pid")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        seconds, emulated = time.monotonic() - self.began, self.board.emulated() - self.emulated
        self.board.run("p=$(cat /run/watch.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done")
        lines = self.board.run("cat /run/watched").stdout.split("\n")
        self.found |= {name: int(value) for name, value in (line.split() for line in lines if line)}
        self.found |= {"seconds": round(seconds, 1), "emulated": round(emulated, 1),
                       "written": self._written() - self.before}
        print(f"   {self.found}", file=sys.stderr, flush=True)


def run(deb: Path, size: int = SIZE) -> dict[str, Any]:
    """The figures of one board, from its first boot to the end of its own job."""
    directory = tempfile.mkdtemp(prefix="ipdc-board-", dir="/tmp")  # short: the path of a socket is bounded
    try:
        text = Path(directory, "text")
        text.write_bytes(readings(size, 2)[0])
        with Network() as network, Board(network, deb, text) as board:
            return Scenario(board, network, directory, size).run()
    finally:
        shutil.rmtree(directory)


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown, as in benchmarks/RESULTS.md; kB and bytes become MB."""
    kinds = ("ipdc-edge", "ipdc-broker", "ipdc-runner")
    lines = ["| MB, on 128 | available at least | " + " | ".join(f"PSS {kind}" for kind in kinds)
             + " | written | seconds | of emulation |", "| --- |" + " ---: |" * (len(kinds) + 4)]
    for name, phase in figures["phases"].items():
        cells = [phase["available"] / 1024, *(phase.get(kind, 0) / 1024 for kind in kinds), phase["written"] / 2**20]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {phase['seconds']:.0f} "
                     f"| {phase['emulated']:.0f} |")
    lines += ["", f"ready after the kernel's start, seconds (emulated): {figures['ready_after']}",
              f"own job: {figures['masters']}", f"for the bigger node: {figures['works']}",
              f"peaks of cgroups: {figures['peaks']}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--deb", type=Path)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--size", type=int, default=SIZE)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing is left
    figures = run(options.deb or build(), options.size)
    if options.json:
        Path(options.json).write_text(json.dumps(figures))
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
