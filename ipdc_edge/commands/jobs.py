"""`ipdc-edge jobs`: the jobs that were submitted on this node, oldest first."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ipdc_edge.commands.choose import jobs
from ipdc_edge.commands.display import clock, elapsed, print_json, seconds, size, table, tasks
from ipdc_edge.commands.status import NO_JOB
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge jobs
  ipdc-edge jobs --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "The jobs of which this node is the master, oldest first."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """0."""
    found: list[dict[str, Any]] = jobs(Home(os.environ))
    if args.json:
        print_json(found)
    elif not found:
        print(NO_JOB)
    else:
        rows: list[list[object]] = [["ID", "STATE", "MAPS", "REDUCES", "INPUT", "SUBMITTED", "TIME"]]
        for job in found:
            stages = ["{}/{}".format(*tasks(job, stage)) for stage in ("maps", "reduces")]
            read = "local" if job.get("local") else size(job.get("input_bytes"))
            rows.append([job.get("id"), job.get("state"), *stages, read,
                         clock(job.get("submitted")), seconds(elapsed(job))])
        print(table(rows, right=(2, 3, 4, 6)))
    return 0
