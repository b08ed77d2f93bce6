"""An architecture of the tests' own, with all that Map-Reduce does not use: an early end, tasks that one node must
do, and tasks that go beside others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core.architecture import Architecture, spec_of
from ipdc_edge.core.values import JobSpec, Json, Result, Task


def ident(name: str) -> str:
    """The node id that a name stands for."""
    return node_id(hashlib.sha256(name.encode()).digest())


def hunt(workers: int, *tasks: str) -> JobSpec:
    """A job of tasks name:stage[:node that must do it[:task beside it[:single[:together]]]]."""
    body = {"version": 1, "app": "hunt", "workers": workers, "memory": 1 << 20, "tasks": list(tasks)}
    return spec_of(raw_cid(json.dumps(body).encode()), body)


class Hunt(Architecture):
    """Enough when one task has found something; hopeless when three have been bitten."""

    name, module = "hunt", "hunt"
    commands, reports = ("hunt",), ("prey",)

    def check(self, spec: JobSpec) -> None:
        """Whatever the tests say."""

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        tasks = []
        for index, text in enumerate(spec.body["tasks"]):
            name, stage, node, beside, single = (text.split(":") + ["", "", ""])[:5]
            there = ident(node) if node else ""
            tasks.append(Task(name, int(stage), "hunt", "prey", index, True, node=there, beside=beside,
                              single=single == "single"))
        return tuple(tasks)

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        return {"inputs": [], "outputs": {"kind": "files", "count": 1}}

    def enough(self, spec: JobSpec, results: Mapping[str, Result]) -> bool:
        counters = [result.details.get("counters") for result in results.values()]
        return any(isinstance(found, dict) and found.get("found") for found in counters)

    def brittle(self, spec: JobSpec, ended: int = 0) -> bool:
        """Tasks that are done together are there for no other attempt when they have ended."""
        return ended > 0 and any(text.endswith(":together") for text in spec.body["tasks"])

    def hopeless(self, spec: JobSpec, counters: Mapping[str, int]) -> str:
        return "three bites" if counters.get("bites", 0) > 2 else ""


ARCHITECTURES = {"mapreduce": MapReduce(), "hunt": Hunt()}
