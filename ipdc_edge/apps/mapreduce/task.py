"""Tasks of a Map-Reduce job, as the runner does them: a map or a reduce, and the maps that follow it.

Owns how the pieces (source, mapper, sorter, merge, reducer, output, commands) are put together for one task, and
what is told of it. Never talks to the daemon itself: it is handed a `TaskIo`. The runner knows this module by `load`
and `make_task`, as it knows those of other architectures (runner/__main__.py).

Parameters of a task (JSON):
    map     {"stage": "map", "step": 0, "index", "inputs": [{"range": {"cid", "name", "start", "end", "size",
             "compression"?}}, ...], "outputs": {"kind": "runs" | "files", "count": n}}
    reduce  {"stage": "reduce", "step": i, "index", "inputs": [{"run": {...}}, ...], "outputs": {...}}
Stream n to read is inputs[n]; streams to write are 0 <= m < count. With "runs", stream m is partition m; "files" has
one.

A reduce task does the reduce of step i, then the map of step i + 1; a map task begins with the map of step 0. Both go
on through the maps of steps without a reduce, up to a step with one (then pairs are sorted into runs) or to the end
(then they are written). What flows from one to the next is pairs, or between commands the text that they print.
"""

from __future__ import annotations

from functools import partial

from ipdc_edge.apps.mapreduce.context import code_of
from ipdc_edge.apps.mapreduce.lines import InputError
from ipdc_edge.apps.mapreduce.mapper import (
    NoPair,
    mapped_again,
    mapped_lines,
    mapped_pairs,
    mapped_stream,
    source_pairs,
)
from ipdc_edge.apps.mapreduce.merge import merge_runs, shared_fan_in
from ipdc_edge.apps.mapreduce.output import ResultWriter
from ipdc_edge.apps.mapreduce.program import Program, Step, load
from ipdc_edge.apps.mapreduce.reducer import NO_KEY, Groups, reduced_pairs
from ipdc_edge.apps.mapreduce.sorter import Sorter
from ipdc_edge.apps.mapreduce.source import Source
from ipdc_edge.codec.keys import ValueNotCarried
from ipdc_edge.codec.value_lines import PLAIN
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.failure import place, place_of

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType
    from typing import Any

    from ipdc_edge.apps.mapreduce.merge import Blocks
    from ipdc_edge.apps.mapreduce.skipping import Skipper
    from ipdc_edge.runner.task_io import TaskIo

    Pairs = Iterator[tuple[object, object]]

__all__ = ["Task", "load", "make_task"]
LEAST_OUTPUT, MOST_GROWTH = 1 << 30, 64  # bytes that any task may give, and for each byte that it has read
MOST_KEY = 500  # characters of a key in an error


def make_task(program: Program, task_id: str, params: dict[str, Any], io: TaskIo) -> Task:
    """The task that `params` describe. KeyError or ValueError when they make no sense (the daemon's bug)."""
    if params["stage"] not in ("map", "reduce"):
        raise ValueError(f"a task of no known stage: {params['stage']!r}")
    return Task(program, task_id, params, io)


class Flow:
    """What one step hands to the next: pairs, or chunks of lines as a command has printed them."""

    def __init__(self, pairs: Pairs | None = None, chunks: Iterator[bytes] | None = None) -> None:
        self._pairs = pairs
        self.lines = chunks

    def pairs(self) -> Pairs:
        """As pairs; those of a command are text."""
        if self._pairs is not None:
            return self._pairs
        from ipdc_edge.apps.mapreduce.command import pairs

        assert self.lines is not None
        return pairs(self.lines)

    def chunks(self) -> Iterator[bytes]:
        """As lines, key TAB value."""
        if self.lines is not None:
            return self.lines
        from ipdc_edge.apps.mapreduce.command import text

        assert self._pairs is not None
        return text(self._pairs)


class Task:
    """One task of either stage."""

    def __init__(self, program: Program, task_id: str, params: dict[str, Any], io: TaskIo) -> None:
        self._program = program
        self._io = io
        self._id = task_id
        self._params = params
        self._outputs = params["outputs"]
        self._first = program.steps[params.get("step", 0)]
        self._reducing = params["stage"] == "reduce"
        # A merge and a sorter live side by side where a shuffle follows a reduce.
        self._budget = program.budget // 2 if self._reducing and self._outputs["kind"] == "runs" else program.budget
        self._source: Source | None = None
        self._groups: Groups | None = None
        self._sorter: Sorter | None = None
        self._skipper: Skipper | None = None
        self._closing: list[Callable[[], None]] = []
        self._codes: dict[CodeType, str] = {}  # of the functions of this task, and what they are called
        self._last = self._first  # step of the chain
        self._taken = 0  # bytes of the inputs
        self._ended = False  # whether all records have been read
        self._where = program.where("reduce" if self._reducing else "map", self._first)
        self._position: dict[str, object] | None = None

    def run(self) -> dict[str, Any]:
        """{"counters", "user_counters", "streams"}: what was read, counted and written."""
        self._program.now.begin(self._id, self._io, str(self._params.get("node", "")))
        try:
            return self._run()
        except BaseException as error:
            self._position = self._found(error)
            raise
        finally:
            for close in self._closing:
                close()

    def position(self) -> dict[str, object]:
        """Where the task failed: {"where"} and, as far as they are known, {"input", "offset", "record"}."""
        return self._position or {"where": self._where}

    # From step to step

    def _run(self) -> dict[str, Any]:
        steps = self._program.steps
        first = self._first
        chain = [first]
        if self._reducing or not first.reduces:
            for step in steps[first.number + 1 :]:
                chain.append(step)
                if step.reduces:
                    break
        self._last = chain[-1]
        counters: dict[str, int] = {}
        if self._program.skip_bad:
            from ipdc_edge.apps.mapreduce.skipping import Skipper

            self._skipper = Skipper(self._program.skip_bad, self._io)
        if self._outputs["kind"] == "runs":
            self._sorter = sorter = self._new_sorter(chain[-1])
            self._flow(chain, sorter.check, lambda flow: sorter.add(flow.pairs()))
            streams = sorter.finish(self._io.write)
            counters["pairs"] = sorter.pairs
            counters["spills"] = sorter.spills
        else:
            writer = ResultWriter(partial(self._io.write, 0), self._program.output_format)
            self._flow(chain, writer.check, partial(self._write, writer))
            writer.finish()
            streams = [{"records": writer.records, "bytes": writer.bytes}]
            if not self._reducing:
                counters["pairs"] = writer.records
        counters["spilled_bytes"] = self._io.scratch.written
        if self._source is not None:
            counters["input_records"] = self._source.records
            counters["input_bytes"] = self._source.bytes
        elif self._groups is not None:
            counters["input_records"] = self._groups.records
            counters["groups"] = self._groups.groups
        if self._skipper is not None:
            counters["bad_records"] = self._skipper.count
        counters["output_records"] = sum([stream["records"] for stream in streams])
        counters["output_bytes"] = sum([stream["bytes"] for stream in streams])
        return {"counters": counters, "user_counters": self._program.now.counters.checked(), "streams": streams}

    def _flow(
        self, chain: list[Step], check: Callable[[object, object], object], end: Callable[[Flow], None]
    ) -> None:
        """All records through the steps of the chain into `end`. check: refuses pairs that cannot be carried there."""
        flow = None
        for number, step in enumerate(chain):
            last = not any(later.map or later.mapper for later in chain[number + 1 :])
            if flow is not None:
                flow = self._mapped(step, flow, check if last else None)
            elif self._reducing:
                flow = self._reduced(step, check if last else None)
            else:
                flow = self._read(step, check if last else None)
        assert flow is not None
        end(flow)
        self._ended = True  # whatever fails from now on has nothing to do with the record that was read last

    def _write(self, writer: ResultWriter, flow: Flow) -> None:
        if flow.lines is not None and self._program.output_format != "json":
            writer.write_lines(flow.lines)
        else:
            writer.write(flow.pairs())

    def _new_sorter(self, step: Step) -> Sorter:
        codec = PLAIN
        if self._program.sort_values:
            from ipdc_edge.codec.sorted_values import SORTED

            codec = SORTED
        combiner = None
        if step.combiner:
            combiner = partial(self._combined, step)
        return Sorter(
            self._budget, self._outputs["count"], step.combine, self._io.scratch, step.partition, codec, combiner,
            self._most_given,
        )

    def _take(self, stream: int) -> bytes | bytearray | None:
        """The next block of an input, counted."""
        block = self._io.read(stream)
        self._taken += len(block or b"")
        return block

    def _most_given(self) -> int:
        """Bytes that may go into the shuffle by now: as the daemon bounds what a task writes."""
        return self._program.output_limit or max(LEAST_OUTPUT, self._taken * MOST_GROWTH)

    # Steps in Python

    def _read(self, step: Step, check: Callable[[object, object], object] | None) -> Flow:
        """The map of step 0 over the task's inputs."""
        ranges = [entry["range"] for entry in self._params["inputs"]]
        kind = self._program.source or Source
        if self._program.source is None and self._program.input_format != "lines":
            from ipdc_edge.apps.mapreduce.formats import source_of

            kind = source_of(self._program.input_format)
        self._source = source = kind(ranges, self._take, self._io.progress, self._program.memory)
        self._program.now.source = source
        if step.mapper:
            return Flow(chunks=self._mapped_files(step, source))
        function = step.map
        for role, part in (("post", step.post), ("pre", step.pre), ("map", function)):
            if part is not None:
                self._name(part, role, step)
        if self._skipper is not None:
            from ipdc_edge.apps.mapreduce import skipping

            where = self._program.where("map", step)
            return Flow(skipping.read(self._skipper, function, step.map_is_lines, source, where, check))
        if function is None:
            return Flow(source_pairs(source))
        return Flow(mapped_lines(function, source) if step.map_is_lines else mapped_pairs(function, source))

    def _mapped(self, step: Step, flow: Flow, check: Callable[[object, object], object] | None) -> Flow:
        """The map of a later step, over what the step before gives."""
        if step.mapper:
            return Flow(chunks=self._command("mapper", step, step.mapper, flow.chunks(), {}))
        if step.map is None:
            return flow
        self._name(step.map, "map", step)
        if step.map_is_lines:
            return Flow(mapped_stream(step.map, flow.pairs()))
        if self._skipper is not None:
            from ipdc_edge.apps.mapreduce import skipping

            where = self._program.where("map", step)
            return Flow(skipping.mapped(self._skipper, step.map, flow.pairs(), where, self._read_at, check))
        return Flow(mapped_again(step.map, flow.pairs()))

    def _reduced(self, step: Step, check: Callable[[object, object], object] | None) -> Flow:
        """The reduce of a step, over all runs of this partition."""
        origins = [f"node {entry.get('run', {}).get('node', '?')}" for entry in self._params["inputs"]]
        runs: list[Blocks] = [partial(self._take, stream) for stream in range(len(origins))]
        fan_in = shared_fan_in(self._budget) if self._sorter is not None else 0
        batches = merge_runs(runs, self._io.scratch, self._budget, origins=origins, fan_in=fan_in)
        decode = PLAIN.decode
        if self._program.sort_values:
            from ipdc_edge.codec.sorted_values import SORTED

            decode = SORTED.decode
        self._groups = groups = Groups(batches, self._io.progress, decode)
        if step.reducer:
            from ipdc_edge.apps.mapreduce.command import text

            lines = text((key, value) for key, values in groups for value in values)
            return Flow(chunks=self._command("reducer", step, step.reducer, lines, {}))
        assert step.reduce is not None
        self._name(step.reduce, "reduce", step)
        if self._skipper is not None:
            from ipdc_edge.apps.mapreduce import skipping

            return Flow(skipping.reduced(self._skipper, step.reduce, groups, self._where, self._read_at, check))
        return Flow(reduced_pairs(step.reduce, groups))

    # Steps by commands

    def _mapped_files(self, step: Step, source: Source) -> Iterator[bytes]:
        """A mapper command is run once for each input file."""
        from ipdc_edge.apps.mapreduce.command import input_environment

        assert step.mapper is not None
        for found, chunks in source.files():
            yield from self._command("mapper", step, step.mapper, chunks, input_environment(found))

    def _combined(self, step: Step, pairs: Pairs) -> Pairs:
        """A combiner command over the sorted pairs of one partition."""
        assert step.combiner is not None
        return Flow(chunks=self._command("combiner", step, step.combiner, Flow(pairs).chunks(), {})).pairs()

    def _command(
        self, role: str, step: Step, words: list[str], chunks: Iterator[bytes], more: dict[str, str]
    ) -> Iterator[bytes]:
        from ipdc_edge.apps.mapreduce import command

        where = self._program.where(role, step)
        context = self._program.now
        try:
            self._program.prepare(self._io.directory)
            if not self._closing and not self._program.modules:  # none is under way, nor functions with files of theirs
                self._program.tidy(self._io.directory)
            environment = command.task_environment(self._program.spec, self._io.job, self._id, self._params)
            running = command.Command(words, self._program.code, {**environment, **more}, self._io, context.count)
            self._closing.append(running.close)
            yield from running.run(chunks)
            self._closing.remove(running.close)
        except IpdcError as error:
            if type(error).__module__.startswith(command.__name__):
                position: dict[str, object] = {"where": where}
                if self._source is not None and self._source.name is not None:
                    position["input"] = self._source.name
                place(error, position)
            raise

    # What went wrong where

    def _name(self, function: Callable[..., object], role: str, step: Step) -> None:
        self._where = where = self._program.where(role, step)
        code = code_of(function.func if isinstance(function, partial) else function)
        if code is not None:
            self._codes.setdefault(code, where)

    def _read_at(self) -> dict[str, object]:
        """The record that was read last: {"input", "offset", "record"}, or {"record"}, the key in a reduce."""
        if self._source is not None:
            return self._source.position()
        if self._groups is not None and self._groups.key is not NO_KEY:
            return {"record": f"key {ascii(self._groups.key)[:MOST_KEY]}"}
        return {}

    def _found(self, error: BaseException) -> dict[str, object]:
        placed = place_of(error)
        if placed is not None:
            return placed
        calling = None if self._sorter is None else self._sorter.calling()
        if calling is not None:
            where = self._program.where(calling[0], self._last)
            return {"where": where, "record": f"key {ascii(calling[1])[:MOST_KEY]}"}
        if isinstance(error, InputError) and self._source is not None:
            return {"where": "input", **(self._read_at() if error.at_record else {"input": self._source.name})}
        if self._ended:
            return {"where": self._where}
        where = next(iter(self._codes.values()), self._where)
        trace = error.__traceback__
        while trace is not None:
            where = self._codes.get(trace.tb_frame.f_code, where)
            trace = trace.tb_next
        position = {"where": where, **self._read_at()}
        if self._sorter is not None and isinstance(error, (ValueNotCarried, NoPair)):
            # The sorter takes pairs in batches: the record is a later one than the pair's.
            position = {name: position[name] for name in ("where", "input") if name in position}
        return position
