"""`ipdc-edge tf up`: the roles of a planned cluster start; returns when all are up, or says which is not.

Owns the wait and its bound: TensorFlow itself waits for ever for a role that never comes.
"""

from __future__ import annotations

import argparse
import os
import time

from ipdc_edge.apps.tensorflow.cluster import CHIEF, STARTER, read
from ipdc_edge.commands import tf_cluster as shared
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import FINAL, print_json, table
from ipdc_edge.commands.program import Files
from ipdc_edge.commands.tf_plan import SPEC, _read
from ipdc_edge.errors import IpdcError, WrongUsage

HELP = "start the roles of a planned cluster, and return when all are up"
WITHIN = 30.0
EXAMPLES = """\
examples:
  ipdc-edge tf up                              as ClusterSpec.json and create_worker.py here say
  ipdc-edge tf up --program train.py           every role runs train.py, which reads TF_CONFIG
  ipdc-edge tf up --restart                    a role that is lost is started again

Each role runs in a sandbox with a network of its own, of which nothing is seen from outside. Roles reach each other
through tunnels between their nodes, with the domain's certificates; no other member, and no other job, gets in. The
chief is not started here: it is the program of `ipdc-edge tf run`, unless --program is given.
Without --restart the cluster ends as soon as a role does. With it a role that has failed or is lost is started again on
its node, until it has failed four times, unless another role has ended well: it would wait for that one. It finds in
the directory IPDC_OUTPUT what it had written there: a checkpoint. What is there when it ends well comes back as
jobs/ID/part-00000 and so on. Roles take no slots: other jobs go on beside them.
"""


class NotUp(IpdcError):
    """The cluster is not up after {seconds:g} s, and was closed again:{reasons}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.add_argument("plan", metavar="FILE", nargs="?", default=SPEC, help=f"the plan (default: {SPEC})")
    parser.add_argument("--program", metavar="FILE", default="",
                        help=f"what each role runs (default: {STARTER} beside the plan)")
    parser.add_argument("--args", metavar="WORD", nargs=argparse.REMAINDER, default=[],
                        help="what the program is given; last")
    parser.add_argument("--restart", action="store_true",
                        help="start a role again that has failed or is lost, unless another has ended well")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=WITHIN,
                        help="give up where a role is not up by then (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="print the cluster as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when all roles are up."""
    home = shared.home_now()
    cluster = read(_read(args.plan), args.plan)
    path = args.program or os.path.join(os.path.dirname(args.plan), STARTER)
    files = Files()
    files.python(path)
    program = os.path.basename(path)
    places = [place for place in cluster.places if args.program or place.role.job != CHIEF]
    if not places:
        raise WrongUsage(reason="this cluster has a chief only: `ipdc-edge tf run` starts it")
    roles = [str(place.role) for place in places]
    job = shared.submit(home, cluster, files, program, args.args, list(dict.fromkeys(place.node for place in places)),
                        roles=roles, restart=args.restart)
    _await(home, job, roles, args.timeout)
    if args.json:
        print_json({"id": job, "roles": roles})
    else:
        view = call(home, "status", id=job)
        print(table([("ROLE", "NODE", "STATE", "MEMORY", "FOR"),
                     *(shared.row(role, time.time()) for role in shared.seen(view, roles))], right=(3, 4)))
        print(f"\nThe cluster {job} is up. Run a program against it: ipdc-edge tf run FILE.py\n"
              f"Look at it: ipdc-edge tf status. Close it: ipdc-edge tf down")
    return 0


def _await(home, job: str, roles: list[str], patience: float) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + patience
    done = False
    try:
        while True:
            view = call(home, "status", id=job)
            state = view.get("state")
            if state in FINAL and state != "succeeded":
                raise NotUp(seconds=patience - max(0.0, until - time.monotonic()), reasons=f" {view.get('error')}\n"
                            + shared.printed(home, job)[-2000:])
            found = shared.seen(view, roles)
            if state == "succeeded" or all(role.does in shared.UP for role in found):
                done = True
                return
            if time.monotonic() > until:
                missing = [f"\n  {role.place.role} on {role.place.name}: {role.does}" for role in found
                           if role.does not in shared.UP]
                raise NotUp(seconds=patience, reasons="".join(missing))
            time.sleep(0.2)
    finally:
        if not done:
            call(home, "cancel", id=job)
