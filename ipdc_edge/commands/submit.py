"""`ipdc-edge submit`: checks the program, adds its files and inputs, hands the job in, and waits for it.

Owns the job's description as the daemon gets it: {"app", "code", "inputs", "workers", "arguments",
"options"}. The daemon completes it (version, memory, the size of inputs that are named by CID) and stores
it as the job's block.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import Progress, print_json, size
from ipdc_edge.commands.program import Program
from ipdc_edge.commands.upload import Input, add_file, find_inputs
from ipdc_edge.commands.watch import follow, outcome, success_text
from ipdc_edge.errors import WrongUsage
from ipdc_edge.home import Home

ARGUMENTS_EXAMPLE = """For example: --args '{"least": 3}'"""
WORKERS_LIMIT = 1000
WORKERS_UNASKED = 16  # at most, where -k is not given

EXAMPLES = """\
examples:
  ipdc-edge submit Map.py Reduce.py --input logs/*.txt -k 3
  ipdc-edge submit Job.py --input book.txt                    (one file with map and reduce, or map alone)
  ipdc-edge submit Map.py Reduce.py --input DIRECTORY bafk... --args '{"least": 3}'
  ID=$(ipdc-edge submit Map.py Reduce.py --input book.txt --id-only); ipdc-edge status $ID

Map.py defines map(key, line) or map_lines(lines), and may define combine(key, values) and setup(args).
Reduce.py defines reduce(key, values). Without reduce the job is map-only. Modules beside Map.py that it
imports travel with it. Try it on a small file first: ipdc-edge run-inline Map.py Reduce.py --input FILE
Ctrl-C while it waits leaves the job running.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run a Map-Reduce job on the nodes of the domain."
    parser.epilog = EXAMPLES
    parser.add_argument("map", metavar="MAP", help="Python file with map")
    parser.add_argument("reduce", metavar="REDUCE", nargs="?", help="Python file with reduce")
    parser.add_argument("--input", metavar="PATH|CID", nargs="+", action="extend", required=True,
                        help="files, directories, or content by its CID")
    parser.add_argument("-k", dest="workers", metavar="N", type=int,
                        help="number of workers and of result files (default: as many as nodes are ready)")
    parser.add_argument("--args", dest="arguments", metavar="JSON", default="{}",
                        help="a JSON object for the program's setup(args)")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                        help="wait for the job's end and show its progress (default)")
    parser.add_argument("--id-only", action="store_true",
                        help="print nothing but the job's id; implies --no-wait")
    parser.add_argument("--json", action="store_true", help="print the job as JSON lines while it runs")


def run(args: argparse.Namespace) -> int:
    """0 when the job succeeded, or was handed in where nobody waits."""
    home = Home(os.environ)
    if args.workers is not None and not 1 <= args.workers <= WORKERS_LIMIT:
        raise WrongUsage(reason=f"-k {args.workers}: give 1 to {WORKERS_LIMIT} workers.")
    arguments = parse_arguments(args.arguments)
    program = Program(args.map, args.reduce)
    inputs = find_inputs(args.input)
    progress = Progress(args.json)
    workers = args.workers or _ready_nodes(home)
    job = hand_in(home, program, inputs, workers, arguments, progress)
    wait = args.wait if args.wait is not None else not args.id_only
    if args.id_only:
        print(job, flush=True)
    elif not wait:
        if args.json:
            print_json({"id": job}, line=True)
        else:
            print(f"job {job} is submitted. How far it is: ipdc-edge status {job}")
    return _wait(home, job, progress, quiet=args.json or args.id_only) if wait else 0


def hand_in(
    home: Home, program: Program, inputs: list[Input], workers: int, arguments: dict[str, Any],
    progress: Progress,
) -> str:
    """Adds code and inputs and submits the job; its id."""
    submission = os.urandom(8).hex()  # what is added under it goes when the job does not come
    spec: dict[str, object] = {
        "app": "mapreduce",
        "workers": workers,
        "arguments": arguments,
        "options": {"map": program.map, "reduce": program.reduce},
        "code": _add_code(home, program, submission),
        "inputs": _add_inputs(home, inputs, submission, progress),
    }
    return str(call(home, "submit", spec=spec, submission=submission)["id"])


def parse_arguments(text: str) -> dict[str, Any]:
    """The object that --args gives. Raises WrongUsage with the place of the mistake."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise WrongUsage(reason=f"--args is not JSON: {error}. {ARGUMENTS_EXAMPLE}") from error
    if not isinstance(value, dict):
        raise WrongUsage(reason=f"--args is JSON, but not an object: {text[:100]}. {ARGUMENTS_EXAMPLE}")
    return value


def _ready_nodes(home: Home) -> int:
    found = call(home, "nodes").get("nodes")
    ready = sum(node.get("state") == "ready" for node in found) if isinstance(found, list) else 0
    return max(1, min(WORKERS_UNASKED, ready))


def _add_code(home: Home, program: Program, submission: str) -> dict[str, object]:
    """The program's files as content of their own: copied, because people go on editing them."""
    code: dict[str, object] = {}
    for name, path in program.files.items():
        added = add_file(home, path, name=name, copy=True, submission=submission)
        code[name] = {"cid": added.cid, "size": added.size}
    return code


def _add_inputs(
    home: Home, inputs: list[Input], submission: str, progress: Progress
) -> list[dict[str, object]]:
    """The inputs as content, by reference where the daemon can. Content that is named by CID has no size yet."""
    total = sum(os.path.getsize(item.path) for item in inputs if item.path is not None)
    found: list[dict[str, object]] = []
    done, copied, shown = 0, 0, 0.0

    def show(count: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 0.1:
            shown = time.monotonic()
            progress.line(f"reading input  {size(done + count)} of {size(total)}")

    for item in inputs:
        if item.path is None:
            found.append({"name": item.name, "cid": item.cid, "size": None})
            continue
        added = add_file(home, item.path, name=item.name, copy=False, submission=submission,
                         progress=show)
        done += added.size
        copied += added.size if added.stored == "copy" else 0
        found.append({"name": item.name, "cid": added.cid, "size": added.size})
    progress.end()
    if copied:
        print(f"ipdc-edge: {size(copied)} of input were copied, because the daemon may not read them itself",
              file=sys.stderr)
    return found


def _wait(home: Home, job: str, progress: Progress, quiet: bool) -> int:
    """Waits for the end. Ctrl-C leaves the job alone and says how to go on."""
    try:
        final = follow(home, job, progress)
    except KeyboardInterrupt:
        progress.end()
        print(f"\nThe job goes on. Look at it: ipdc-edge status {job}\nEnd it:     ipdc-edge cancel {job}",
              file=sys.stderr)
        raise
    error = outcome(final)
    if error is not None:
        raise error
    if not quiet:
        print(success_text(final, home.job(job)))
    return 0
