"""Tasks of a Map-Reduce job, as the runner does them: map and reduce.

Owns how the pieces (lines, mapper, sorter, merge, reducer, output) are put together for one task. Never talks
to the daemon itself: it is handed `TaskIo`. The runner knows this module by `make_task`, as it knows those of
other architectures.

Parameters of a task (JSON):
    map     {"stage": "map", "index", "inputs": [{"range": {"cid", "name", "start", "end", "size"}}, ...],
             "outputs": {"kind": "runs" | "files", "count": n}}
    reduce  {"stage": "reduce", "index", "inputs": [{"run": {...}}, ...], "outputs": {"kind": "files",
    "count": 1}}
Stream n to read is inputs[n]; streams to write are 0 <= m < count. With "runs", stream m is partition m.
"""

from __future__ import annotations

from functools import partial

from ipdc_edge.apps.mapreduce.lines import LineSource
from ipdc_edge.apps.mapreduce.mapper import mapped_lines, mapped_pairs
from ipdc_edge.apps.mapreduce.merge import merge_runs
from ipdc_edge.apps.mapreduce.output import TextWriter
from ipdc_edge.apps.mapreduce.reducer import NO_KEY, Groups, reduced_pairs
from ipdc_edge.apps.mapreduce.sorter import NOTHING, Sorter

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from ipdc_edge.apps.mapreduce.merge import Blocks
    from ipdc_edge.runner.scratch import Scratch

    class Program(Protocol):
        """The user's functions; None for those that are not defined."""

        map: Callable[..., object] | None
        map_lines: Callable[..., object] | None
        reduce: Callable[..., object] | None
        combine: Callable[..., Any] | None


MEGABYTE = 1024 * 1024
# Where the job's options do not say: what a runner's memory leaves beside interpreter, blocks and user's own,
# halved, because lines are made beside the table that they come from. 6 MB of 24.
FIXED_MEMORY = 12 * MEGABYTE
LEAST_BUDGET = 1 * MEGABYTE


class TaskIo:
    """What a task may do to the world: blocks in, blocks out, words on the way, and a place for spills."""

    def __init__(
        self,
        read: Callable[[int], bytes | bytearray | None],
        write: Callable[[int, bytes], None],
        progress: Callable[[int, int], None],
        scratch: Scratch,
    ) -> None:
        self.read = read  # the next block of an input stream; nothing at its end
        self.write = write
        self.progress = progress  # records and bytes read so far
        self.scratch = scratch


def sort_budget(spec: dict[str, Any]) -> int:
    """Bytes for tables and merge buffers: the job's option "sort_budget", or its share of "memory"."""
    wanted = spec["options"].get("sort_budget") or (spec["memory"] - FIXED_MEMORY) // 2
    return max(LEAST_BUDGET, int(wanted))


def make_task(program: Program, budget: int, params: dict[str, Any], io: TaskIo) -> MapTask | ReduceTask:
    """The task that `params` describe. KeyError or ValueError when they make no sense (the daemon's bug)."""
    if params["stage"] == "map":
        return MapTask(program, params, io, budget)
    if params["stage"] == "reduce":
        return ReduceTask(program, params, io, budget)
    raise ValueError(f"a task of no known stage: {params['stage']!r}")


class MapTask:
    """One split (or several small files) through map, and through sorting when a reduce follows."""

    def __init__(self, program: Program, params: dict[str, Any], io: TaskIo, budget: int) -> None:
        self._io = io
        self._outputs = params["outputs"]
        self._source = LineSource([entry["range"] for entry in params["inputs"]], io.read, io.progress)
        if program.map_lines is not None:
            self._pairs = mapped_lines(program.map_lines, self._source)
        else:
            assert program.map is not None
            self._pairs = mapped_pairs(program.map, self._source)
        self._sorter: Sorter | None = None
        if self._outputs["kind"] == "runs":
            self._sorter = Sorter(budget, self._outputs["count"], program.combine, io.scratch)

    def run(self) -> dict[str, Any]:
        """{"counters", "streams"}: what was read and written."""
        counters = {}
        if self._sorter is None:
            writer = TextWriter(lambda block: self._io.write(0, block))
            writer.write(self._pairs)
            writer.finish()
            streams = [{"records": writer.records, "bytes": writer.bytes}]
            counters["pairs"] = writer.records
        else:
            self._sorter.add(self._pairs)
            streams = self._sorter.finish(self._io.write)
            counters["pairs"] = self._sorter.pairs
            counters["spills"] = self._sorter.spills
            counters["spilled_bytes"] = self._io.scratch.written
        counters["input_records"] = self._source.records
        counters["input_bytes"] = self._source.bytes
        counters["output_records"] = sum([stream["records"] for stream in streams])
        counters["output_bytes"] = sum([stream["bytes"] for stream in streams])
        return {"counters": counters, "streams": streams}

    def position(self) -> dict[str, object]:
        """Where the user's code was called: {"where", "input", "offset", "record"}, or with combine {"where",
        "record"}."""
        key = NOTHING if self._sorter is None else self._sorter.combining()
        if key is not NOTHING:
            return {"where": "combine", "record": f"key {ascii(key)[:500]}"}
        return {"where": "map", **self._source.position()}


class ReduceTask:
    """One partition: all its runs merged and through reduce, sorted text out."""

    def __init__(self, program: Program, params: dict[str, Any], io: TaskIo, budget: int) -> None:
        assert program.reduce is not None
        self._reduce = program.reduce
        self._count = len(params["inputs"])
        self._io = io
        self._budget = budget
        self._groups: Groups | None = None

    def run(self) -> dict[str, Any]:
        """{"counters", "streams"}: what was read and written."""
        runs: list[Blocks] = [partial(self._io.read, stream) for stream in range(self._count)]
        batches = merge_runs(runs, self._io.scratch, self._budget)
        self._groups = groups = Groups(batches, self._io.progress)
        writer = TextWriter(lambda block: self._io.write(0, block))
        writer.write(reduced_pairs(self._reduce, groups))
        writer.finish()
        counters = {
            "input_records": groups.records,
            "groups": groups.groups,
            "spilled_bytes": self._io.scratch.written,
            "output_records": writer.records,
            "output_bytes": writer.bytes,
        }
        return {"counters": counters, "streams": [{"records": writer.records, "bytes": writer.bytes}]}

    def position(self) -> dict[str, object]:
        """Where the user's code was called: {"where", "record"}; the record is the key."""
        if self._groups is None or self._groups.key is NO_KEY:
            return {"where": "reduce"}
        return {"where": "reduce", "record": f"key {ascii(self._groups.key)[:500]}"}
