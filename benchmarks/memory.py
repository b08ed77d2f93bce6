"""How much memory a node needs: idle, and while word count runs over 64 MB and over 1 GB of text.

usage: /usr/bin/python3 benchmarks/memory.py [--sizes 64M,1G] [--nodes 3] [--limit 64M] [--json FILE] [--keep DIR]

Starts a lab, waits until its readings are stable, then submits a job for each size (a short one several times, so that
its peak is not missed more easily than a long one's) and reads the PSS
(/proc/PID/smaps_rollup) of every process of every node about ten times a second: the daemon, its broker, and
all children of the daemon (the runners). A node's sum is of one sweep, so its peak is of things that were
there at the same time. A job's word total is compared with the text's: one that does less must not look lean.

With --limit each node runs in a memory cgroup of its own (limits.py), whose peak is told; a node that the kernel had to
kill something of, or that swapped, is over its budget.

Exit code: 0 within the budgets of issue 2, 1 over one of them, 2 when it was not measured. 1 MB is 1024 kB.

What the figures do not say: PSS shares the interpreter's and the libraries' pages among all that map them, so
three nodes on one machine look smaller than one alone, by about 8 MB for the daemon and 3 for the broker; so
does one beside any other program in Python. `--nodes 1` in a fresh root (tests/bare/debian.py) is nearer to a
board with nothing else. `private` counts no shared page at all. Peaks between two readings are missed; `highest
rss` is the kernel's own record, with all shared pages. On other hardware only ratios carry over.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field

from ending import Measured, ended  # beside this file
from limits import Limit
from processes import NotMeasured, Reading, descendants, highest_rss, process_of, read_pss
from text import make_text

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"
KINDS = ("daemon", "broker", "runners")
BUDGET = {"idle daemon": 27.0, "idle broker": 5.0, "node sum on the largest text": 64.0, "growth": 1.10}
INTERVAL = 0.1  # seconds between sweeps
LIMIT = 3600  # seconds for a job: one that hangs is not waited for
BOARD = "24M"  # what a job gets on boards; where all nodes have much, it would get more
SWEEPS, REPEATS = 500, 8  # a text's job runs again, at most so often, until so many sweeps have looked at it
MAP = """\
def map(key, line):
    for word in line.split():
        yield word, 1


def combine(key, values):
    yield key, sum(values)
"""
REDUCE = """\
def reduce(key, values):
    yield key, sum(values)
"""


# ---- nodes -------------------------------------------------------------------------------------------------
def zeros() -> dict[str, int]:
    return dict.fromkeys(KINDS, 0)


@dataclass
class Peaks:
    """The highest of everything since a job began; kB."""

    sum: int = 0
    sum_private: int = 0
    pss: dict[str, int] = field(default_factory=zeros)
    rss: dict[str, int] = field(default_factory=zeros)
    runners_at_once: int = 0


@dataclass
class Node:
    """A node's processes, and their peaks."""

    name: str
    daemon: int
    broker: int
    peaks: Peaks = field(default_factory=Peaks)

    def sweep(self) -> dict[str, Reading]:
        children = descendants(self.daemon)
        now = {
            "daemon": read_pss(self.daemon),
            "broker": read_pss(self.broker),
            "runners": sum(map(read_pss, children), Reading()),
        }
        if not (now["daemon"].count and now["broker"].count):
            raise NotMeasured(f"a process of {self.name} has ended, see its log directory")
        total, peaks = sum(now.values(), Reading()), self.peaks
        peaks.sum, peaks.sum_private = max(peaks.sum, total.pss), max(peaks.sum_private, total.private)
        peaks.runners_at_once = max(peaks.runners_at_once, now["runners"].count)
        for kind in KINDS:
            peaks.pss[kind] = max(peaks.pss[kind], now[kind].pss)
        for child in children:
            peaks.rss["runners"] = max(peaks.rss["runners"], highest_rss(child))
        return now

    def figures(self) -> dict:
        peaks = self.peaks
        peaks.rss.update(daemon=highest_rss(self.daemon), broker=highest_rss(self.broker))
        return {
            "node": self.name,
            "sum": mb(peaks.sum),
            "sum_private": mb(peaks.sum_private),
            **{kind: mb(kb) for kind, kb in peaks.pss.items()},
            "runners_at_once": peaks.runners_at_once,
            "highest_rss": {kind: mb(kb) for kind, kb in peaks.rss.items()},
        }


def mb(kb: int) -> float:
    return round(kb / 1024, 2)


# ---- lab ---------------------------------------------------------------------------------------------------
class Lab:
    """`ipdc-edge lab up` and down, through the same commands that a person types."""

    def __init__(self, directory: str, nodes: int, limit: int = 0) -> None:
        self.directory, self.count, self.limit = directory, nodes, limit
        # without .pyc files every interpreter compiles the package for itself: 5 MB more
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment.update(PYTHONPATH=CHECKOUT, LANG="C.UTF-8")
        self.environment.pop("IPDC_HOME", None)
        self.limits: list[Limit] = []

    def home(self, number: int) -> str:
        return os.path.join(self.directory, f"node{number}")

    def command(self, *words: str) -> list[str]:
        return [PYTHON, "-m", "ipdc_edge", *words]

    def _run(self, *words: str) -> None:
        ended = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True)
        if ended.returncode != 0:
            said = f"{ended.stdout}{ended.stderr}"
            raise NotMeasured(f"ipdc-edge {' '.join(words)}: exit {ended.returncode}\n{said}")

    def up(self) -> list[Node]:
        compiled = [PYTHON, "-m", "compileall", "-q", os.path.join(CHECKOUT, "ipdc_edge")]
        subprocess.run(compiled, env=self.environment, check=True)
        self._up()
        if self.limit:  # memory belongs to the cgroup in which it was first used: so they begin anew
            self.down()
            for number in range(1, self.count + 1):
                self.limits.append(Limit(f"node{number}", self.limit))
                self.limits[-1].start(PYTHON, self.directory, self.environment)
            self._up()  # waits until they see each other
        return [self._node(number) for number in range(1, self.count + 1)]

    def _up(self) -> None:
        self._run("lab", "up", "--nodes", str(self.count), "--dir", self.directory)

    def _node(self, number: int) -> Node:
        home = self.home(number)
        daemon = process_of(home, lambda words: "ipdc_edge" in words and "run" in words)
        broker = process_of(home, lambda words: os.path.basename(words[0]) == "mosquitto")
        return Node(f"node{number}", daemon, broker)

    def down(self) -> None:
        self._run("lab", "down", "--dir", self.directory)
        while self.limits:
            self.limits.pop().remove()

    def submit(self, text: str) -> subprocess.Popen:
        words = ["submit", *self._program(), "--input", text, "-k", str(self.count), "--memory", BOARD, "--wait",
                 "--json"]
        environment = {**self.environment, "IPDC_HOME": self.home(1)}
        log = open(os.path.join(self.directory, "submit.log"), "wb")
        with log:
            return subprocess.Popen(self.command(*words), env=environment, stdout=log, stderr=log)

    def _program(self) -> list[str]:
        paths = [os.path.join(self.directory, name) for name in ("Map.py", "Reduce.py")]
        for path, source in zip(paths, (MAP, REDUCE), strict=True):
            with open(path, "w") as file:
                file.write(source)
        return paths

    def total_of_newest_job(self) -> int:
        """The sum of all counts in the parts of the job that came last."""
        jobs = os.path.join(self.home(1), "jobs")
        newest = os.path.join(jobs, max(os.listdir(jobs)))  # ids sort by time
        total = 0
        for name in sorted(name for name in os.listdir(newest) if name.startswith("part-")):
            with open(os.path.join(newest, name), "rb") as part:
                total += sum(int(line.rpartition(b"\t")[2]) for line in part)
        return total

    def logs(self) -> str:
        """The ends of all logs, for whoever must find out what failed."""
        paths = [os.path.join(self.directory, "submit.log")]
        for number in range(1, self.count + 1):
            paths += [os.path.join(self.home(number), "log", name) for name in ("daemon.log", "broker.log")]
        ends = []
        for path in filter(os.path.exists, paths):
            with open(path, errors="replace") as file:
                ends.append(f"--- {path}\n" + "".join(deque(file, 15)))
        return "\n".join(ends)


# ---- measuring ---------------------------------------------------------------------------------------------
def settle(nodes: list[Node], window: int = 20, slack: int = 150, patience: float = 180) -> list[dict]:
    """Reads twice a second until no process moved by more than `slack` kB for `window` readings.

    Returns one dict a node: {"node", kind: {"pss", "private"}}, the highest of the window, MB.
    """
    history: deque[list[dict[str, Reading]]] = deque(maxlen=window)
    deadline, spread = time.monotonic() + patience, 0
    while time.monotonic() < deadline:
        history.append([node.sweep() for node in nodes])
        series = [{kind: [sweep[i][kind] for sweep in history] for kind in KINDS} for i in range(len(nodes))]
        spread = max(apart([r.pss for r in row]) for of in series for row in of.values())
        if len(history) == window and spread <= slack:
            return [{"node": node.name, **highest(of)} for node, of in zip(nodes, series, strict=True)]
        time.sleep(0.5)
    raise NotMeasured(f"the readings did not settle within {patience:.0f} s: still {spread} kB apart")


def apart(values: list[int]) -> int:
    return max(values) - min(values)


def highest(series: dict[str, list[Reading]]) -> dict[str, dict[str, float]]:
    return {
        kind: {"pss": mb(max(r.pss for r in row)), "private": mb(max(r.private for r in row))}
        for kind, row in series.items()
    }


def measure_jobs(lab: Lab, nodes: list[Node], size: int) -> dict:
    """Jobs over about `size` bytes: the wall seconds of the first, and every node's peaks.

    A job of seconds is looked at in few moments and its highest one is easily missed, that of a long one hardly:
    so the short one runs again until both have been looked at about as often.
    """
    path = os.path.join(lab.directory, "text")
    words = make_text(path, size)
    for node in nodes:
        node.peaks = Peaks()
    seconds, sweeps = measure_job(lab, nodes, path, words)
    runs = 1
    while sweeps < SWEEPS and runs < REPEATS:
        sweeps += measure_job(lab, nodes, path, words)[1]
        runs += 1
    text = {"bytes": os.path.getsize(path), "words": words}
    os.unlink(path)
    limits = [{"node": limit.name, **limit.figures()} for limit in lab.limits]
    times = {"seconds": round(seconds, 1), "runs": runs, "sweeps": sweeps}
    return {**text, **times, "nodes": [node.figures() for node in nodes], "limits": limits}


def measure_job(lab: Lab, nodes: list[Node], path: str, words: int) -> tuple[float, int]:
    """One job over the text at `path`: its wall seconds, and how many sweeps looked at it."""
    size = os.path.getsize(path)
    started, sweeps = time.monotonic(), 0
    job = lab.submit(path)
    try:
        while job.poll() is None:
            begun = time.monotonic()
            for node in nodes:
                node.sweep()
            sweeps += 1
            if begun - started > LIMIT:
                raise NotMeasured(f"the job over {size} bytes did not end within {LIMIT} s")
            time.sleep(max(0.0, INTERVAL - (time.monotonic() - begun)))
    finally:
        if job.poll() is None:
            job.terminate()
            job.wait()
    seconds = time.monotonic() - started
    if job.returncode != 0:
        raise NotMeasured(f"the job over {size} bytes failed: exit {job.returncode}")
    total = lab.total_of_newest_job()
    if total != words:
        raise NotMeasured(f"the job counted {total} words, the text has {words}")
    return seconds, sweeps


def over_budget(result: dict) -> list[str]:
    """One line for each budget that does not hold."""
    over = []

    def hold(name: str, value: float, limit: float) -> None:
        if value > limit:
            over.append(f"{name}: {value:.2f}, at most {limit:.2f}")

    for node in result["idle"]:
        hold(f"idle daemon of {node['node']}, MB", node["daemon"]["pss"], BUDGET["idle daemon"])
        hold(f"idle broker of {node['node']}, MB", node["broker"]["pss"], BUDGET["idle broker"])
    jobs = sorted(result["jobs"], key=lambda job: job["bytes"])
    if jobs:
        for node in jobs[-1]["nodes"]:
            limit = BUDGET["node sum on the largest text"]
            hold(f"{node['node']} on {jobs[-1]['bytes']} bytes, MB", node["sum"], limit)
    if len(jobs) > 1:
        small, large = (max(node["sum"] for node in job["nodes"]) for job in (jobs[0], jobs[-1]))
        hold("the largest node's peak, largest text against smallest", large / small, BUDGET["growth"])
    for job in jobs:
        for limit in job["limits"]:
            hold(f"swap of {limit['node']} on {job['bytes']} bytes, MB", limit["swap"], 0)
    return [*over, *result["killed"]]


def table(result: dict) -> str:
    """The result as Markdown, as in benchmarks/RESULTS.md."""
    lines = [f"{result['machine']}; {result['software']}; {len(result['idle'])} nodes; PSS in MB", ""]
    lines += ["| idle | daemon | private | broker | private |", "| --- | ---: | ---: | ---: | ---: |"]
    for title, rows in ("idle", result["idle"]), ("after the jobs", result["after"]):
        for row in rows:
            cells = [row[kind][what] for kind in ("daemon", "broker") for what in ("pss", "private")]
            lines.append(f"| {row['node']} {title} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    heads = ["peak", "sum", "sum private", *KINDS, "runners at once", "highest rss daemon", "runner"]
    lines += ["", "| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for job in result["jobs"]:
        for row in job["nodes"]:
            rss = row["highest_rss"]
            cells = [row["sum"], row["sum_private"], *(row[kind] for kind in KINDS), row["runners_at_once"]]
            text = " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
            name = f"{job['bytes'] / 2**20:.0f} MB, {job['seconds']:.0f} s, {row['node']}"
            lines.append(f"| {name} | {text} | {rss['daemon']:.1f} | {rss['runners']:.1f} |")
    for job in result["jobs"]:
        lines += [f"cgroup of {limit['node']}, {job['bytes'] / 2**20:.0f} MB of text: peak {limit['peak']:.1f} of "
                  f"{result['limit'] / 2**20:.0f} MB with the cache of files, swap {limit['swap']:.1f}"
                  for limit in job["limits"]]
    lines += ["", *(f"OVER: {line}" for line in result["over"])]
    return "\n".join(lines if result["over"] else [*lines, "within the budgets"])


def describe() -> tuple[str, str]:
    """The machine and the software, one line each."""
    commands = [PYTHON, "--version"], ["/usr/sbin/mosquitto", "-h"]
    said = [subprocess.run(command, capture_output=True, text=True).stdout for command in commands]
    software = ", ".join(text.splitlines()[0] for text in said if text)
    return f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}", software


def parse_size(text: str) -> int:
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1].upper()]


def measure(lab: Lab, sizes: list[int]) -> dict:
    nodes = lab.up()
    machine, software = describe()
    result: dict = {"machine": machine, "software": software, "budgets": BUDGET}
    result["idle"] = settle(nodes)
    result["jobs"] = [measure_jobs(lab, nodes, size) for size in sizes]
    result["after"] = settle(nodes) if sizes else []
    result["limit"] = lab.limit
    result["killed"] = [line for limit in lab.limits for line in limit.killed()]
    result["over"] = over_budget(result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="64M,1G", help="texts, with commas between; empty: idle only")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--limit", type=parse_size, default=0, help="a cgroup for each node, such as 64M; needs root")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", metavar="DIR", help="use this new directory for the lab and keep it")
    options = parser.parse_args()
    directory = options.keep or tempfile.mkdtemp(prefix="ipdc-memory-", dir="/var/tmp")
    os.makedirs(directory, exist_ok=True)
    lab = Lab(os.path.abspath(directory), options.nodes, options.limit)

    def measured() -> Measured:
        result = measure(lab, [parse_size(text) for text in options.sizes.split(",") if text])
        return Measured(table(result), result, bool(result["over"]))

    return ended(measured, lab, None if options.keep else directory, options.json)


if __name__ == "__main__":
    sys.exit(main())
