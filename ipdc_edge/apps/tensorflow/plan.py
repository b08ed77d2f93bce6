"""A cluster as a job: each role is a task that lasts until the cluster is closed, pinned to its node.

Owns what a description may say, and who may speak with whom. Pure; the core calls it. `run-cluster` orders a role, and
is answered by `cluster-ended` when its program has ended by itself; `cancel` closes the cluster.

A job's arguments: `cluster` is the object of ClusterSpec.json; `program` the name of a file among its code; `words`
what it is given; `roles` the roles that this job starts, all where it is left out; `client` whether the program runs
once more, on the one node of the job, as no role; `of` the job whose roles it speaks with, where they are not its own.
So `tf run` is a job beside that of `tf up`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...core.architecture import Architecture, BadSpec
from ...core.values import JobSpec, Json, Result, Task
from .cluster import BadPlan, Cluster, Place, planned, read

CLIENT = "client"  # the task that is no role
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.py")
JOB_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z]{4}")
MOST_WORDS, MOST_WORD = 100, 1000


class Roles(Architecture):
    """The architecture `tensorflow`."""

    name = "tensorflow"
    module = "ipdc_edge.apps.tensorflow.role"
    commands: tuple[str, ...] = ("run-cluster",)
    reports: tuple[str, ...] = ("cluster-ended",)
    cluster = True

    def check(self, spec: JobSpec) -> None:
        """BadSpec."""
        arguments = spec.body.get("arguments")
        if not isinstance(arguments, dict):
            raise BadSpec(reason="a cluster without arguments")
        unknown = set(arguments) - {"cluster", "program", "words", "roles", "client", "of", "restart"}
        if unknown:
            raise BadSpec(reason=f"unknown arguments of a cluster: {', '.join(sorted(map(str, unknown)))[:100]}")
        cluster = cluster_of(spec)
        program, words, code = arguments.get("program"), arguments.get("words", []), spec.body.get("code")
        if not isinstance(program, str) or not PROGRAM.fullmatch(program):
            raise BadSpec(reason=f"program {str(program)[:100]!r} is no name of a Python file")
        if not isinstance(code, dict) or program not in code:
            raise BadSpec(reason=f"the program {program} is not among the job's files")
        if not isinstance(words, list) or len(words) > MOST_WORDS or any(
                not isinstance(word, str) or len(word) > MOST_WORD or "\0" in word for word in words):
            raise BadSpec(reason=f"words is not a list of at most {MOST_WORDS} words")
        of = arguments.get("of", "")
        if not isinstance(of, str) or of and not JOB_ID.fullmatch(of):
            raise BadSpec(reason=f"of {str(of)[:40]!r} is no job's id")
        if any(type(arguments.get(name, False)) is not bool for name in ("client", "restart")):
            raise BadSpec(reason="client and restart are true or false")
        known = {str(place.role) for place in cluster.places}
        roles = arguments.get("roles", [])
        if not isinstance(roles, list) or len(roles) > len(known) or any(
                not isinstance(role, str) or role not in known for role in roles):
            raise BadSpec(reason=f"roles {str(roles)[:100]} are none of {', '.join(sorted(known))}")
        if arguments.get("client") and len(spec.nodes) != 1:
            raise BadSpec(reason="a program that is no role wants one node")
        if not self.plan(spec):
            raise BadSpec(reason="a cluster's job that starts nothing")

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """A task for each role that this job starts, at its node."""
        arguments = spec.body["arguments"]
        places = started(spec)
        tasks = [Task(place.role.task, 0, "run-cluster", "cluster-ended", number, True, 0,
                      {"role": str(place.role)}, node=place.node, single=True) for number, place in enumerate(places)]
        if arguments.get("client"):
            tasks.append(Task(CLIENT, 0, "run-cluster", "cluster-ended", len(tasks), True, 0, {"role": ""},
                              node=spec.nodes[0] if spec.nodes else "", single=True))
        return tuple(tasks)

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """Which role it is, and where the others are; what it writes comes back as one file."""
        nodes = [place.node for place in cluster_of(spec).places]
        return {"role": (task.data or {}).get("role", ""), "inputs": [], "outputs": {"kind": "files", "count": 1},
                "providers": sorted({*nodes, holder})}

    def brittle(self, spec: JobSpec, ended: int = 0) -> bool:
        """Without a role the others wait for ever; `restart` has it done again, unless it would wait itself."""
        return ended > 0 or not spec.body["arguments"].get("restart")

    def resumes(self, spec: JobSpec) -> bool:
        """With `restart` a role finds what its program had written; kept.py."""
        return not self.brittle(spec)

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """What `tf status` wants to know beside."""
        return {**super().view(spec, done), "cluster": spec.body["arguments"]["cluster"],
                "of": spec.body["arguments"].get("of", "")}

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """What people call it."""
        return "roles"


def cluster_of(spec: JobSpec) -> Cluster:
    """The cluster of a description. BadSpec."""
    value: Any = spec.body["arguments"].get("cluster")
    try:
        return read(json.dumps(value), "cluster")
    except (BadPlan, TypeError, ValueError, RecursionError) as error:
        raise BadSpec(reason=str(error)[:300]) from None


def started(spec: JobSpec) -> list[Place]:
    """The roles that a job starts."""
    arguments = spec.body["arguments"]
    places, roles = cluster_of(spec).places, arguments.get("roles")
    return [place for place in places if roles is None or str(place.role) in roles]


def arguments_of(cluster: Cluster, program: str, words: list[str], **more: object) -> dict[str, object]:
    """The arguments of a job."""
    return {"cluster": json.loads(planned(cluster)), "program": program, "words": words, **more}
