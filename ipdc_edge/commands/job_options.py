"""What describes a job's program and formats on the command line, said once for `submit` and `run-inline`.

Owns these flags, what they may not be together, and the way from them to a job's steps, files and options. Never
looks at the inputs and never speaks to the daemon.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from ipdc_edge.apps.mapreduce.choices import INPUT_FORMATS, MOST_SKIPPED, OUTPUT_FORMATS
from ipdc_edge.commands.program import Files
from ipdc_edge.commands.steps import Step, command_steps, partition, python_steps
from ipdc_edge.errors import WrongUsage
from ipdc_edge.settings import size

ARGUMENTS_EXAMPLE = """For example: --args '{"least": 3}'"""
NONE = "NONE"  # as Hadoop writes "no reduce"
PROGRAM_FLAGS = ("map", "reduce", "mapper", "reducer", "combiner", "step", "partition")
FORMAT_FLAGS = ("sort_values", "input_format", "output_format", "skip_bad", "sort_budget", "output_limit")


class Job(NamedTuple):
    """What the flags say: `paths` is name in the bundle -> path here; `options` are the description's, with the
    steps in it."""

    paths: dict[str, str]
    options: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def steps(self) -> list[Step]:
        """The job's steps; none for another architecture."""
        steps: list[Step] = self.options.get("steps", [])
        return steps

    @property
    def input_format(self) -> str:
        """How inputs become records."""
        return str(self.options.get("input_format", INPUT_FORMATS[0]))


def configure(parser: argparse.ArgumentParser, more_formats: tuple[str, ...] = ()) -> None:
    """The flags. more_formats: of inputs, beside Map-Reduce's."""
    program = parser.add_argument_group("program")
    program.add_argument("map", metavar="MAP", nargs="?",
                         help="Python file with map, or FILE:FUNCTION; or a file with a list `steps`")
    program.add_argument("reduce", metavar="REDUCE", nargs="?", help="Python file with reduce, or FILE:FUNCTION")
    program.add_argument("--mapper", metavar="COMMAND", help="any program instead of MAP, as in Hadoop Streaming")
    program.add_argument("--reducer", metavar="COMMAND", help="any program instead of REDUCE")
    program.add_argument("--combiner", metavar="COMMAND", help="a program that reduces what one mapper made")
    program.add_argument("--step", metavar=("MAP", "REDUCE"), nargs="+", action="append", default=[],
                         help="one more step after the first; - for no map; with --mapper both are commands")
    program.add_argument("--file", metavar="PATH", nargs="+", action="extend", default=[],
                         help="files and directories that the program needs beside it")
    program.add_argument("--args", dest="arguments", metavar="JSON", default="{}",
                         help="a JSON object for the program's setup(args)")
    order = parser.add_argument_group("formats and order")
    order.add_argument("--input-format", choices=(*INPUT_FORMATS, *more_formats),
                       help="what one record is (default: lines)")
    order.add_argument("--output-format", choices=OUTPUT_FORMATS, help="how results are written (default: text)")
    order.add_argument("--sort-values", action="store_true", default=None,
                       help="values reach reduce in their order too")
    order.add_argument("--partition", metavar="[FILE:]FUNCTION",
                       help="a function (key, count) whose int, modulo count, is the key's partition")
    order.add_argument("--skip-bad", metavar="N", type=_count,
                       help="set up to N bad records aside instead of failing (default: 0)")
    order.add_argument("--sort-budget", metavar="SIZE", type=memory,
                       help="memory of a runner's sorting, such as 16M (default: its share of the runner's)")
    order.add_argument("--output-limit", metavar="SIZE", type=memory,
                       help="what one task may write (default: 1G, or 64 times what it reads, whichever is more)")


def read(args: argparse.Namespace) -> Job:
    """The job of the flags. Raises WrongUsage, or what is wrong with a program."""
    arguments = parse_arguments(args.arguments)
    files = Files()
    for path in args.file:
        files.ship_all(path)
    if args.input_format is not None and args.input_format not in INPUT_FORMATS:
        raise WrongUsage(reason=f"--input-format {args.input_format} is for --model.")
    options: dict[str, Any] = {"steps": _steps(args, files)}
    for name in FORMAT_FLAGS:
        value = getattr(args, name)
        if value is not None:
            options[name] = value
    return Job(files.paths, options, arguments)


def read_other(args: argparse.Namespace) -> Job:
    """The job of another architecture: it has arguments, and files where some are named."""
    for name in (*PROGRAM_FLAGS, *FORMAT_FLAGS):
        if getattr(args, name):
            flag = name.upper() if name in ("map", "reduce") else f"--{name.replace('_', '-')}"
            raise WrongUsage(reason=f"{flag} is for Map-Reduce; --app {args.app} is told by --args what to do.")
    files = Files()
    for path in args.file:
        files.ship_all(path)
    return Job(files.paths, {}, parse_arguments(args.arguments))


def _steps(args: argparse.Namespace, files: Files) -> list[Step]:
    """The steps of the program, whichever way it is given."""
    for words in args.step:
        if len(words) > 2:
            raise WrongUsage(reason=f"--step {' '.join(words)}: a step has one or two words, MAP [REDUCE]. Commands "
                             "with several words need quotes, and what follows needs a flag before it.")
    reducer = None if args.reducer == NONE else args.reducer
    flags = {"mapper": args.mapper, "combiner": args.combiner, "reducer": reducer}
    if args.mapper is not None or args.reducer is not None or args.combiner is not None:
        if args.map is not None:
            given = next(name for name in ("mapper", "reducer", "combiner") if getattr(args, name) is not None)
            raise WrongUsage(reason=f"{args.map} and --{given}: a step is either Python (MAP [REDUCE]) or commands "
                             "(--mapper, --reducer), not both.")
        if args.mapper is None and reducer is None:
            raise WrongUsage(reason="give --mapper COMMAND, --reducer COMMAND, or both.")
        steps = command_steps(flags, args.step, files)
    else:
        first = [word for word in (args.map, args.reduce) if word is not None]
        if not first and not args.step:
            raise WrongUsage(reason="which program? Give MAP [REDUCE] (Python files), or --mapper COMMAND "
                             "[--reducer COMMAND]. Examples: --help")
        steps = python_steps(first, args.step, files)
    if args.sort_values and not any("reduce" in step or "reducer" in step for step in steps):
        raise WrongUsage(reason="--sort-values does nothing in a job without reduce.")
    if args.partition is not None:
        partition(args.partition, steps, files)
    return steps


def parse_arguments(text: str) -> dict[str, Any]:
    """The object that --args gives. Raises WrongUsage with the place of the mistake."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise WrongUsage(reason=f"--args is not JSON: {error}. {ARGUMENTS_EXAMPLE}") from error
    if not isinstance(value, dict):
        raise WrongUsage(reason=f"--args is JSON, but not an object: {text[:100]}. {ARGUMENTS_EXAMPLE}")
    return value


def memory(text: str) -> int:
    """Bytes of a size such as 64M, for argparse."""
    try:
        found = size(text)
    except ValueError:
        found = 0
    if not 1 << 20 <= found <= 1 << 40:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1M, such as 64M or 1G")
    return found


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MOST_SKIPPED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_SKIPPED}")
    return int(text)
