"""`ipdc-edge tf status`: the roles of clusters, where they are, their memory, and for how long they run."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ipdc_edge.commands import tf_cluster as shared
from ipdc_edge.commands.display import plain, print_json, table

HELP = "the roles of clusters: where they are, whether they are up, their memory, since when"
EXAMPLES = """\
examples:
  ipdc-edge tf status
  ipdc-edge tf status --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("id", metavar="ID", nargs="?", default="", help="this one only")
    parser.add_argument("--json", action="store_true", help="print a JSON list of clusters")


def run(args: argparse.Namespace) -> int:
    """0; 1 where no cluster is up."""
    home = shared.home_now()
    views = [shared.chosen(home, args.id)] if args.id else shared.clusters(home)
    if args.json:
        print_json([_json(view) for view in views])
        return 0
    if not views:
        raise shared.NoCluster(more="")
    for number, view in enumerate(views):
        print(("\n" if number else "") + f"cluster {view['id']}, {view['state']}")
        print(table([("ROLE", "NODE", "STATE", "MEMORY", "FOR"),
                     *(shared.row(role, time.time()) for role in shared.seen(view))], right=(3, 4)))
        if lost := _lost(view):
            print(f"the last that was lost, and was started again: {plain(lost)}")
    return 0


def _lost(view: dict[str, Any]) -> str:
    """The last role whose end did not end the cluster, and why it ended; "" where there is none."""
    failure = view.get("failure")
    if not isinstance(failure, dict):
        return ""
    return f"{failure.get('task')} on {failure.get('name')}: {failure.get('message')}"


def _json(view: dict[str, Any]) -> dict[str, object]:
    return {"id": view["id"], "state": view["state"], "lost": _lost(view) or None, "roles": [
        {"role": str(role.place.role), "node": role.place.node, "name": role.place.name, "state": role.does,
         "memory": role.memory, "since": role.since} for role in shared.seen(view)]}
