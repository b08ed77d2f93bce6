"""What a job costs besides its work: a job over 1 kB, empty tasks, and many nodes on this machine.

usage: /usr/bin/python3 benchmarks/latency.py [--rounds 11] [--tasks 2000] [--crowd 50] [--only kilobyte|tasks|crowd]
           [--json FILE]

kilobyte: a word count over 1 kB on a warm lab of three, by the clock of the shell: from the start of `ipdc-edge submit`
to its end, when the parts are in their place. In the same round the interpreter alone (`python3 -c pass`) and with the
command's imports (`submit --help`), which are a part of it.
tasks: a job of so many maps that read and give nothing (a sparse file of a block each), less the same job of one block,
for each task; and the processor time of all nodes for each.
crowd: so many real nodes, each a daemon and a broker, run a job of 500 such tasks, in which all are asked to take part;
how long, and what all of them take.

Exit code: 0; 1 where a goal of issue 9 is missed: 1 s for a kilobyte, 10 ms for a task, a crowd's job that succeeds and
of which every node does some; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from memory import MAP, REDUCE, Lab  # beside this file
from processes import NotMeasured, read_pss
from text import NoDictionary, make_text
from trial import Took, head, run, spread, table, up

PYTHON = "/usr/bin/python3"
MOST_JOB, MOST_TASK = 1.0, 0.010  # seconds
CROWD_TASKS = 500
BLOCK = 1 << 20
SPLITS = 4  # for each worker asked for, as apps/mapreduce/plan.py cuts input
NOTHING = "def map_lines(lines):\n    return ()\n"


class Bench:
    """A lab, and jobs on it as the shell sees them."""

    def __init__(self, directory: str, nodes: int) -> None:
        os.mkdir(directory)
        self.lab = Lab(directory, nodes)
        self.nodes = up(self.lab)
        self.directory = directory
        self.env = {**self.lab.environment, "IPDC_HOME": self.lab.home(1)}
        self.log = os.path.join(directory, "submit.log")
        self.inputs: dict[int, str] = {}  # CIDs of sparse files, by their blocks

    def file(self, name: str, text: str) -> str:
        """A file of the job's program."""
        path = Path(self.directory, name)
        path.write_text(text)
        return str(path)

    def job(self, *words: str) -> Took:
        """One job to its end; the processor time is of its command, daemons, brokers and runners."""
        behind = [pid for node in self.nodes for pid in (node.daemon, node.broker)]
        return run(self.lab.command("submit", *words, "--wait", "--json"), self.env, self.log, behind)[0]

    def newest(self) -> dict[str, Any]:
        """What `status` says of the job that came last."""
        ident = max(os.listdir(os.path.join(self.lab.home(1), "jobs")))
        said = subprocess.run(self.lab.command("status", ident, "--json"), env=self.env, capture_output=True, text=True)
        return dict(json.loads(said.stdout))

    def empty(self, count: int) -> Took:
        """A job of so many maps that do nothing, for every node there is. What it reads is added before, once: to hash
        a block takes longer than a map that does nothing."""
        if count not in self.inputs:
            sparse = os.path.join(self.directory, f"sparse-{count}")
            with open(sparse, "wb") as file:
                file.truncate(count * BLOCK)
            said = subprocess.run(self.lab.command("add", sparse), env=self.env, capture_output=True, text=True)
            if said.returncode:
                raise NotMeasured(f"add {sparse}: exit {said.returncode}\n{said.stderr}")
            self.inputs[count] = said.stdout.split()[0]
        program = self.file("Nothing.py", NOTHING)
        workers = max(1, count // SPLITS)  # more than there are nodes: all of them, and splits of a block each
        took = self.job(program, "--input", self.inputs[count], "-k", str(workers))
        if self.newest()["maps"] != {"total": count, "done": count}:
            raise NotMeasured(f"not {count} maps: {self.newest()['maps']}")
        return took

    def end(self) -> None:
        """Stops the nodes."""
        try:
            self.lab.down()
        except NotMeasured as error:
            print(error, file=sys.stderr)


def kilobyte(directory: str, rounds: int) -> dict[str, list[float]]:
    """Seconds by the clock of each."""
    bench = Bench(os.path.join(directory, "three"), 3)
    found: dict[str, list[float]] = {"job over 1 kB": [], "its command with --help": [], "interpreter alone": []}
    try:
        text = os.path.join(bench.directory, "text")
        make_text(text, 1024)
        program = [bench.file("Map.py", MAP), bench.file("Reduce.py", REDUCE)]
        for number in range(-2, rounds):  # the first two warm it up
            took = [bench.job(*program, "--input", text, "-k", "3"),
                    run(bench.lab.command("submit", "--help"), bench.env)[0],
                    run([PYTHON, "-c", "pass"], bench.env)[0]]
            if number >= 0:
                for runs, each in zip(found.values(), took):
                    runs.append(each.wall)
        return found
    finally:
        bench.end()


def tasks(directory: str, rounds: int, count: int) -> dict[str, list[Took]]:
    """Runs of the job with one task, and with many."""
    bench = Bench(os.path.join(directory, "tasks"), 3)
    found: dict[str, list[Took]] = {"1": [], str(count): []}
    try:
        bench.empty(1)
        for _ in range(rounds):
            found["1"].append(bench.empty(1))
            found[str(count)].append(bench.empty(count))
        return found
    finally:
        bench.end()


def crowd(directory: str, nodes: int) -> dict[str, Any]:
    """One job on many nodes."""
    bench = Bench(os.path.join(directory, "crowd"), nodes)
    try:
        took = bench.empty(CROWD_TASKS)
        status = bench.newest()
        pss = {kind: [read_pss(getattr(node, kind)).pss / 1024 for node in bench.nodes]
               for kind in ("daemon", "broker")}
        workers = sum(bool(node.get("tasks_done")) for node in status.get("nodes") or ())
        return {"wall": took.wall, "processor": took.processor, "state": status["state"], "workers": workers, **pss}
    finally:
        bench.end()


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="of the job over 1 kB; a third of it for empty tasks")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--crowd", type=int, default=50, help="nodes")
    parser.add_argument("--only", choices=("kilobyte", "tasks", "crowd"), action="append", default=[])
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    wanted = options.only or ["kilobyte", "tasks", "crowd"]
    directory = tempfile.mkdtemp(prefix="ipdc-latency-", dir="/var/tmp")
    figures: dict[str, Any] = {}
    try:
        if "kilobyte" in wanted:
            figures["kilobyte"] = kilobyte(directory, options.rounds)
        if "tasks" in wanted:
            figures["tasks"] = tasks(directory, max(1, options.rounds // 3), options.tasks)
        if "crowd" in wanted:
            figures["crowd"] = crowd(directory, options.crowd)
    except (NotMeasured, NoDictionary) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text, missed = report(figures, options.tasks, options.crowd)
    print(f"{head()}\n\n{text}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return 1 if missed else 0


def report(figures: dict[str, Any], count: int, nodes: int) -> tuple[str, bool]:
    """Markdown, and whether a goal is missed."""
    rows, missed = [], False

    def goal(holds: bool, text: str) -> str:
        nonlocal missed
        missed = missed or not holds
        return f"{text}: {'holds' if holds else 'MISSED'}"

    if walls := figures.get("kilobyte"):
        for name, seconds in walls.items():
            said = goal(median(seconds) <= MOST_JOB, f"at most {MOST_JOB:g} s") if name.startswith("job") else ""
            rows.append([f"{name}, s", spread(seconds, ".3f"), said])
        share = [some / whole for whole, some in zip(walls["job over 1 kB"], walls["its command with --help"])]
        rows.append(["share of the interpreter's start and imports", spread(share, ".2f"), ""])
    if runs := figures.get("tasks"):
        one, many = runs["1"], runs[str(count)]
        each = [(after.wall - before.wall) / (count - 1) * 1000 for before, after in zip(one, many)]
        processor = [(after.processor - before.processor) / (count - 1) * 1000 for before, after in zip(one, many)]
        rows.append([f"each of {count} empty tasks, ms", spread(each, ".2f"),
                     goal(median(each) <= MOST_TASK * 1000, f"at most {MOST_TASK * 1000:g} ms")])
        rows.append(["its processor time on all nodes, ms", spread(processor, ".2f"), ""])
    if found := figures.get("crowd"):
        said = goal(found["state"] == "succeeded" and found["workers"] == nodes,
                    f"{found['state']}, {found['workers']} of {nodes} nodes took part")
        rows.append([f"{CROWD_TASKS} empty tasks on {nodes} nodes, s", f"{found['wall']:.1f}", said])
        rows.append(["its processor time on all nodes, s", f"{found['processor']:.1f}", ""])
        for kind in ("daemon", "broker"):
            rows.append([f"{kind} afterwards, PSS MB", spread(found[kind]), ""])
    return table(["what a job costs", "median (least to most)", "goal"], rows), missed


if __name__ == "__main__":
    sys.exit(main())
