"""`ipdc-edge run-inline`: a job in this one process, for finding mistakes in its program.

Owns the way from files to standard output without daemon, sockets or limits. Never differs from a real job in
what it computes: splits and tasks are the same code. breakpoint() works, and an error shows its own traceback
with a note that says which line or key it was.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from ipdc_edge.apps.mapreduce.command import prepare
from ipdc_edge.apps.mapreduce.plan import MapReduce, cut
from ipdc_edge.apps.mapreduce.task import load, make_task
from ipdc_edge.commands import job_options
from ipdc_edge.commands.display import counted, counter_lines, plain
from ipdc_edge.commands.inputs import Input, find_inputs
from ipdc_edge.commands.job_options import Job
from ipdc_edge.core.values import JobSpec
from ipdc_edge.errors import IpdcError, WrongUsage
from ipdc_edge.runner.scratch import Scratch
from ipdc_edge.runner.task_io import TaskIo

SPLIT = 16 * 1024 * 1024
BLOCK = 1024 * 1024
SORT_BUDGET = 32 * 1024 * 1024
MEMORY = SPILL_LIMIT = 1 << 40  # no sandbox, no cap
BAD_SHOWN = 10

EXAMPLES = """\
examples:
  ipdc-edge run-inline Map.py Reduce.py --input logs/monday.txt logs/tuesday.txt
  ipdc-edge run-inline Job.py --input book.txt.gz --args '{"lower": true}'
  ipdc-edge run-inline Map.py --input book.txt          (map-only)
  ipdc-edge run-inline --mapper mapper.py --reducer 'uniq -c' --input book.txt
  head -n 1000 book.txt | ipdc-edge run-inline Job.py:words Job.py:total --step Job.py:swap Job.py:top --input -

A breakpoint() in the program stops there, and an error shows its own traceback and which line or key it was.
Counters and what status() says go to standard error.
"""


class NotHere(IpdcError):
    """{cid} is content, and run-inline reads files only. Get it first: ipdc-edge cat {cid} >FILE"""

    exit_code = 2


class TaskFailed(IpdcError):
    """{message} ({where})"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.description = "Run a job in this process, without a daemon: breakpoints and real tracebacks."
    parser.usage = ("%(prog)s MAP [REDUCE] --input PATH... [options]\n"
                    "       %(prog)s --mapper COMMAND [--reducer COMMAND] --input PATH... [options]")
    parser.epilog = EXAMPLES
    job_options.configure(parser)
    data = parser.add_argument_group("inputs")
    data.add_argument("--input", metavar="PATH", nargs="+", action="extend", required=True,
                      help="files, directories, quoted patterns, or - for standard input")
    data.add_argument("-k", dest="workers", metavar="N", type=int, default=1,
                      help="number of partitions, as with that many workers (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Results to standard output, sorted by key. The user's exceptions pass through as they are, with a note."""
    if not 1 <= args.workers <= 1000:
        raise WrongUsage(reason=f"-k {args.workers}: give 1 to 1000 partitions.")
    job = job_options.read(args)
    inputs = find_inputs(args.input)
    for item in inputs:
        if item.path is None:
            raise NotHere(cid=item.cid)
    sys.stdout.flush()
    inputs = [item._replace(path=os.path.abspath(str(item.path))) for item in inputs]
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="ipdc-inline-") as directory:
        try:
            output = sys.stdout.buffer
            with _prints_elsewhere():
                inline = _Inline(job, args.workers, output, directory)
                inline.run(inputs)
        finally:
            os.chdir(here)
    sys.stdout.buffer.flush()
    inline.tell()
    return 0


@contextlib.contextmanager
def _prints_elsewhere() -> Iterator[None]:
    """What the program prints goes to standard error where results go into a file or a pipe, as a job's goes to its
    log. At a terminal it stays, for the sake of breakpoint()."""
    with contextlib.nullcontext() if sys.stdout.isatty() else contextlib.redirect_stdout(sys.stderr):
        yield


Runs = list[list[Any]]  # of each task of a stage, the segments of one partition


class _Inline:
    """A job's stages, one task after the other; runs between two stages wait in an unnamed file."""

    def __init__(self, job: Job, workers: int, output: BinaryIO, directory: str) -> None:
        options = {"sort_budget": SORT_BUDGET, **job.options}
        self._spec = {"app": "mapreduce", "version": 1, "memory": MEMORY, "workers": workers, "options": options,
                      "arguments": job.arguments, "inputs": [], "code": dict.fromkeys(job.paths, {})}
        self._whole = job.input_format == "whole-file"
        self._output = output
        self._directory = directory
        self._paths: dict[str, str] = {}  # name of an input -> where it is
        self._counters: dict[str, int] = {}
        self._bad: list[dict[str, object]] = []
        self._bad_count = 0
        self._status = ""
        code = {name: _content(path) for name, path in job.paths.items()}
        importable = _importable(job.paths)
        if code.keys() - importable.keys():  # it finds them by their names, as it will on a node
            prepare(code, directory)
            os.chdir(directory)
        self._program = load(self._spec, code, importable)

    def run(self, inputs: Sequence[Input]) -> None:
        """All stages."""
        reducing = [number for number, step in enumerate(self._program.steps) if step.reduces]
        with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
            self._scratch = Scratch([first.fileno(), second.fileno()], SPILL_LIMIT)
            store, file = self._new_store()
            partitions = self._maps(inputs, store, last=not reducing)
            for number in reducing:
                following, next_file = self._new_store()
                partitions = self._reduces(number, partitions, store, following, last=number == reducing[-1])
                file.close()
                store, file = following, next_file
            file.close()

    def tell(self) -> None:
        """What was counted and set aside, to standard error."""
        lines = counter_lines({"counters": dict(sorted(self._counters.items()))})
        if self._bad_count:
            lines.append(f"{counted(self._bad_count, 'bad record')} left out:")
            lines += [f"  {_note(record)}: {record.get('error')}" for record in self._bad]
        for line in lines:
            print(plain(line), file=sys.stderr)

    def _new_store(self) -> tuple[Scratch, BinaryIO]:
        file = tempfile.TemporaryFile()
        return Scratch([file.fileno()], SPILL_LIMIT), file

    def _maps(self, inputs: Sequence[Input], store: Scratch, last: bool) -> list[Runs]:
        items: list[dict[str, Any]] = []
        for item in inputs:
            assert item.path is not None
            self._paths.setdefault(item.name, item.path)
            items.append({"name": item.name, "path": item.path, "size": os.path.getsize(item.path),
                          "compression": item.compression})
        partitions: list[Runs] = [[] for _ in range(self._partitions(last))]
        for index, split in enumerate(cut(items, SPLIT, self._whole)):
            ranges = [{**items[number], "start": start, "end": end} for number, start, end in split]
            files = [_Range(found) for found in ranges]
            params = {"stage": "map", "step": 0, "index": index, "inputs": [{"range": found} for found in ranges]}
            self._do(f"map-{index:05d}", params, lambda stream, files=files: files[stream].read(),  # type: ignore[misc]
                     partitions, store, last)
        return partitions

    def _reduces(self, step: int, given: list[Runs], store: Scratch, following: Scratch, last: bool) -> list[Runs]:
        partitions: list[Runs] = [[] for _ in range(self._partitions(last))]
        for index, runs in enumerate(given):
            readers = [store.reader(run) for run in runs]
            params = {"stage": "reduce", "step": step, "index": index,
                      "inputs": [{"run": {"node": f"map {number}"}} for number in range(len(readers))]}
            self._do(f"reduce-{index:05d}", params, lambda stream, readers=readers: readers[stream](),  # type: ignore[misc]
                     partitions, following, last)
        return partitions

    def _partitions(self, last: bool) -> int:
        return 1 if last else int(str(self._spec["workers"]))

    def _do(self, ident: str, params: dict[str, Any], read: Callable[[int], bytes], partitions: list[Runs],
            store: Scratch, last: bool) -> None:
        """One task; what it writes goes to standard output, or into a run for each partition."""
        runs: Runs = [[] for _ in partitions]

        def write(stream: int, block: bytes) -> None:
            if last:
                self._output.write(block)
            else:
                runs[stream].append(store.append(block))

        params["outputs"] = {"kind": "files" if last else "runs", "count": len(partitions)}
        io = TaskIo(read, write, scratch=self._scratch, status=self._say, set_aside=self._set_aside, job="inline",
                    directory=self._directory)
        task = make_task(self._program, ident, params, io)
        try:
            done = task.run()
        except IpdcError as error:
            raise TaskFailed(message=str(error), where=self._place(task.position())) from error
        except SystemExit as error:  # its own exit would look like one of ours
            raise TaskFailed(message=f"the program called exit: {error.code!r}",
                             where=self._place(task.position())) from error
        except Exception as error:
            error.add_note(self._place(task.position()))
            raise
        finally:
            self._scratch.clear()
        for partition, run in zip(partitions, runs):
            partition.append(run)
        for name, count in done.get("user_counters", {}).items():
            self._counters[name] = self._counters.get(name, 0) + count
        self._bad_count += done["counters"].get("bad_records", 0)
        spec = JobSpec("", "mapreduce", 1, MEMORY, self._spec)
        if hopeless := MapReduce().hopeless(spec, {"bad_records": self._bad_count}):
            raise TaskFailed(message=hopeless, where=f"in {ident}")

    def _say(self, text: str) -> None:
        text = " ".join(str(text).split())
        if text != self._status:
            self._status = text
            print(plain(f"status: {text}"), file=sys.stderr)

    def _set_aside(self, record: dict[str, object]) -> None:
        if len(self._bad) < BAD_SHOWN:
            self._bad.append(record)

    def _place(self, position: dict[str, object]) -> str:
        """The place of an error, with the input's path here instead of its name."""
        name = position.get("input")
        return _note({**position, "input": self._paths.get(str(name), name)} if name is not None else position)


class _Range:
    """The bytes of an input from its start on, as the daemon gives them: in blocks, and beyond the end until the
    reader has had enough."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._path, self._at = found["path"], found["start"]

    def read(self) -> bytes:
        """The next block."""
        with open(self._path, "rb") as file:
            data = os.pread(file.fileno(), BLOCK, self._at)
        self._at += len(data)
        return data


def _importable(paths: dict[str, str]) -> dict[str, str]:
    """Where each Python file lies; their directories come first on the path, as for a script."""
    found = {name: os.path.abspath(path) for name, path in paths.items() if name.endswith(".py")}
    for name, path in reversed(found.items()):
        directory = path[: -len(name) - 1]
        if directory not in sys.path:
            sys.path.insert(0, directory)
    return found


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _note(position: dict[str, object]) -> str:
    where = f"in {position.get('where', 'the task')}"
    if "input" in position:
        where += f" of {position['input']}"
    if position.get("offset") is not None:
        where += f", byte offset {position['offset']}, line {position.get('record')!r}"
    elif "record" in position:
        where += f", {position['record']}"
    return where
