"""`ipdc-edge submit`: checks the program, adds its files and inputs, hands the job in, and waits for it.

Owns the job's description as the daemon gets it: {"app", "code", "inputs" or "local", "workers", "memory"?,
"arguments", "options"}. The daemon completes it (version, memory, the size of inputs that are named by CID, the
nodes of a local pattern) and stores it as the job's block.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from ipdc_edge.apps.tflite.formats import FORMATS
from ipdc_edge.commands import inference, job_options
from ipdc_edge.commands.client import call, events
from ipdc_edge.commands.content_inputs import expanded
from ipdc_edge.commands.display import counted, plain, print_json, size
from ipdc_edge.commands.inputs import Input, compressed_text, find_inputs, local_pattern
from ipdc_edge.commands.job_options import Job
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.upload import add_file
from ipdc_edge.commands.watch import follow, outcome, success_text
from ipdc_edge.core.bounds import MOST_PRIORITY, MOST_TIMEOUT, MOST_UNASKED
from ipdc_edge.errors import WrongUsage
from ipdc_edge.home import Home

MAPREDUCE = "mapreduce"
WORKERS_LIMIT = 1000
LEAST_MEMORY = 16 << 20  # of a runner, as ipdc.conf has it

EXAMPLES = """\
examples:
  ipdc-edge submit Map.py Reduce.py --input logs/*.txt -k 3
  ipdc-edge submit Job.py --input 'logs/**/*.csv.gz'          (one file with map and reduce, map alone, or steps)
  ipdc-edge submit Map.py Reduce.py --input DIRECTORY bafk... --args '{"least": 3}'
  ipdc-edge submit Job.py:words Job.py:total --step Job.py:swap Job.py:top --input book.txt
  ipdc-edge submit Map.py --input $(ipdc-edge add logs/)      (all files below a directory of content)
  ipdc-edge submit --mapper 'python3 mapper.py' --reducer 'python3 reducer.py' --input book.txt
  ipdc-edge submit --mapper "awk '{print \\$1}'" --reducer 'uniq -c' --input access.log
  zcat old/*.gz | ipdc-edge submit --mapper ./parse --file parse tables/ --input -
  ipdc-edge submit Map.py Reduce.py --input-local '/var/log/sensors/*.csv' --input-format csv
  ipdc-edge submit --app search --args '{"header": "0100...", "last": 1000000}' -k 4     (examples/app-search)
  ipdc-edge submit --model flowers.tflite --input photos/           (inference; results are JSON lines)
  ipdc-edge submit --model m.tflite --pre Pre.py --post Post.py Count.py --input rows.csv
  ID=$(ipdc-edge submit Map.py Reduce.py --input book.txt --id-only); ipdc-edge status $ID

Map.py defines map(key, line) or map_lines(lines), and may define combine(key, values) and setup(args).
Reduce.py defines reduce(key, values). Without reduce the job is map-only. Modules beside Map.py that it
imports travel with it. A file with steps = [{"map": words, "reduce": total}, (swap, top)] at its end is a job of
several steps. In a command, the first word and relative paths that are files here travel with the job.
Try it on a small file first: ipdc-edge run-inline Map.py Reduce.py --input FILE
With --model the map is a TensorFlow Lite model. pre(name, data) yields the model's input: data is a numpy array (of
an image, height by width by channels; of .npy), a list of text (a CSV row) or bytes. post(name, outputs) yields pairs
(key, value): outputs["name"] and outputs[0] are numpy arrays. Without them images are scaled to the input's size and
0 to 1, and outputs are written as lists. name is the input's, or (name, place) where one file gives several.
Ctrl-C while it waits leaves the job running.
"""

LEFT_OVER = ". Inputs stand after --input: ipdc-edge submit MAP [REDUCE] --input FILE..."


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run a job on the nodes of the domain."
    parser.usage = ("%(prog)s MAP [REDUCE] --input PATH... [options]\n"
                    "       %(prog)s --mapper COMMAND [--reducer COMMAND] --input PATH... [options]\n"
                    "       %(prog)s --model FILE [REDUCE] --input PATH... [options]\n"
                    "       %(prog)s --app NAME [--args JSON] [options]")
    parser.epilog = EXAMPLES
    job_options.configure(parser, tuple(name for name in FORMATS if name != "csv"))
    inference.configure(parser)
    data = parser.add_argument_group("inputs")
    data.add_argument("--input", metavar="PATH|CID", nargs="+", action="extend", default=[],
                      help="files, directories, quoted patterns, - for standard input, or content by its CID")
    data.add_argument("--input-local", metavar="GLOB", help="map on every chosen node that node's own files: an "
                      "absolute pattern, in directories that its owner opened (local_inputs in its ipdc.conf)")
    where = parser.add_argument_group("nodes")
    where.add_argument("-k", dest="workers", metavar="N", type=int,
                       help="number of workers and of result files (default: as many files as nodes are ready, and who "
                       "comes later works too)")
    where.add_argument("--memory", metavar="SIZE", type=job_options.memory,
                       help="memory of one runner, such as 64M (default: this node's runner_memory; as it comes, 24M "
                       "to 128M, what each member of the domain spares, those that are away too)")
    where.add_argument("--priority", metavar="N", type=_priority, default=0,
                       help=f"from -{MOST_PRIORITY} to {MOST_PRIORITY} (default: 0): of your jobs, those of a higher "
                       "one go first; others' jobs are not pushed back by it")
    where.add_argument("--timeout", metavar="TIME", type=_time, default=0,
                       help="fail if it is not done so long after its submission, such as 90s, 15m, 2h or 1d")
    where.add_argument("--no-queue", action="store_true", help="exit with code 4 where no node is fit now")
    where.add_argument("--app", metavar="NAME", default=MAPREDUCE,
                       help="another architecture than Map-Reduce, which the nodes have installed")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--wait", action=argparse.BooleanOptionalAction, default=None,
                       help="wait for the job's end and show its progress (default)")
    shown.add_argument("--id-only", action="store_true", help="print nothing but the job's id; implies --no-wait")
    shown.add_argument("--json", action="store_true", help="print the job as JSON lines while it runs")


def run(args: argparse.Namespace) -> int:
    """0 when the job succeeded, or was handed in where nobody waits."""
    home = Home(os.environ)
    _check(args)
    if args.model is not None:
        job, args.app = inference.read(args), inference.NAME
    else:
        job = job_options.read(args) if args.app == MAPREDUCE else job_options.read_other(args)
    if args.app in (MAPREDUCE, inference.NAME) and not args.input and args.input_local is None:
        raise WrongUsage(reason="which input? Give --input PATH... (- is standard input), or --input-local GLOB.")
    progress = Progress(args.json)
    local = local_pattern(args.input_local) if args.input_local is not None else None
    inputs = expanded(home, find_inputs(args.input, progress.line))
    progress.end()
    if args.model is not None and inference.has_images(inputs, args.input_format or "auto", local):
        job.options["images"] = True
    if compressed := compressed_text(inputs):
        _tell(compressed)
    spec: dict[str, Any] = {"app": args.app, "workers": _workers(home, args)}
    if args.memory is not None:
        spec["memory"] = args.memory
    if args.workers is None:
        spec["grows"] = True  # who comes later takes part too
    spec |= {name: value for name in ("priority", "timeout") if (value := getattr(args, name))}
    if local is not None:
        spec["local"] = {"pattern": local}
    if args.no_queue:
        job.options["no_queue"] = True
    ident = hand_in(home, job, inputs, spec, progress)
    wait = args.wait if args.wait is not None else not args.id_only
    if args.id_only:
        print(ident, flush=True)
    elif not wait:
        if args.json:
            print_json({"id": ident}, line=True)
        else:
            print(f"job {ident} is submitted. How far it is: ipdc-edge status {ident}")
    return _wait(home, ident, progress, quiet=args.json or args.id_only) if wait else 0


def hand_in(home: Home, job: Job, inputs: list[Input], spec: dict[str, Any], progress: Progress) -> str:
    """Adds code and inputs and submits the job; its id. `spec` has "app" and "workers", and may have more."""
    submission = os.urandom(8).hex()  # what is added under it goes when the job does not come
    whole = {**spec, "arguments": job.arguments, "options": job.options,
             "code": _add_code(home, job.paths, submission),
             "inputs": _add_inputs(home, inputs, submission, progress)}
    answer: Mapping[str, object] = {}
    advice = "`ipdc-edge jobs` shows what became of it"
    for answer in events(home, "submit", advice, spec=whole, submission=submission):
        if "fetching" in answer:
            fetched = answer.get("bytes")
            amount = size(fetched) if isinstance(fetched, int) else ""
            progress.line(f"fetching from Kubo  {amount}  {answer['fetching']}")
    progress.end()
    for cid in answer.get("compressed") or ():  # type: ignore[attr-defined]
        _tell(f"{cid} is compressed: one task reads all of it")
    for line in answer.get("left_out") or ():  # type: ignore[attr-defined]
        _tell(line)
    return str(answer["id"])


def _check(args: argparse.Namespace) -> None:
    """WrongUsage for flags that make no sense, before anything is read."""
    inference.check(args, MAPREDUCE)
    if args.workers is not None and not 1 <= args.workers <= WORKERS_LIMIT:
        raise WrongUsage(reason=f"-k {args.workers}: give 1 to {WORKERS_LIMIT} workers.")
    if args.memory is not None and args.memory < LEAST_MEMORY:
        raise WrongUsage(reason=f"--memory {size(args.memory)}: a runner needs at least {size(LEAST_MEMORY)}.")
    if args.sort_budget is not None and args.memory is not None and args.sort_budget >= args.memory:
        raise WrongUsage(reason=f"--sort-budget {size(args.sort_budget)} is no part of --memory {size(args.memory)}: "
                         "the interpreter and the program need room as well.")
    if args.input_local is not None and args.input:
        raise WrongUsage(reason="--input and --input-local: a job reads either what is named here or what lies on "
                         "the nodes.")


def _priority(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,2}", text) or abs(int(text)) > MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    return int(text)


def _time(text: str) -> int:
    """Seconds of 90, 90s, 15m, 2h or 1d."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0
    if not 1 <= seconds <= MOST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of at least a second, such as 90s, 15m, 2h or 1d")
    return seconds


def _workers(home: Home, args: argparse.Namespace) -> int:
    """How many workers the job shall have. More than there are fit nodes now is no mistake, but worth a word."""
    found = call(home, "nodes").get("nodes")
    fit = sum(_is_fit(node, args) for node in found) if isinstance(found, list) else 0
    if args.workers is None:
        return max(1, min(MOST_UNASKED, fit))
    if args.workers > fit:
        can = "no node can" if not fit else f"only {counted(fit, 'node')} can"
        _tell(f"-k {args.workers}, but {can} take part now. The job goes on with these; others join when they can")
    return int(args.workers)


def _is_fit(node: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether a node could take the job, as far as its record tells."""
    if node.get("state") != "ready" or args.app not in node.get("capabilities", [args.app]):
        return False
    available = node.get("memory_available")
    return args.memory is None or not isinstance(available, int) or available >= args.memory


def _add_code(home: Home, paths: dict[str, str], submission: str) -> dict[str, object]:
    """The program's files as content of their own: copied, because people go on editing them."""
    code: dict[str, object] = {}
    for name, path in paths.items():
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
        entry: dict[str, object] = {"name": item.name, "cid": item.cid, "size": None}
        if item.path is not None:
            added = add_file(home, item.path, name=item.name, copy=item.spool is not None, submission=submission,
                             progress=show)
            entry["cid"], entry["size"] = added.cid, added.size
            done += added.size
            copied += added.size if added.stored == "copy" and item.spool is None else 0
        if item.compression:
            entry["compression"] = item.compression
        found.append(entry)
    progress.end()
    if copied:
        _tell(f"{size(copied)} of input were copied, because the daemon may not read them itself")
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


def _tell(text: str) -> None:
    print(f"ipdc-edge: {plain(text)}", file=sys.stderr)
