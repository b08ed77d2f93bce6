"""`ipdc-edge run-inline`: a job in this one process, for finding mistakes in Map.py and Reduce.py.

Owns the way from files to standard output without daemon, sockets or limits. Never differs from a real job in
what it computes: splits, mapper, sorter, merge and reducer are the same classes. breakpoint() works, and an
error shows its own traceback with a note that says which line or key it was.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import TYPE_CHECKING

from ipdc_edge.apps.mapreduce.task import TaskIo, make_task
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.program import load_program
from ipdc_edge.runner.scratch import Scratch

if TYPE_CHECKING:
    import argparse
    from typing import Any, BinaryIO

    from ipdc_edge.apps.mapreduce.task import Program

SPLIT = 16 * 1024 * 1024
BLOCK = 1024 * 1024
SORT_BUDGET = 32 * 1024 * 1024
SPILL_LIMIT = 1 << 40  # no sandbox, no cap

EXAMPLES = """examples:
  ipdc-edge run-inline Map.py Reduce.py --input logs/monday.txt logs/tuesday.txt
  ipdc-edge run-inline WordCount.py WordCount.py --input book.txt --args '{"lower": true}'
  ipdc-edge run-inline Map.py --input book.txt          (map-only)
"""


class InputUnreadable(IpdcError):
    """cannot read {path}: {reason}"""

    exit_code = 2


class BadArguments(IpdcError):
    """--args {text} is not a JSON object: {reason}"""

    exit_code = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("map", metavar="MAP", help="file with map(key, line) or map_lines(lines)")
    parser.add_argument("reduce", metavar="REDUCE", nargs="?", help="file with reduce(key, values); may be MAP again")
    parser.add_argument("--input", metavar="FILE", nargs="+", required=True, help="text files to read")
    parser.add_argument("--args", metavar="JSON", default="{}", help="what setup(args) gets")


def run(args: argparse.Namespace) -> int:
    """Results to standard output, sorted by key. The user's exceptions pass through as they are, with a note."""
    try:
        arguments = json.loads(args.args)
        if not isinstance(arguments, dict):
            raise ValueError("it is another JSON value")
    except ValueError as error:
        raise BadArguments(text=args.args, reason=error) from None
    for path in [args.map, *([args.reduce] if args.reduce else []), *args.input]:
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise InputUnreadable(path=path, reason=error.strerror) from None
    program = _load(args.map, args.reduce)
    program.set_up(arguments)
    sys.stdout.flush()
    output = sys.stdout.buffer
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        job = _Inline(program, Scratch([first.fileno(), second.fileno()], SPILL_LIMIT), output)
        job.run(args.input)
    output.flush()
    return 0


def _load(map_path: str, reduce_path: str | None) -> Any:
    """The files as modules of their own names, with their directories first on the path, as for a script."""
    names: list[str] = []
    paths: dict[str, str] = {}
    for path in [map_path] if reduce_path is None else [reduce_path, map_path]:
        directory, name = os.path.split(os.path.abspath(path))
        if directory not in sys.path:
            sys.path.insert(0, directory)
        names.insert(0, name)
        paths[name] = os.path.join(directory, name)
    return load_program(names[0], names[1] if len(names) > 1 else None, paths)


class _Inline:
    """The two stages, one task after the other; runs between them wait in an unnamed file."""

    def __init__(self, program: Program, scratch: Scratch, output: BinaryIO) -> None:
        self._program = program
        self._scratch = scratch
        self._output = output

    def run(self, paths: list[str]) -> None:
        with tempfile.TemporaryFile() as file:
            store = Scratch([file.fileno()], SPILL_LIMIT)
            runs = []
            for path in paths:
                size = os.path.getsize(path)
                for start in range(0, max(size, 1), SPLIT):
                    runs.append(self._map(path, start, min(size, start + SPLIT), store))
            if self._program.reduce is not None:
                readers = [store.reader(run) for run in runs]
                inputs: list[dict[str, Any]] = [{"run": {}} for _ in readers]
                params = {
                    "stage": "reduce",
                    "index": 0,
                    "inputs": inputs,
                    "outputs": {"kind": "files", "count": 1},
                }
                self._do(params, lambda stream: readers[stream](), self._write_text)

    def _map(self, path: str, start: int, end: int, store: Scratch) -> list[Any]:
        segments: list[Any] = []
        kind = "files" if self._program.reduce is None else "runs"
        entry = {"name": path, "start": start, "end": end}
        params = {
            "stage": "map",
            "index": 0,
            "inputs": [{"range": entry}],
            "outputs": {"kind": kind, "count": 1},
        }
        with open(path, "rb") as file:
            file.seek(start)

            def write(stream: int, block: bytes) -> None:
                segments.append(store.append(block))

            self._do(params, lambda stream: file.read(BLOCK), self._write_text if kind == "files" else write)
        return segments

    def _do(self, params: dict[str, Any], read: Any, write: Any) -> None:
        io = TaskIo(read, write, lambda records, size: None, self._scratch)
        task = make_task(self._program, SORT_BUDGET, params, io)
        try:
            task.run()
        except Exception as error:
            error.add_note(_note(task.position()))
            raise
        finally:
            self._scratch.clear()

    def _write_text(self, stream: int, block: bytes) -> None:
        self._output.write(block)


def _note(position: dict[str, object]) -> str:
    if "offset" in position:
        return f"in map of {position['input']}, byte offset {position['offset']}, line {position['record']!r}"
    return f"in {position['where']}" + (f", {position['record']}" if "record" in position else "")
