"""`ipdc-edge status`: one job as it is now.

Owns the layout of that. The newest job is meant where no id is given.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.choose import choose, jobs
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import (
    clock,
    counted,
    elapsed,
    error_text,
    failure_text,
    print_json,
    seconds,
    size,
    tasks,
)
from ipdc_edge.home import Home

NO_JOB = "No job was submitted here yet. For a first one: ipdc-edge submit --help"

EXAMPLES = """\
examples:
  ipdc-edge status                 the newest job
  ipdc-edge status 20261123        a job whose id begins so, if it is the only one
  ipdc-edge status abcd            or ends so
  ipdc-edge status abcd --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "How far a job is, who works on it, where its result is, or why it failed."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", nargs="?", help="a job's id or its beginning (default: newest)")
    parser.add_argument("--json", action="store_true", help="print the job as JSON")


def run(args: argparse.Namespace) -> int:
    """0 whatever became of the job: asking has succeeded."""
    home = Home(os.environ)
    ids = [str(job.get("id")) for job in jobs(home)]
    if args.id is None and not ids:
        print("null" if args.json else NO_JOB)
        return 0
    job = call(home, "status", id=choose(args.id, ids) if args.id is not None else ids[-1])
    if args.json:
        print_json(job)
    else:
        print(text(job))
    return 0


def text(job: Mapping[str, Any]) -> str:
    """A job as people read it."""
    lines = [f"job        {job.get('id')}",
             f"state      {job.get('state')}, {seconds(elapsed(job))} since {clock(job.get('submitted'))}"]
    if job.get("ended"):
        lines.pop()
        lines.append(f"state      {job.get('state')} at {clock(job['ended'])} after {seconds(elapsed(job))}")
    for stage in ("maps", "reduces"):
        done, total = tasks(job, stage)
        if total:
            lines.append(f"{stage:10} {done} of {total} done")
    if job.get("input_bytes") is not None:
        lines.append(f"input      {size(job.get('bytes_done') or 0)} of {size(job['input_bytes'])} read")
    lines += _column("nodes", [_node(node) for node in job.get("nodes") or ()])
    lines += _column("placement", [_verdict(verdict) for verdict in job.get("placement") or ()])
    if job.get("state") == "succeeded" and job.get("directory"):
        lines += [f"results    {job['directory']}", f"           ipdc-edge result {job.get('id')}"]
    if job.get("state") == "failed":
        lines.append(f"error      {error_text(job)}")
    if failure := failure_text(job):
        lines += ["", failure]
    return "\n".join(lines)


def _column(title: str, entries: list[str]) -> list[str]:
    return [f"{title if number == 0 else '':10} {entry}" for number, entry in enumerate(entries)]


def _node(node: Mapping[str, Any]) -> str:
    done = int(node.get("tasks_done") or 0)
    reason = f" ({node['reason']})" if node.get("reason") else ""
    name = node.get("name") or node.get("id")
    return f"{name} {node.get('state')}{reason}, {counted(done, 'task')} done"


def _verdict(verdict: Mapping[str, Any]) -> str:
    score = verdict.get("score")
    shown = f"{score:.2f}" if isinstance(score, int | float) and verdict.get("suitable", True) else "not fit"
    reasons = ", ".join(map(str, verdict.get("reasons") or ()))
    return f"{verdict.get('name') or verdict.get('node')} {shown}" + (f": {reasons}" if reasons else "")
