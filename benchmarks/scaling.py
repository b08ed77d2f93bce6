"""How much faster many slow nodes are than one: a job that only computes, on nodes that have a tenth of a core each.

usage: /usr/bin/python3 benchmarks/scaling.py [--nodes 16] [--share 10] [--work 64] [--pairs 3] [--json FILE]

example: /usr/bin/python3 benchmarks/scaling.py --work 8 --pairs 1     (a try, of two minutes)

Two labs with TLS, of one node and of many, each node (daemon, broker and runners) in a cgroup of its own that has so
many hundredths of a core: 16 nodes of 10 % fill 1.6 cores, so the machine needs two and nothing else to do. The job has
eight maps a node, which hash, `--work` processor seconds in all; the one node runs the same job of as many maps. A pair
is one job on each, one after the other; the ratio is of the wall times that the shell sees, within a pair. The command
itself is not held back. Needs root and cgroups.

Exit code: 0; 1 where the speed-up is less than 0.85 of the number of nodes; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from limits import Share  # beside this file
from memory import Lab
from processes import NotMeasured, descendants
from trial import Took, head, run, spread, table, up

LEAST = 0.85  # of the number of nodes
SPLITS = 8  # small files for each worker asked for; up to 16 stay apart (apps/mapreduce/plan.py)
LINES = 16  # of each: a map tells how far it is
MAP = """\
import hashlib


def map_lines(lines):
    count = 0
    for line in lines:
        hashlib.pbkdf2_hmac("sha256", line.encode(), b"ipdc", {rounds})
        count += 1
    yield "lines", count
"""


def rounds_for(seconds: float) -> int:
    """How many rounds of the hash take so many processor seconds here: the best of some tries."""
    tries, best = 20_000, float("inf")
    for _ in range(5):
        began = time.process_time()
        hashlib.pbkdf2_hmac("sha256", b"x", b"ipdc", tries)
        best = min(best, time.process_time() - began)
    return max(1, int(tries * seconds / best))


class Slow:
    """A lab whose nodes are held to a share of a core."""

    def __init__(self, directory: str, nodes: int, percent: int) -> None:
        self.lab = Lab(directory, nodes)
        self.shares: list[Share] = []
        self.nodes = up(self.lab)
        for node in self.nodes:
            pids = [node.broker, node.daemon, *descendants(node.daemon)]
            self.shares.append(Share(f"{os.path.basename(directory)}-{node.name}", percent, pids))

    def job(self, program: str, inputs: str, workers: int) -> Took:
        """One, with all its lines counted."""
        env = {**self.lab.environment, "IPDC_HOME": self.lab.home(1)}
        behind = [pid for node in self.nodes for pid in (node.daemon, node.broker)]
        words = self.lab.command("submit", program, "--input", inputs, "-k", str(workers), "--wait", "--json")
        took = run(words, env, os.path.join(self.lab.directory, "submit.log"), behind)[0]
        found, wanted = self.lab.total_of_newest_job(), LINES * len(os.listdir(inputs))
        if found != wanted:
            raise NotMeasured(f"the job counted {found} lines of {wanted}")
        return took

    def throttled(self) -> float:
        """Seconds that nodes had to wait so far, of all."""
        return sum(share.throttled() for share in self.shares)

    def end(self) -> None:
        """Stops the nodes, and removes their cgroups."""
        try:
            self.lab.down()
        except NotMeasured as error:
            print(error, file=sys.stderr)
        while self.shares:
            self.shares.pop().remove()


def measure(directory: str, nodes: int, percent: int, work: float, pairs: int) -> dict[str, Any]:
    """Runs of one and of many."""
    tasks = SPLITS * nodes
    inputs, program = os.path.join(directory, "inputs"), os.path.join(directory, "Map.py")
    os.mkdir(inputs)
    for number in range(tasks):
        Path(inputs, f"{number:04}").write_text("".join(f"{number} {line}\n" for line in range(LINES)))
    Path(program).write_text(MAP.format(rounds=rounds_for(work / (tasks * LINES))))
    labs: dict[str, Slow] = {}
    times: dict[str, list[Took]] = {"one": [], "many": []}
    try:
        for name, count in (("one", 1), ("many", nodes)):
            labs[name] = Slow(os.path.join(directory, name), count, percent)
        for number in range(pairs):
            for name, lab in labs.items():
                times[name].append(lab.job(program, inputs, nodes))
                print(f"pair {number + 1}: {name}: {times[name][-1].wall:.1f} s", file=sys.stderr, flush=True)
        if not all(lab.throttled() for lab in labs.values()):
            raise NotMeasured("nobody was held back: the cgroups do not work")
        return {"nodes": nodes, "share": percent, "work": work, "times": times}
    finally:
        for lab in labs.values():
            lab.end()


def report(found: dict[str, Any]) -> tuple[str, bool]:
    """Markdown, and whether the goal is missed."""
    nodes, times = found["nodes"], found["times"]
    rows = [[f"{count} {'node' if count == 1 else 'nodes'} of {found['share']} % of a core",
             spread([took.wall for took in times[name]]), spread([took.processor for took in times[name]])]
            for name, count in (("one", 1), ("many", nodes))]
    ratios = [one.wall / many.wall for one, many in zip(times["one"], times["many"])]
    share = median(ratios) / nodes
    said = (f"speed-up {spread(ratios)}, {share:.2f} of {nodes}, at least {LEAST}: "
            f"{'holds' if share >= LEAST else 'MISSED'}")
    heads = [f"{SPLITS * nodes} maps, {found['work']:g} processor s of hashing", "wall s", "processor s"]
    return f"{table(heads, rows)}\n\n{said}", share < LEAST


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--share", type=int, default=10, metavar="PERCENT", help="of a core, for each node")
    parser.add_argument("--work", type=float, default=64.0, metavar="SECONDS", help="of a processor, in the whole job")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="ipdc-scaling-", dir="/var/tmp")
    try:
        found = measure(directory, options.nodes, options.share, options.work, options.pairs)
    except NotMeasured as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text, missed = report(found)
    print(f"{head()}\n\n{text}")
    if options.json:
        Path(options.json).write_text(json.dumps({"head": head(), **found}, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
