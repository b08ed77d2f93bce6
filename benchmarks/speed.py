"""Word count in a lab of two workers, side by side with a loop written by hand and with other systems, in one run.

usage: /usr/bin/python3 benchmarks/speed.py [--size 64M] [--pairs 5] [--only NAME...] [--slice 4M] [--json FILE]

The lab is two nodes with one slot each, TLS between them as users have it; a job is what the shell sees, from `submit`
to the parts. Its processor time is that of the command, of daemons, brokers and runners. The loop (rivals/loop.py) is
one process with the same generator `map`. Others are installed by pip, at pinned versions, into an environment in the
cache, never into the system; what cannot be had is left out, and said. Every result is checked: the words must be as
many as the text has (mawk splits at fewer kinds of space, so it may have up to a thousandth more or less).

A first round is for memory: the highest PSS, of all processes together and of the biggest of each kind. Then each pair
is one round of all; ratios are wall times against the loop's in the same round, medians, and from least to most. mrjob
has a slice of the text, so only its MB/s count. All run on as many processors as there are workers.

Exit code: 0; 1 where a goal of issue 9 is missed; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from ending import Measured, ended  # beside this file
from environments import LeftOut, environment, python_of
from flash import written
from memory import Lab, Node, parse_size
from processes import NotMeasured, descendants
from text import make_text
from trial import Peak, Took, head, run, spread, table

PYTHON = "/usr/bin/python3"
RIVALS = Path(__file__).resolve().parent / "rivals"
WORKERS = 2
MAP = "def map(key, line):\n    for word in line.split():\n        yield word, 1\n"
MAP_LINES = """\
def map_lines(lines):
    for line in lines:
        for word in line.split():
            yield word, 1
"""
COMBINE = "\n\ndef combine(key, values):\n    yield key, sum(values)\n"
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"
LAB = {"lab, combine": MAP + COMBINE, "lab, map_lines": MAP_LINES + COMBINE, "lab, no combine": MAP}
LOOP = "loop by hand"
MAWK = r'{ for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) print w "\t" n[w] }'
# name: (most, of whose wall time): what issue 9 asks for at 1 GB
GOALS = {"lab, combine": [(0.85, LOOP), (1 / 3, "dask.distributed"), (1.0, "dask.bag"), (1 / 2.5, "PySpark RDD")],
         "lab, map_lines": [(0.75, LOOP)]}
MRJOB_TIMES = 30.0


class Words:
    """The text, and a command for each contestant."""

    def __init__(self, directory: str, size: int, part: int) -> None:
        self.directory, self.size = directory, size
        self.text, self.slice = os.path.join(directory, "text"), os.path.join(directory, "slice")
        self.words = make_text(self.text, size)
        with open(self.text, "rb") as file:
            data = file.read(min(size, part))
        data = data[: data.rfind(b"\n") + 1]
        with open(self.slice, "wb") as file:
            file.write(data)
        self.slice_words, self.slice_size = len(data.decode("utf-8", "surrogateescape").split()), len(data)
        self.output = os.path.join(directory, "output")

    def rivals(self) -> dict[str, list[str] | str]:
        """By name: the command, or why there is none."""
        found: dict[str, list[str] | str] = {}

        def add(name: str, package: str, module: str, *words: str) -> None:
            try:
                found[name] = [python_of(package), str(RIVALS / module), *words]
            except LeftOut as error:
                found[name] = str(error)

        found[LOOP] = [PYTHON, str(RIVALS / "loop.py"), self.text, self.output]
        pipe = f"mawk {shlex.quote(MAWK)} {self.text} | sort > {self.output}"
        found["mawk and sort"] = ["/bin/sh", "-c", pipe] if shutil.which("mawk") else "there is no mawk"
        add("dask.distributed", "dask", "dask_bag.py", self.text, self.output, "distributed", str(WORKERS))
        add("dask.bag", "dask", "dask_bag.py", self.text, self.output, "processes", str(WORKERS))
        add("PySpark RDD", "pyspark", "spark.py", self.text, self.output, str(WORKERS))
        add("mrjob local", "mrjob", "mrjob_words.py", "-r", "local", "--no-bootstrap-mrjob", self.slice)
        return found

    def fresh(self) -> None:
        """No output of the one before."""
        if os.path.isdir(self.output):
            shutil.rmtree(self.output)
        elif os.path.exists(self.output):
            os.unlink(self.output)

    def check(self, name: str, paths: list[str]) -> None:
        """NotMeasured unless the counts add up."""
        wanted = self.slice_words if name == "mrjob local" else self.words
        total = 0
        for path in paths:
            with open(path, "rb") as file:
                total += sum(int(line.rpartition(b"\t")[2]) for line in file)
        if abs(total - wanted) > (wanted // 1000 if name == "mawk and sort" else 0):
            raise NotMeasured(f"{name} counted {total} words, the text has {wanted}")


class Contest:
    """A lab, and everybody's turns."""

    def __init__(self, words: Words, lab: Lab, only: list[str]) -> None:
        self.words, self.lab = words, lab
        self.nodes: list[Node] = []
        commands = {**dict.fromkeys(LAB, []), **words.rivals()}
        self.left_out = {name: why for name, why in commands.items() if isinstance(why, str)}
        self.commands = {name: command for name, command in commands.items() if isinstance(command, list)
                         and (not only or any(word in name for word in only) or name == LOOP)}
        self.bytes: dict[str, dict[str, float]] = {}

    def turn(self, name: str, memory: bool = False) -> tuple[Took, Peak | None]:
        """One run of one contestant, checked."""
        self.words.fresh()
        if name in LAB:
            return self._job(name, memory)
        env = {**environment(), "LC_ALL": "C.UTF-8" if name != "mawk and sort" else "C"}
        took, peak = run(self.commands[name], env, self.words.output if name == "mrjob local" else os.devnull,
                         cwd=self.words.directory, peak=memory)
        parts = [self.words.output]
        if os.path.isdir(self.words.output):
            parts = [str(path) for path in Path(self.words.output).glob("part-*")]
        self.words.check(name, parts)
        return took, peak

    def _job(self, name: str, memory: bool) -> tuple[Took, Peak | None]:
        program = []
        for file, source in (("Map.py", LAB[name]), ("Reduce.py", REDUCE)):
            program.append(os.path.join(self.lab.directory, file))
            Path(program[-1]).write_text(source)
        env = {**self.lab.environment, "IPDC_HOME": self.lab.home(1)}
        command = self.lab.command("submit", *program, "--input", self.words.text, "-k", str(WORKERS), "--wait",
                                   "--json")
        behind = [pid for node in self.nodes for pid in (node.daemon, node.broker)]
        before = {pid: written(pid) for pid in behind}
        wire = loopback()
        log = os.path.join(self.lab.directory, "submit.log")

        def groups() -> dict[str, list[int]]:
            return {"daemon": [node.daemon for node in self.nodes], "broker": [node.broker for node in self.nodes],
                    "runner": [pid for node in self.nodes for pid in descendants(node.daemon)]}

        if memory:
            with Peak(groups) as peak:
                took, _ = run(command, env, log, behind)
        else:
            peak = None
            took, _ = run(command, env, log, behind)
        wire = loopback() - wire
        jobs = os.path.join(self.lab.home(1), "jobs")
        newest = max(os.listdir(jobs))
        self.words.check(name, [str(path) for path in Path(jobs, newest).glob("part-*")])
        said = subprocess.run(self.lab.command("status", newest, "--json"), env=env, capture_output=True, text=True)
        status = json.loads(said.stdout)
        flash = sum(written(pid) - before[pid] for pid in behind)
        self.bytes[name] = {"intermediate": status["shuffle_bytes"], "spilled": status["spilled_bytes"], "wire": wire,
                            "flash": flash, "result": status["output_bytes"]}
        return took, peak


def loopback() -> int:
    """Bytes that went over the loopback interface so far: all that nodes of a lab say to each other."""
    with open("/proc/net/dev") as file:
        return next(int(line.split()[1]) for line in file if line.strip().startswith("lo:"))


def report(contest: Contest, times: dict[str, list[Took]], peaks: dict[str, Peak]) -> tuple[str, list[str]]:
    """Markdown, and the goals that are missed."""
    size, rows, missed = contest.words.size, [], []
    loop = [took.wall for took in times[LOOP]]
    speed = {}
    for name, runs in times.items():
        walls = [took.wall for took in runs]
        each = contest.words.slice_size if name == "mrjob local" else size
        speed[name] = each / 2**20 / median(walls)
        against = "-" if name == "mrjob local" else spread([one / other for one, other in zip(walls, loop)], ".2f")
        rows.append([name, spread(walls), spread([took.processor for took in runs]), against, f"{speed[name]:.1f}",
                     peaks[name].text() if name in peaks else "-"])
    heads = [f"{size / 2**20:.0f} MB of text", "wall s", "processor s", "wall against the loop", "MB/s",
             "peak PSS MB: sum (biggest of each kind)"]
    parts = [head(), "", table(heads, rows)]
    for name, goals in GOALS.items():
        for most, other in goals:
            if name in times and other in times:
                ratio = median([one.wall / two.wall for one, two in zip(times[name], times[other])])
                holds = "holds" if ratio <= most else "MISSED"
                parts.append(f"\n{name}: {ratio:.2f} of {other}, at most {most:.2f}: {holds}")
                missed += [parts[-1]] if ratio > most else []
    if "mrjob local" in times and "lab, combine" in times:
        ratio = speed["lab, combine"] / speed["mrjob local"]
        parts.append(f"\nlab, combine: {ratio:.0f} times mrjob's MB/s, at least {MRJOB_TIMES:.0f}: "
                     f"{'holds' if ratio >= MRJOB_TIMES else 'MISSED'}")
        missed += [parts[-1]] if ratio < MRJOB_TIMES else []
    if contest.bytes:
        kinds = ["intermediate", "spilled", "wire", "flash", "result"]
        parts += ["", table(["bytes for each byte of input", *kinds],
                            [[name, *(f"{found[kind] / size:.3f}" for kind in kinds)]
                             for name, found in contest.bytes.items()])]
    parts += [f"\nLeft out: {name}: {why}" for name, why in contest.left_out.items()]
    return "\n".join(parts), missed


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=parse_size, default=64 << 20, help="of the text, such as 64M or 1G")
    parser.add_argument("--pairs", type=int, default=5, help="rounds that are timed")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="parts of names; the loop is always there")
    parser.add_argument("--slice", type=parse_size, default=4 << 20, help="of the text, for mrjob")
    parser.add_argument("--no-memory", action="store_true", help="without the round for memory")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])  # for everybody: one processor a worker
    directory = tempfile.mkdtemp(prefix="ipdc-speed-", dir="/var/tmp")
    lab = Lab(os.path.join(directory, "lab"), WORKERS)
    return ended(lambda: measure(lab, directory, options), lab, directory, options.json)


def measure(lab: Lab, directory: str, options: argparse.Namespace) -> Measured:
    """All rounds. NotMeasured, NoDictionary."""
    times: dict[str, list[Took]] = {}
    peaks: dict[str, Peak] = {}
    words = Words(directory, options.size, options.slice)
    contest = Contest(words, lab, options.only)
    contest.nodes = lab.up()
    for number in range(0 if options.no_memory else -1, options.pairs):
        for name in contest.commands:
            took, peak = contest.turn(name, number < 0)
            print(f"round {number + 1}: {name}: {took.wall:.2f} s, processor {took.processor:.2f} s",
                  file=sys.stderr, flush=True)
            if peak is None:
                times.setdefault(name, []).append(took)
            else:
                peaks[name] = peak
    text, missed = report(contest, times, peaks)
    figures = {"size": options.size, "times": times, "bytes": contest.bytes,
               "peaks": {name: {"sum": peak.sum, **peak.each} for name, peak in peaks.items()}}
    return Measured(text, figures, bool(missed))


if __name__ == "__main__":
    sys.exit(main())
