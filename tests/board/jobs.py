"""Two jobs for a small board: one of a bigger node that the board works on, and one of its own that spills.

Owns the programs, their input, and what must come out. A machine is what has `run(script)` and `write(path, text)`: an
emulated board, or a booted container. Looks at no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.network.hosts import DomainNode
from tests.waiting import eventually

SIZE = 64 << 20  # bytes of the board's own job
SMALL = 4 << 20  # and of the bigger node's
LINE = 1024
SENSORS = 4000
SORT_BUDGET = "1M"  # the least: so that every map spills
SECONDS = 1800  # bounds how long a failure takes; emulation is slow
# A long line is one reading, so that interpreting, twenty times slower where it is emulated, is not what takes time.
MAP = """\
def map_lines(lines):
    for line in lines:
        yield line[:8], line[9:73]
"""
REDUCE = """\
def reduce(key, values):
    yield key, sum(1 for value in values)
"""
# The bigger node is busy with something else until the test says otherwise: so it is the board that works.
BUSY = """\
import os, time

def setup(args):
    while os.uname().nodename == args["busy"] and not os.path.exists(args["gate"]):
        time.sleep(0.05)

"""


def readings(size: int, seed: int) -> tuple[bytes, dict[str, int]]:
    """Lines of sensors' readings, and how many there are of each."""
    chance = random.Random(seed)
    rest = [f" {chance.getrandbits(4 * (LINE - 10)):0{LINE - 10}x}\n".encode() for _ in range(500)]
    names = [f"s{chance.randrange(SENSORS):07}" for _ in range(size // LINE)]
    return b"".join(name.encode() + chance.choice(rest) for name in names), Counter(names)


def expected(counts: dict[str, int]) -> list[str]:
    """The lines of a result, sorted."""
    return sorted(f"{name}\t{count}" for name, count in counts.items())


def work_for(bigger: DomainNode, directory: str) -> dict[str, Any]:
    """A job of the bigger node, whose own maps wait until the board has done two: which tasks the board did, and
    whether the result is right."""
    text, counts = readings(SMALL, 1)
    paths = {name: os.path.join(directory, name) for name in ("Map.py", "Reduce.py", "text", "gate")}
    Path(paths["Map.py"]).write_text(BUSY + MAP)
    Path(paths["Reduce.py"]).write_text(REDUCE)
    Path(paths["text"]).write_bytes(text)
    arguments = json.dumps({"gate": paths["gate"], "busy": os.uname().nodename})
    job = bigger.ipdc("submit", paths["Map.py"], paths["Reduce.py"], "--input", paths["text"], "-k", "2",
                      "--args", arguments, "--id-only", "--no-wait").stdout.strip()

    def status() -> dict[str, Any]:
        found = bigger.json("status", job)
        assert found["state"] not in ("failed", "cancelled"), found
        return dict(found)

    eventually(lambda: status()["maps"]["done"] >= 2, "the board has done two maps", SECONDS)
    Path(paths["gate"]).touch()
    eventually(lambda: status()["state"] == "succeeded", "the bigger node's job succeeds", SECONDS)
    record = json.loads(Path(bigger.home, "jobs", job, "job.json").read_text())
    by_board = [task["task"] for task in record["tasks"] if task["node"] != bigger.id]
    return {"by_board": by_board, "right": bigger.result(job) == expected(counts)}


def own_job(machine: Any, text: str, size: int) -> dict[str, Any]:
    """A job of the machine's own over `text`, a path there with `readings(size, 2)`; nobody else is there to work."""
    machine.write("/root/Map.py", MAP)
    machine.write("/root/Reduce.py", REDUCE)
    began = time.monotonic()
    job = machine.run(f"ipdc-edge submit /root/Map.py /root/Reduce.py --input {text} -k 1 --id-only --no-wait"
                      f" --sort-budget {SORT_BUDGET}", seconds=SECONDS).stdout.split()[-1]
    submitted = time.monotonic()
    status: dict[str, Any] = {}

    def ended() -> bool:
        status.update(json.loads(machine.run(f"ipdc-edge status {job} --json").stdout))
        return status["state"] in ("succeeded", "failed", "cancelled")

    eventually(ended, "the board's own job ends", SECONDS)
    assert status["state"] == "succeeded", status
    wanted = "".join(f"{line}\n" for line in expected(readings(size, 2)[1]))
    result = machine.run(f"ipdc-edge result {job} | LC_ALL=C sort | sha256sum").stdout.split()[0]
    return {"input": status["input_bytes"], "spilled": status["spilled_bytes"],
            "right": result == hashlib.sha256(wanted.encode()).hexdigest(),
            "seconds": round(time.monotonic() - began, 1), "seconds_of_submit": round(submitted - began, 1)}
