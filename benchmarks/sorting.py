"""A sort of lines in a lab of two workers, with 32 MB of memory for sorting each, against GNU sort with as much.

usage: /usr/bin/python3 benchmarks/sorting.py [--size 1G] [--pairs 5] [--budget 32M] [--json FILE]

The job's map yields (line, 1), its partition cuts at the median of a sample, its reduce writes the lines: the two
parts, one after the other, are the sorted file, and are compared with GNU sort's in every round. `sort -S 32M` in the C
locale sorts with as many threads as there are processors and writes its spills beside; TLS in the lab as users have it.

Exit code: 0; 1 where it is less than 0.3 of GNU sort's MB/s; 2 when it was not measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from ending import Measured, ended  # beside this file
from memory import Lab, parse_size
from processes import NotMeasured, descendants
from text import make_text
from trial import Peak, Took, head, run, spread, table

LEAST = 0.3
WORKERS = 2
SAMPLE = 997  # one line of so many
MAP = "def map(key, line):\n    yield line, 1\n\n\ndef partition(key, count):\n    return int(key >= {median!r})\n"
REDUCE = """\
def reduce(key, values):
    line = key + "\\n"
    for _ in values:
        yield key, line
"""


def middle(text: str) -> str:
    """The median line, by bytes; ASCII, so that its order is that of the text."""
    with open(text, "rb") as file:
        sample = sorted(line for number, line in enumerate(file) if not number % SAMPLE)
    return sample[len(sample) // 2].rstrip(b"\n").decode("ascii", "ignore")


def main() -> int:
    """0, 1 or 2, as said above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=parse_size, default=1 << 30, help="of the text, such as 64M or 1G")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--budget", type=parse_size, default=32 << 20, help="of memory for sorting")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:WORKERS])  # for both: one processor a worker
    directory = tempfile.mkdtemp(prefix="ipdc-sorting-", dir="/var/tmp")
    lab = Lab(os.path.join(directory, "lab"), WORKERS)
    return ended(lambda: measure(lab, directory, options), lab, directory, options.json)


def measure(lab: Lab, directory: str, options: argparse.Namespace) -> Measured:
    """All rounds, the first one for memory. NotMeasured, NoDictionary."""
    times: dict[str, list[Took]] = {"lab": [], "GNU sort": []}
    text, target = os.path.join(directory, "text"), os.path.join(directory, "sorted")
    make_text(text, options.size)
    nodes = lab.up()
    program = []
    for name, source in (("Map.py", MAP.format(median=middle(text))), ("Reduce.py", REDUCE)):
        program.append(os.path.join(directory, name))
        Path(program[-1]).write_text(source)
    env = {**lab.environment, "IPDC_HOME": lab.home(1)}
    budget = f"{options.budget >> 20}M"
    memory = f"{(options.budget >> 20) * 2 + 32}M"  # with its interpreter, the lines being made, and blocks
    submit = lab.command("submit", *program, "--input", text, "-k", str(WORKERS), "--memory", memory,
                         "--sort-budget", budget, "--partition", "Map.py:partition",
                         "--output-format", "raw", "--wait", "--json")
    sort = ["sort", "-S", budget, "-T", directory, "-o", target, text]
    behind = [pid for node in nodes for pid in (node.daemon, node.broker)]
    peak = Peak(lambda: {"daemon": [node.daemon for node in nodes], "broker": [node.broker for node in nodes],
                         "runner": [pid for node in nodes for pid in descendants(node.daemon)]})
    for number in range(-1, options.pairs):
        log = os.path.join(lab.directory, "submit.log")
        if number < 0:
            with peak:
                took = run(submit, env, log, behind)[0]
        else:
            took = run(submit, env, log, behind)[0]
        other, sort_peak = run(sort, {**env, "LC_ALL": "C"}, peak=number < 0)
        if sort_peak is not None:
            peaks = {"lab": peak, "GNU sort": sort_peak}
        else:
            times["lab"].append(took)
            times["GNU sort"].append(other)
        compare(lab, target)
        print(f"round {number + 1}: {took.wall:.1f} s, GNU sort {other.wall:.1f} s", file=sys.stderr, flush=True)
    return report(options.size, budget, times, peaks)


def report(size: int, budget: str, times: dict[str, list[Took]], peaks: dict[str, Peak]) -> Measured:
    """Markdown, with how much of GNU sort's speed it is."""
    megabytes = size / 2**20
    rows = [[name, spread([took.wall for took in runs]), spread([took.processor for took in runs]),
             spread([megabytes / took.wall for took in runs]), peaks[name].text()] for name, runs in times.items()]
    heads = [f"sort of {megabytes:.0f} MB, {budget} each", "wall s", "processor s", "MB/s",
             "peak PSS MB: sum (biggest of each kind)"]
    ratio = median([two.wall / one.wall for one, two in zip(times["lab"], times["GNU sort"])])
    goal = f"{ratio:.2f} of GNU sort's speed, at least {LEAST}: {'holds' if ratio >= LEAST else 'MISSED'}"
    return Measured(f"{head()}\n\n{table(heads, rows)}\n\n{goal}", {"size": size, "times": times}, ratio < LEAST)


def compare(lab: Lab, target: str) -> None:
    """NotMeasured unless the parts of the newest job are the sorted file; they are removed."""
    jobs = os.path.join(lab.home(1), "jobs")
    parts = sorted(str(path) for path in Path(jobs, max(os.listdir(jobs))).glob("part-*"))
    with subprocess.Popen(["cat", *parts], stdout=subprocess.PIPE) as whole:
        if subprocess.run(["cmp", "--silent", "-", target], stdin=whole.stdout).returncode:
            raise NotMeasured("the lab's lines are not those of GNU sort")
    for part in parts:
        os.unlink(part)


if __name__ == "__main__":
    sys.exit(main())
