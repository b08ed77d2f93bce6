"""What an architecture (`ipdc_edge.apps.*`, or a package of somebody else) gives the core: how a job becomes tasks,
and what each task is told.

Owns the interface and what it leaves open by default. An implementation is pure: the core calls it while it handles
an event. Channels are all that a new architecture has to define: the master orders a task on `Task.command`, the
worker answers on `Task.report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import BadSpec as BadSpec  # for architectures: they import it from here
from .bounds import MOST_PRIORITY, MOST_TIMEOUT
from .values import JobSpec, Json, NodeRecord, Result, Task

MOST_HOLDERS = 64  # nodes of which a description says how much of its input they hold


class Architecture:
    """One kind of job. One object serves all jobs of its kind, so it keeps nothing of any."""

    name: str  # as jobs and nodes' capabilities have it
    module: str  # the runner's side, dotted: it has load and make_task (runner/__main__.py says how they are called)
    commands: tuple[str, ...]  # the channels its masters speak on
    reports: tuple[str, ...]  # the channels its workers answer on
    decompresses = False  # whether its inputs' "compression" means something to it
    cluster = False  # whether its tasks last, take no slots, and speak with each other (daemon/tunnels.py)
    # Whether its tasks last until the job ends, take no slots, and have a node each, which gives its task back when it
    # drains
    lasts = False
    network = False  # whether its tasks need one: then only nodes offer it whose owner allows that
    memory = 0  # bytes that a runner of a job has at least where nobody says how many
    mapped = 0  # bytes that its libraries map and hardly use: of a runner's limits, not of the node's memory
    proven = False  # whether nodes find out whether they can do it: a job that none can do is refused then, not queued

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the description is valid and within bounds; costs little, whatever it says."""
        raise NotImplementedError

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """All tasks of a checked job, in the order in which they should be leased."""
        raise NotImplementedError

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """What the worker needs to know for `task`, JSON, once all earlier stages are in `results` (task id
        -> result).

        `providers` in it lists the ids of nodes whose content it names, `holder` (the master) among them
        where it is the input's; the core adds their gateways' addresses as `gateways`.
        """
        raise NotImplementedError

    def reads(self, task: Task) -> Sequence[tuple[int, int, int]]:
        """Which bytes of the job's inputs the task reads, each (number of the input, start, end); of a worker that
        holds most of them it is a good one to do it. Nothing where that is not known, or no matter."""
        return ()

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """Progress in the architecture's own words from {stage: (total, done)}, merged into a job's status."""
        total, finished = (sum(column) for column in zip(*done.values()))
        return {"maps": {"total": total, "done": finished}, "reduces": {"total": 0, "done": 0}}

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """What people call a stage."""
        return f"stage {stage}"

    def enough(self, spec: JobSpec, results: Mapping[str, Result]) -> bool:
        """Whether the job has what it wants although tasks are left: those are skipped then. Asked after every
        commit, so it costs little; it may not take back what it said."""
        return False

    def unfit(self, spec: JobSpec, record: NodeRecord) -> tuple[str, ...]:
        """Why a node that can do this kind of job cannot do this one, from its record; nothing where it can."""
        return ()

    def brittle(self, spec: JobSpec, ended: int = 0) -> bool:
        """Whether the job is over as soon as an attempt fails or is lost, because the others are of no use then, or
        because so many of them have ended well and are not there for another attempt."""
        return False

    def resumes(self, spec: JobSpec) -> bool:
        """Whether a task that is done again on the same node finds its spill files as it left them."""
        return False

    def hopeless(self, spec: JobSpec, counters: Mapping[str, int]) -> str:
        """Why the job cannot succeed any more, from what its committed tasks counted, summed; "" while it can."""
        return ""


def spec_of(cid: str, body: object) -> JobSpec:
    """Read what the core needs from a job's description; BadSpec names the field that is not as it must be."""
    if not isinstance(body, dict):
        raise BadSpec(reason="not a JSON object")
    if body.get("version") != 1:
        raise BadSpec(reason=f"version {body.get('version')!r}; this node reads version 1")
    app, workers, memory = body.get("app"), body.get("workers"), body.get("memory")
    if not isinstance(app, str):
        raise BadSpec(reason=f"app {app!r} is not a name")
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= 10_000:
        raise BadSpec(reason=f"workers {workers!r} is not a number from 1 to 10000")
    if not isinstance(memory, int) or isinstance(memory, bool) or not 1 <= memory <= 1 << 40:
        raise BadSpec(reason=f"memory {memory!r} is not a number of bytes")
    nodes, options = body.get("nodes", []), body.get("options")
    if not isinstance(nodes, list) or len(nodes) > 10_000 or not all(isinstance(node, str) for node in nodes):
        raise BadSpec(reason=f"nodes {str(nodes)[:100]} is not a list of ids")
    priority, timeout = body.get("priority", 0), body.get("timeout", 0)
    if type(priority) is not int or abs(priority) > MOST_PRIORITY:
        raise BadSpec(reason=f"priority {priority!r} is not a number from -{MOST_PRIORITY} to {MOST_PRIORITY}")
    if type(timeout) is not int or not 0 <= timeout <= MOST_TIMEOUT:
        raise BadSpec(reason=f"timeout {timeout!r} is not a number of seconds from 0 to {MOST_TIMEOUT}")
    held = body.get("held", {})
    if not isinstance(held, dict) or len(held) > MOST_HOLDERS or not all(
            type(share) is int and 0 <= share <= 100 for share in held.values()):
        raise BadSpec(reason=f"held {str(held)[:100]} is no percentage of nodes")
    grows = body.get("grows") is True and not nodes
    queue = not (isinstance(options, dict) and options.get("no_queue") is True)
    chosen = tuple(dict.fromkeys(nodes))
    return JobSpec(cid, app, workers, memory, body, chosen, queue, priority, timeout, grows, held)
