"""`ipdc-edge tf plan`: from a virtual cluster and the nodes that are there to ClusterSpec.json and create_worker.py.

Owns the files that are written, and that nothing which its user edited is lost. The choice of nodes is planning.py's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.apps.tensorflow import cluster as clusters
from ipdc_edge.apps.tensorflow.cluster import MEMORY, Cluster
from ipdc_edge.apps.tensorflow.planning import Planned, plan
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import plain, print_json, size, table
from ipdc_edge.commands.job_options import memory
from ipdc_edge.commands.nodes import chosen
from ipdc_edge.commands.program import unreadable
from ipdc_edge.core.values import NodeRecord, Vitals
from ipdc_edge.errors import IpdcError, WrongUsage
from ipdc_edge.home import Home

HELP = "choose nodes for the roles of a TensorFlow cluster, and write the files that describe it"
SPEC, WORKER = "ClusterSpec.json", "create_worker.py"
EXAMPLES = """\
examples:
  echo '{"local": [0, 1]}' >ClusterSpec.conf
  ipdc-edge tf plan                                       reads ClusterSpec.conf
  ipdc-edge tf plan training.conf --memory 2G --nodes attic cellar
  ipdc-edge tf plan --json

ClusterSpec.conf has jobs and the numbers of their tasks, as {"local": [0, 1]}, or
{"chief": [0], "worker": [0, 1], "ps": [0]}. A node takes part when it has TensorFlow (`ipdc-edge tf install`), of the
same version as the others, memory for a role, and a sandbox with a network of its own. The fastest compute, the chief
is on this node if it can be. Exit code 4 where there are too few, with the reason of each node.

It writes ClusterSpec.json, which says where each role is, and create_worker.py, with which a role starts: change that
as you like, it is kept unless --force is given. Addresses are of the cluster's own network.
"""
PROGRAM = '''\
"""Starts one role of a TensorFlow cluster: create_worker.py JOB INDEX. ClusterSpec.json beside it says where all are.

Written by `ipdc-edge tf plan` for you to change; it is not written over without --force. TensorFlow listens on every
address and asks nobody who he is: run it only where nobody but the cluster can reach it.
"""

import json
import os
import sys

import tensorflow as tf

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "ClusterSpec.json"), encoding="utf-8") as file:
    cluster = tf.train.ClusterSpec(json.load(file)["ClusterSpec"])

server = tf.distribute.Server(cluster, job_name=sys.argv[1], task_index=int(sys.argv[2]))
print(f"{sys.argv[1]}:{sys.argv[2]} is up", flush=True)
server.join()
'''


class NotWritten(IpdcError):
    """Cannot write {path}: {reason}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("conf", metavar="FILE", nargs="?", default="ClusterSpec.conf",
                        help="the virtual cluster (default: ClusterSpec.conf)")
    parser.add_argument("--memory", metavar="SIZE", type=memory, default=MEMORY,
                        help=f"memory of one role, such as 2G (default: {MEMORY >> 20}M)")
    parser.add_argument("--share", action="store_true", help="let a node have several roles, as far as memory goes")
    parser.add_argument("--nodes", metavar="NODE", nargs="+", default=[], help="only these, by name or id")
    parser.add_argument("--tensorflow", metavar="VERSION", default="",
                        help="the version that is wanted (default: the one that most nodes have)")
    parser.add_argument("--output", metavar="DIR", default=".", help="where the files go (default: here)")
    parser.add_argument("--force", action="store_true", help=f"write {WORKER} anew, although it was changed")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when the files are written."""
    if args.memory < clusters.LEAST_MEMORY:
        raise WrongUsage(reason=f"--memory {size(args.memory)}: a role takes at least {size(clusters.LEAST_MEMORY)}.")
    wanted = clusters.roles(_read(args.conf), args.conf)
    found = [node for node in call(Home(os.environ), "nodes").get("nodes") or ()  # type: ignore[attr-defined]
             if isinstance(node, dict)]
    only = [str(node["id"]) for node in chosen(found, args.nodes)] if args.nodes else []
    own = next((str(node.get("id")) for node in found if node.get("self")), "")
    made = plan(wanted, map(record_of, found), own, args.memory, args.share, args.tensorflow, only)
    kept = write(made.cluster, args.output, args.force)
    if args.json:
        print_json({"cluster": _view(made.cluster), "nodes": [verdict_view(made, v) for v in made.verdicts],
                    "kept": [WORKER] if kept else []})
    else:
        print(text(made, args.output, kept))
    return 0


def write(cluster: Cluster, directory: str, force: bool) -> bool:
    """Writes both files; whether a create_worker.py that was changed was left as it is. NotWritten."""
    program, kept = os.path.join(directory, WORKER), False
    try:
        os.makedirs(directory, exist_ok=True)
        try:
            with open(program, encoding="utf-8") as file:
                kept = file.read(1 << 20) != PROGRAM and not force
        except FileNotFoundError:
            pass
        for path, content in ((os.path.join(directory, SPEC), clusters.planned(cluster)), (program, PROGRAM)):
            if path != program or not kept:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
    except (OSError, UnicodeDecodeError) as error:
        raise NotWritten(path=getattr(error, "filename", None) or program,
                         reason=getattr(error, "strerror", None) or str(error)) from error
    return kept


def text(made: Planned, directory: str, kept: bool) -> str:
    """The plan for people: a line a role, then the nodes that have none and why."""
    reasons = {verdict.node: ", ".join(verdict.reasons) for verdict in made.verdicts}
    rows = [("ROLE", "NODE", "ADDRESS", "WHY"), *(
        (str(place.role), place.name, place.address, reasons[place.node]) for place in made.cluster.places)]
    taken = {place.node for place in made.cluster.places}
    left = [verdict for verdict in made.verdicts if verdict.node not in taken]
    why = [f"{verdict.name}: {'not needed' if verdict.suitable else '; '.join(verdict.reasons)}" for verdict in left]
    lines = [table(rows), *([""] if left else []), *map(plain, why)]
    files = f"{os.path.join(directory, SPEC)} is written, and {os.path.join(directory, WORKER)} "
    lines += ["", files + ("left as you changed it (--force writes it anew)." if kept else "is.")]
    return "\n".join(lines)


def verdict_view(made: Planned, verdict: Any) -> dict[str, object]:
    """What was thought of a node, as JSON."""
    roles = [str(place.role) for place in made.cluster.places if place.node == verdict.node]
    return {"id": verdict.node, "name": verdict.name, "suitable": verdict.suitable, "score": verdict.score,
            "roles": roles, "reasons": list(verdict.reasons)}


def _view(cluster: Cluster) -> dict[str, object]:
    return {"tensorflow": cluster.tensorflow, "memory": cluster.memory, "roles": [
        {"job": place.role.job, "index": place.role.index, "node": place.node, "name": place.name,
         "address": place.address} for place in cluster.places]}


def record_of(node: Mapping[str, Any]) -> NodeRecord:
    """A node as the daemon tells of it, as the planning wants it; a newer daemon may tell more, an older one less."""
    vitals = Vitals(int(node.get("memory_total") or 0), int(node.get("memory_available") or 0),
                    int(node.get("cpu_count") or 1), float(node.get("cpu_idle") or 0.0), float(node.get("load") or 0.0),
                    float(node.get("speed") or 0.0), int(node.get("disk_free") or 0), node.get("temperature"),
                    bool(node.get("throttled")))
    return NodeRecord(
        str(node.get("id")), str(node.get("name")), str(node.get("state")), str(node.get("address")),
        str(node.get("gateway")), str(node.get("version")), tuple(map(str, node.get("capabilities") or ())),
        int(node.get("slots") or 0), str(node.get("sandbox") or ""), vitals, 0, str(node.get("architecture") or ""),
        tuple(map(str, node.get("unable") or ())))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(clusters.MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
