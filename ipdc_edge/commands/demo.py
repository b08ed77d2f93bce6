"""`ipdc-edge demo`: three nodes on this machine count the words of a real text.

Owns the story that a newcomer sees. Everything in it is what a user does: `lab up`, `submit`, `result`,
`lab down`.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import os
import shlex
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator

from ipdc_edge.commands import display
from ipdc_edge.commands.display import seconds, size
from ipdc_edge.commands.inputs import find_inputs
from ipdc_edge.commands.job_options import Job
from ipdc_edge.commands.laboratory import Lab
from ipdc_edge.commands.program import Files, FileUnreadable
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.result import find_parts
from ipdc_edge.commands.steps import python_steps
from ipdc_edge.commands.submit import MAPREDUCE, hand_in
from ipdc_edge.commands.watch import follow, outcome
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

TEXT = "/usr/share/dictd/gcide.dict.dz"  # dictzip is gzip with an index in its header; gzip reads it
NODES = 3
PIECE = 1 << 20

EXAMPLES = """\
examples:
  ipdc-edge demo
  ipdc-edge demo --dir ~/demo
  ipdc-edge demo --text book.txt
"""


class TextMissing(IpdcError):
    """The demo's text {path} is not there. Install it: `sudo apt install dict-gcide`; or name another: --text FILE"""


class TextBroken(IpdcError):
    """{path} is not a whole gzip file: {reason}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = (
        "Start three nodes on this machine, count the words of the dictionary in package dict-gcide,\n"
        "print the ten most frequent ones, and end the nodes. The results stay.")
    parser.epilog = EXAMPLES
    parser.add_argument("--dir", help="where everything is put (default: a new directory in /tmp)")
    parser.add_argument("--text", metavar="FILE", default=TEXT, help="a text, or one packed by gzip")
    parser.add_argument("--keep-running", action="store_true", help="do not end the nodes")


def run(args: argparse.Namespace) -> int:
    """0 when the words are counted."""
    if not os.path.exists(args.text):
        if args.text == TEXT:
            raise TextMissing(path=args.text)
        raise FileUnreadable(path=args.text, reason="No such file or directory", hint="")
    directory = os.path.abspath(args.dir) if args.dir else tempfile.mkdtemp(prefix="ipdc-demo-")
    os.makedirs(directory, exist_ok=True)
    lab = Lab(directory)
    try:
        lab.make(NODES)
        print(f"Three nodes on this machine, each with its own key and broker, make a closed domain in {directory}:",
              flush=True)
        lab.up(lambda text: print(f"  {text}", flush=True))
        home = lab.nodes[0].home
        job = _count_words(home, directory, args.text)
        _tell(home, job)
    finally:
        if lab.nodes and not args.keep_running:
            lab.down()
    _farewell(lab, args.keep_running)
    return 0


def _count_words(home: Home, directory: str, source: str) -> str:
    """Unpacks the text, submits the job on node 1 and waits; the job's id."""
    text = unpack(source, directory)
    print(f"\nThe text: {text}, {size(os.path.getsize(text))}", flush=True)
    code = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wordcount")
    paths = [shutil.copy(os.path.join(code, name), directory) for name in ("Map.py", "Reduce.py")]
    words = ["ipdc-edge", "submit", *paths, "--input", text, "-k", str(NODES)]
    print(f"The job:  {shlex.join(words)}", flush=True)
    begun = time.monotonic()
    progress = Progress()
    files = Files()
    program = Job(files.paths, {"steps": python_steps(paths, (), files)}, {})
    job = hand_in(home, program, find_inputs([text]), {"app": MAPREDUCE, "workers": NODES}, progress)
    final = follow(home, job, progress)
    error = outcome(final)
    if error is not None:
        raise error
    workers = ", ".join(f"{node.get('name')} {node.get('tasks_done')}" for node in final.get("nodes") or ())
    print(f"Done in {seconds(time.monotonic() - begun)}. Tasks by node: {workers or '-'}")
    return job


def _tell(home: Home, job: str) -> None:
    """The ten most frequent words, and where all of them are."""
    parts = find_parts(home, job)
    print("\nThe ten most frequent words:")
    for word, count in most_frequent(parts, 10):
        print(f"  {count:>9}  {word}")
    print(f"\nThe results stay: {len(parts)} parts, each sorted by word, in\n  {home.job(job)}\n"
          f"Read them all, also without a daemon:\n"
          f"  cat {shlex.quote(home.job(job))}/part-*\n"
          f"  IPDC_HOME={shlex.quote(home.state)} {display.program()} result {job}")


def _farewell(lab: Lab, keep_running: bool) -> None:
    directory = shlex.quote(lab.directory)
    if keep_running:
        print(f"The nodes go on. End them:\n  {display.program()} lab down --dir {directory}")
    else:
        print(f"The nodes are ended. Start them again:\n"
              f"  {display.program()} lab up --nodes {NODES} --dir {directory}\n"
              f"Remove it all:\n  rm -r {directory}")


def unpack(source: str, directory: str) -> str:
    """The path of the text as a plain file: `source` itself, or what it unpacks to in `directory`. Raises
    TextBroken."""
    with open(source, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return source
    name = os.path.basename(source).removesuffix(".dz").removesuffix(".gz").removesuffix(".dict")
    path = os.path.join(directory, f"{name}.txt")
    try:
        with gzip.open(source) as packed, open(path, "wb") as plain:
            shutil.copyfileobj(packed, plain, PIECE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TextBroken(path=source, reason=error) from error
    return path


def most_frequent(parts: list[str], count: int) -> list[tuple[str, int]]:
    """The words with the highest counts over all parts, most frequent first, equal ones by the alphabet."""
    return [(word, -negative) for negative, word in heapq.nsmallest(count, _counts(parts))]


def _counts(parts: list[str]) -> Iterator[tuple[int, str]]:
    for path in parts:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as part:
            for line in part:
                word, _, number = line.rstrip("\n").rpartition("\t")
                yield -int(number), word
