"""`ipdc-edge cancel`: ends a job before it is done."""

from __future__ import annotations

import argparse
import os

from ipdc_edge.commands.choose import job_id
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import FINAL, print_json
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge cancel abcd
"""


class AlreadyEnded(IpdcError):
    """Job {id} is {state} already; there is nothing to cancel."""


class TooLate(IpdcError):
    """Job {id} is as good as done: its result is being put in place. Look at it: ipdc-edge status {id}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "End a job: its tasks are stopped on every node, and no result is kept."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="a job's id, or its beginning or end")
    parser.add_argument("--json", action="store_true", help="print the job's id as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when the job is cancelled, 1 when it had ended before."""
    home = Home(os.environ)
    job = job_id(home, args.id)
    state = call(home, "status", id=job).get("state")
    if state in FINAL:
        raise AlreadyEnded(id=job, state=state)
    ended = call(home, "cancel", id=job).get("state")
    if ended != "cancelled":
        raise AlreadyEnded(id=job, state=ended) if ended in FINAL else TooLate(id=job)
    if args.json:
        print_json({"id": job})
    else:
        print(f"job {job} is cancelled")
    return 0
