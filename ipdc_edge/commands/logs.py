"""`ipdc-edge logs`: what a job's tasks printed or print now, and why attempts failed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.choose import job_id
from ipdc_edge.commands.client import call, events
from ipdc_edge.commands.display import LAST_FAILURE, counted, error_text, failure_text, plain, print_json, size
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge logs abcd
  ipdc-edge logs abcd --json
  ipdc-edge logs -f abcd                       as it is printed, on all nodes, until the job ends
  ipdc-edge logs -f abcd | grep loss

With -f each line begins with its task (or role) and node. Ctrl-C ends only the command: the job goes on. A line that is
not ended yet comes after a few seconds. Of what comes faster than it is read, only the newest is shown, and how much is
missing. However the job ends, the exit code is 0; `ipdc-edge status` tells how it did.

What a model's programs print is not shown while it is served (`ipdc-edge serve`): what they raise, who asked is told.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "What the program printed, task by task, and the tracebacks of failed attempts."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="a job's id, or its beginning or end")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is printed, until the job ends")
    parser.add_argument("--json", action="store_true",
                        help="print the logs as JSON; with -f an object on each line, last the job as `status` has it")


def run(args: argparse.Namespace) -> int:
    """0."""
    home = Home(os.environ)
    job = job_id(home, args.id)
    if args.follow:
        return _follow(home, job, args.json)
    logs: dict[str, Any] = call(home, "logs", id=job)
    if args.json:
        print_json(logs)
    else:
        print(plain(text(logs)))
    return 0


def _follow(home: Home, job: str, as_json: bool) -> int:
    roles = call(home, "status", id=job).get("app") == "tensorflow"
    told: dict[str, Any] = {}
    for told in events(home, "follow", f"`ipdc-edge logs -f {job}`; the job itself goes on", id=job):
        if as_json:
            print_json(told, line=True)
        elif "text" in told:
            print(plain(lines(told, roles)), flush=True)
        elif "lost" in told:
            print(f"ipdc-edge: {size(told['lost'])} came faster than they were read, and are left out", file=sys.stderr)
        elif "refused" in told:
            print(plain(f"ipdc-edge: {told['node']} does not let this be followed at present ({told['refused']}): what "
                        "its tasks print comes when it does, or when they have ended"), file=sys.stderr)
    if not as_json:
        ended = f"the job {told.get('state')}" if told.get("state") != "cancelled" else "the job was cancelled"
        print(plain(f"ipdc-edge: {ended}{f': {error_text(told)}' if told.get('error') else ''}"), file=sys.stderr)
    return 0


def lines(told: Mapping[str, Any], roles: bool) -> str:
    """Some lines of a task's prints, each with where it comes from: map-3@node2, and of a cluster worker:0@node2."""
    task, node = str(told.get("task")), told.get("node")
    if roles and "-" in task:
        task = ":".join(task.rsplit("-", 1))
    place = f"{task}@{node}" if node else task
    return "\n".join(f"{place} | {line}" for line in str(told.get("text")).removesuffix("\n").split("\n"))


def text(logs: Mapping[str, Any]) -> str:
    """The logs as people read them: silent tasks that did well are only counted."""
    parts, silent = [], 0
    for task in logs.get("tasks") or ():
        said = str(task.get("log") or "").rstrip("\n")
        error = _error(task.get("error"))
        if not said and not error:
            silent += 1
            continue
        place = f" on {task['node']}" if task.get("node") else ""
        heading = f"== {task.get('task')}{place}, attempt {_attempt(task.get('attempt'))}"
        parts.append("\n".join(line for line in (heading, said, error) if line))
    if silent:
        parts.append(f"{counted(silent, 'task')} printed nothing.")
    if logs.get("failure"):
        ended = logs.get("state") in (None, "failed")
        parts.append(f"== {'the job failed' if ended else LAST_FAILURE}\n{failure_text(logs)}")
    if logs.get("directory"):
        parts.append(f"As files: {logs['directory']}")
    return "\n\n".join(parts) if parts else "The tasks have printed nothing."


def _attempt(attempt: object) -> str:
    return "-".join(map(str, attempt)) if isinstance(attempt, list) else str(attempt)


def _error(error: object) -> str:
    if isinstance(error, Mapping):
        return failure_text({"failure": error})
    return f"failed: {error}" if error else ""
