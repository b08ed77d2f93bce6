"""`ipdc-edge logs`: what a job's tasks printed, and why attempts failed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.choose import job_id
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import LAST_FAILURE, counted, failure_text, plain, print_json
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge logs abcd
  ipdc-edge logs abcd --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "What the program printed, task by task, and the tracebacks of failed attempts."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="a job's id, or its beginning or end")
    parser.add_argument("--json", action="store_true", help="print the logs as JSON")


def run(args: argparse.Namespace) -> int:
    """0."""
    home = Home(os.environ)
    logs: dict[str, Any] = call(home, "logs", id=job_id(home, args.id))
    if args.json:
        print_json(logs)
    else:
        print(plain(text(logs)))
    return 0


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
