"""What the tests of the Map-Reduce pieces share: scratch files in memory's stead, and tasks and jobs run by hand."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ipdc_edge.apps.mapreduce.context import Context, bound
from ipdc_edge.apps.mapreduce.program import Program, Step, load
from ipdc_edge.apps.mapreduce.task import make_task
from ipdc_edge.runner.scratch import Scratch
from ipdc_edge.runner.task_io import TaskIo

MEMORY = 64 << 20
ROLES = ("map", "combine", "reduce", "partition")
OTHER_ROLES = ("map_lines", "mapper", "combiner", "reducer")


@contextmanager
def scratch_files(count: int = 2, limit: int = 1 << 30) -> Iterator[Scratch]:
    files = [tempfile.TemporaryFile() for _ in range(count)]
    try:
        yield Scratch([file.fileno() for file in files], limit)
    finally:
        for file in files:
            file.close()


def program(*steps: dict[str, Any], memory: int = MEMORY, arguments: dict[str, Any] | None = None,
            code: dict[str, bytes] | None = None, **named: Any) -> Program:  # fmt: skip
    """The program of functions and commands as they are. One step's entries, or the job's options, by name."""
    entries = {name: named.pop(name) for name in [*named] if name in (*ROLES, *OTHER_ROLES)}
    options = {"sort_budget": 1 << 20, **named, "steps": []}
    made = Program({"options": options, "memory": memory, "workers": 2, "arguments": arguments or {}}, code or {})
    for number, entry in enumerate(steps or (entries,)):
        step = Step(number)
        context = Context(made.now, number, made.arguments)
        for role, thing in entry.items():
            if role == "map_lines":
                step.map, step.map_is_lines = bound(thing, context), True
            elif thing is not None:
                setattr(step, role, bound(thing, context) if role in ROLES else thing)
        made.steps.append(step)
    return made


def loaded(code: dict[str, bytes], *steps: dict[str, Any], **options: Any) -> Program:
    """The program of files, as the runner loads it; the importer and the modules are gone afterwards."""
    finders, modules = list(sys.meta_path), set(sys.modules)
    spec = {"options": {**options, "steps": list(steps)}, "memory": MEMORY, "workers": 2,
            "arguments": options.pop("arguments", {})}  # fmt: skip
    try:
        return load(spec, code)
    finally:
        sys.meta_path[:] = finders
        for name in set(sys.modules) - modules:
            if name + ".py" in code:
                del sys.modules[name]


def blocks_of(data: bytes, start: int, size: int) -> Callable[[], bytes]:
    """A stream's read: the file's blocks of `size` bytes from `start` on."""
    pieces = iter(range(start, len(data), size))
    return lambda: next((data[at : at + size] for at in pieces), b"")


def ranges_of(files: dict[str, bytes], split: int, whole: bool = False) -> list[dict[str, Any]]:
    """The ranges of files cut into splits of `split` bytes; compressed ones, by their names' ends, are whole."""
    found = []
    for name, data in files.items():
        kind = name.rpartition(".")[2]
        compression = {"compression": kind} if kind in ("gz", "bz2", "xz", "zst") else {}
        step = max(1, len(data)) if whole or compression else split
        for start in range(0, max(1, len(data)), step):
            found.append({"name": name, "start": start, "end": min(len(data), start + step), "size": len(data),
                          **compression})  # fmt: skip
    return found


class Job:
    """A job in one process: what its tasks counted, set aside and said."""

    def __init__(self, user: Program, directory: str = "/nowhere") -> None:
        self.user = user
        self.counters: list[dict[str, int]] = []
        self.user_counters: dict[str, int] = {}
        self.aside: list[dict[str, object]] = []
        self.said: list[str] = []
        self.directory = directory

    def do(self, scratch: Scratch, task_id: str, params: dict[str, Any], read: Any, write: Any) -> None:
        """One task, on a scratch that is cleared after it."""
        io = TaskIo(read, write, lambda *_: None, scratch, self.said.append, self.aside.append, "job-1", self.directory)
        task = make_task(self.user, task_id, params, io)
        try:
            done = task.run()
        except Exception as error:
            error.position = task.position()  # type: ignore[attr-defined]
            raise
        finally:
            scratch.clear()
        self.counters.append(done["counters"])
        for name, value in done["user_counters"].items():
            self.user_counters[name] = self.user_counters.get(name, 0) + value

    def run(self, files: dict[str, bytes], *, split: int = 1000, block: int = 100, partitions: int = 2,
            together: int = 1) -> list[bytes]:  # fmt: skip
        """The parts. `together`: how many ranges are in one map task."""
        # ruff: noqa: B023  (each task has run before its loop's variables change)
        reducing = [step.number for step in self.user.steps if step.reduces]
        ranges = ranges_of(files, split, self.user.input_format == "whole-file")
        parts: list[bytes] = []
        with scratch_files() as scratch:
            runs: list[list[list[bytes]]] = [[] for _ in range(partitions)]
            outputs = {"kind": "runs", "count": partitions} if reducing else {"kind": "files", "count": 1}
            for index, at in enumerate(range(0, len(ranges), together)):
                own = ranges[at : at + together]
                reads = [blocks_of(files[entry["name"]], entry["start"], block) for entry in own]
                written: list[list[bytes]] = [[] for _ in range(outputs["count"])]  # type: ignore[call-overload]
                params = {"stage": "map", "step": 0, "index": index, "inputs": [{"range": entry} for entry in own],
                          "outputs": outputs}  # fmt: skip
                self.do(scratch, f"map-{index:05}", params, lambda n: reads[n](),
                        lambda m, data: written[m].append(data))  # fmt: skip
                if reducing:
                    for partition, blocks in zip(runs, written):
                        partition.append(blocks)
                else:
                    parts.append(b"".join(written[0]))
            for number in reducing:
                final = number == reducing[-1]
                outputs = {"kind": "files", "count": 1} if final else {"kind": "runs", "count": partitions}
                made: list[list[list[bytes]]] = [[] for _ in range(partitions)]
                for index, partition in enumerate(runs):
                    waiting = [iter(run) for run in partition]
                    written = [[] for _ in range(outputs["count"])]  # type: ignore[call-overload]
                    params = {"stage": "reduce", "step": number, "index": index, "inputs": [{"run": {}}] * len(waiting),
                              "outputs": outputs}  # fmt: skip
                    self.do(scratch, f"reduce-{index:05}", params, lambda n: next(waiting[n], b""),
                            lambda m, data: written[m].append(data))  # fmt: skip
                    if final:
                        parts.append(b"".join(written[0]))
                    else:
                        for target, blocks in zip(made, written):
                            target.append(blocks)
                runs = made
        return parts


def run_job(user: Program, data: bytes, **options: Any) -> tuple[list[bytes], list[dict[str, int]]]:
    """(the parts, counters of each task) of a job over one file."""
    job = Job(user)
    return job.run({"input.txt": data}, **options), job.counters
