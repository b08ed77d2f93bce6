"""`ipdc-edge tf down`: a cluster ends, with every process of it, also those that do not want to."""

from __future__ import annotations

import argparse

from ipdc_edge.commands import tf_cluster as shared
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import FINAL, print_json

HELP = "close a cluster: every process of it is ended"
EXAMPLES = """\
examples:
  ipdc-edge tf down                  the only one
  ipdc-edge tf down 20261130-101500-abcd
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("id", metavar="ID", nargs="?", default="", help="which one, where there are several")
    parser.add_argument("--json", action="store_true", help="print what was closed as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when it is closed."""
    home = shared.home_now()
    cluster = str(shared.chosen(home, args.id, "").get("id"))
    found = call(home, "jobs").get("jobs")
    programs = [str(job["id"]) for job in found if isinstance(job, dict) and job.get("of") == cluster
                and job.get("state") not in FINAL] if isinstance(found, list) else []
    for job in (*programs, cluster):
        call(home, "cancel", id=job)
    if args.json:
        print_json({"closed": [*programs, cluster]})
    else:
        print(f"cluster {cluster} is closed")
    return 0
