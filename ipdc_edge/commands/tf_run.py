"""`ipdc-edge tf run`: a program against a cluster that is up: as its chief where it has one, else beside it.

Owns the choice between the two, and what of the program's end people see.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from ipdc_edge.apps.tensorflow.cluster import CHIEF
from ipdc_edge.commands import tf_cluster as shared
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import FINAL, plain
from ipdc_edge.commands.program import Files
from ipdc_edge.errors import JobCancelled, JobFailed

BEGINS_WITHIN = 30.0  # seconds
HELP = "run a program against a cluster that is up"
EXAMPLES = """\
examples:
  ipdc-edge tf run train.py
  ipdc-edge tf run --cluster abcd train.py --epochs 3
  ipdc-edge tf run --restart train.py             begins again where its checkpoint is

The program runs in a sandbox, as the cluster's chief on the chief's node, or where the cluster has none on this node.
In its environment are TF_CONFIG, ipdc_cluster (the object for tf.train.ClusterSpec) and IPDC_OUTPUT, a directory: what
is written there comes back as the tar jobs/ID/part-00000, and with --restart the program finds it there when it begins
again, until it has failed four times; that its node was lost is no failure. Python files beside it that it imports
travel with it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("--cluster", metavar="ID", default="", help="which one, where there are several")
    parser.add_argument("--restart", action="store_true", help="start it again when it has failed or is lost")
    parser.add_argument("program", metavar="FILE", help="a Python file")
    parser.add_argument("words", metavar="WORD", nargs=argparse.REMAINDER, help="what it is given")


def run(args: argparse.Namespace) -> int:
    """0 when the program ended well."""
    home = shared.home_now()
    view = shared.chosen(home, args.cluster)
    cluster = shared.cluster_of(view)
    files = Files()
    files.python(args.program)
    chief = next((place for place in cluster.places if place.role.job == CHIEF), None)
    more: dict[str, object] = {"roles": ["chief:0"]} if chief else {"roles": [], "client": True}
    more["restart"] = args.restart
    node = chief.node if chief else shared.own_node(home)
    job = shared.submit(home, cluster, files, os.path.basename(args.program), args.words, [node], of=view["id"], **more)
    last: dict[str, Any] = {}
    begun, until = False, time.monotonic() + BEGINS_WITHIN
    try:
        while True:
            last = shared.follow(home, job, time.monotonic() + 1.0)
            if last.get("state") in FINAL:
                break
            begun = begun or bool(last.get("running"))
            if not begun and time.monotonic() > until:
                call(home, "cancel", id=job)
                waits = "; ".join(map(str, last.get("waiting") or ())) or "no node takes it"
                raise JobFailed(id=job, reason=f"it has not begun within {BEGINS_WITHIN:g} s: {waits}")
            if call(home, "status", id=view["id"]).get("state") in FINAL:  # the program would wait for ever
                call(home, "cancel", id=job)
                over = call(home, "status", id=view["id"])
                raise JobFailed(id=job, reason=f"its cluster has ended: {over.get('error')}")
    except KeyboardInterrupt:
        call(home, "cancel", id=job)
        raise
    sys.stdout.write(plain(shared.printed(home, job)))
    if last.get("state") == "cancelled":
        raise JobCancelled(id=job)
    if last.get("state") != "succeeded":
        raise JobFailed(id=job, reason=last.get("error"))
    part = os.path.join(home.job(job), "part-00000")
    try:
        if os.path.getsize(part):
            print(f"ipdc-edge: what it wrote: {part}", file=sys.stderr)
    except OSError:
        pass
    return 0
