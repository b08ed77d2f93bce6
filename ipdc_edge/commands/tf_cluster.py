"""What the commands for clusters share: finding one, handing a job of it in, and seeing which of its roles are up.

Owns how a cluster looks from the command line. A cluster is a job of the architecture `tensorflow`; what is told here
of its roles stands in that job's view.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ipdc_edge.apps.tensorflow.cluster import Cluster, Place, read
from ipdc_edge.apps.tensorflow.plan import arguments_of
from ipdc_edge.commands.choose import job_id
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import FINAL, seconds
from ipdc_edge.commands.job_options import Job
from ipdc_edge.commands.program import Files
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.submit import hand_in
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

APP = "tensorflow"
LOGS_WITHIN = 2.0  # seconds
UP = ("up", "runs")  # begin the status of a role that can be spoken with, and of a program that is none


class NoCluster(IpdcError):
    """No cluster of this node is up{more}. `ipdc-edge tf plan` and `ipdc-edge tf up` make one"""


class WhichCluster(IpdcError):
    """There are {count} clusters: {known}. Say which: {option} ID"""

    exit_code = 2


class Seen(NamedTuple):
    """What is known of a role now: its place, what it does (up, starts, waits, or a reason), memory, since when."""

    place: Place
    does: str
    memory: str
    since: float


def submit(home: Home, cluster: Cluster, files: Files, program: str, words: Sequence[str], nodes: Sequence[str],
           **more: object) -> str:
    """Hands a job of a cluster in; its id. nodes: those that it is offered to."""
    job = Job(files.paths, {}, arguments_of(cluster, program, list(words), **more))
    spec: dict[str, Any] = {"app": APP, "workers": len(nodes), "memory": cluster.memory, "nodes": list(nodes)}
    return hand_in(home, job, [], spec, Progress(True))


def clusters(home: Home) -> list[dict[str, Any]]:
    """The views of clusters that are not over, the newest last."""
    found = call(home, "jobs").get("jobs")
    return [job for job in found if isinstance(job, dict) and job.get("app") == APP and not job.get("of")
            and job.get("state") not in FINAL] if isinstance(found, list) else []


def chosen(home: Home, wanted: str, option: str = "--cluster") -> dict[str, Any]:
    """The cluster that is meant: by its id, or the only one. NoCluster, WhichCluster."""
    if wanted:
        view = call(home, "status", id=job_id(home, wanted))
        if view.get("app") != APP or view.get("state") in FINAL:
            raise NoCluster(more=f": {view.get('id')} is {view.get('state')}")
        return view
    found = clusters(home)
    if not found:
        raise NoCluster(more="")
    if len(found) > 1:
        raise WhichCluster(count=len(found), known=", ".join(str(job["id"]) for job in found), option=option)
    return found[0]


def cluster_of(view: Mapping[str, Any]) -> Cluster:
    """The cluster of a job's view."""
    import json

    return read(json.dumps(view.get("cluster")), "the job's cluster")


def seen(view: Mapping[str, Any], roles: Sequence[str] | None = None) -> list[Seen]:
    """Each role that a job has started, and what is known of it."""
    running = {str(task.get("task")): task for task in view.get("running") or () if isinstance(task, Mapping)}
    nodes = {str(node.get("id")): node for node in view.get("nodes") or () if isinstance(node, Mapping)}
    found = []
    for place in cluster_of(view).places:
        if roles is not None and str(place.role) not in roles:
            continue
        task = running.get(place.role.task)
        if task is None:
            node = nodes.get(place.node)
            why = f"its node is {node.get('state')}" if node else "its node was not asked yet"
            if node and node.get("reason"):
                why += f" ({node['reason']})"
            found.append(Seen(place, why, "", 0.0))
            continue
        does, _, memory = str(task.get("status") or "is ordered").partition(", ")
        found.append(Seen(place, does, memory, float(task.get("since") or 0.0)))
    return found


def row(role: Seen, now: float) -> tuple[object, ...]:
    """A role as a line of a table: role, node, what it does, memory, for how long."""
    return (str(role.place.role), role.place.name, role.does, role.memory or "-",
            seconds(max(0.0, now - role.since)) if role.since else "-")


def printed(home: Home, job: str) -> str:
    """What the programs of a job that has ended printed; its files may come a moment after its end."""
    until = time.monotonic() + LOGS_WITHIN
    while True:
        tasks = call(home, "logs", id=job).get("tasks")
        found = [task for task in tasks if isinstance(task, Mapping)] if isinstance(tasks, list) else []
        if found or time.monotonic() > until:
            return "".join(str(task.get("log") or "") for task in found)
        time.sleep(0.1)


def follow(home: Home, job: str, until: float) -> dict[str, Any]:
    """Waits for a job's end, or until then; its view."""
    while True:
        view = call(home, "status", id=job)
        if view.get("state") in FINAL or time.monotonic() > until:
            return view
        time.sleep(0.2)


def own_node(home: Home) -> str:
    """The id of the node that is asked."""
    found = call(home, "nodes").get("nodes")
    nodes = [node for node in found if isinstance(node, dict)] if isinstance(found, list) else []
    return next((str(node.get("id")) for node in nodes if node.get("self")), "")


def home_now() -> Home:
    """The node that is spoken to."""
    return Home(os.environ)
