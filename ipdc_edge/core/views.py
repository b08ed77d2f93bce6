"""What others see of a job: people, the ledger, the record that lies beside a result. Pure forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .architecture import Architecture
from .leases import Leases
from .life import Life
from .participant import Participants
from .tasks import BEHIND_OTHERS, Tasks
from .values import Failure, JobSpec, Result

PUBLIC = {"collecting": "running", "publishing": "running"}  # what people are told of the state
MOST_RUNNING = 20  # attempts that a view shows
MOST_WAITING = 10  # reasons, likewise


def failure_view(task: str, node: str, name: str, failure: Failure) -> tuple[dict[str, object], str]:
    """An attempt's failure as `status` shows it, and as text for the job's log with what the attempt printed."""
    details = dict(failure.details or {})
    output = str(details.pop("output", "") or "")
    told = {"task": task, "node": node, "name": name, "type": failure.kind, "message": failure.message}
    lines = (f"{task} on {name}: {failure.message}", details.get("traceback", ""))
    return {**details, **told}, "".join(f"{line}\n" for line in lines if line) + output


def job_view(
    life: Life, spec: JobSpec, architecture: Architecture, tasks: Tasks, leases: Leases, participants: Participants
) -> dict[str, object]:
    """A job as `status --json` shows it; times are the node's seconds since the epoch, 0 for what has not come."""
    return {
        "id": life.job,
        "state": PUBLIC.get(life.state, life.state),
        "phase": life.state,
        "app": spec.app,
        "workers": spec.workers,
        "priority": spec.priority,
        "timeout": spec.timeout,
        **architecture.view(spec, tasks.progress()),
        "error": life.error,
        "failure": life.failure,
        "submitted": life.submitted,
        "started": life.started,
        "ended": life.ended,
        "bytes_done": tasks.bytes_done(),
        "stages": stage_views(tasks, lambda stage: architecture.stage_name(spec, stage)),
        "waiting": waiting_view(life.state, tasks, leases, participants),
        "running": running_view(tasks, participants),
        **tasks.counters.view(),
        "shuffle_done": tasks.shuffle_done(),
        **participants.view(),
    }


def task_views(results: Mapping[str, Result]) -> list[dict[str, object]]:
    """Who did each task, and what came of it; for the record that lies beside the result."""
    return [
        {"task": ident, "node": result.node, "output": result.output, "size": result.size,
         "outputs": result.details.get("outputs")}
        for ident, result in sorted(results.items())
    ]


def stage_views(tasks: Tasks, name: Callable[[int], str]) -> list[dict[str, object]]:
    """Each stage with its tasks, when its first was leased and when its last was committed (0: not yet)."""
    return [
        {"name": name(stage), "total": total, "done": done, "began": tasks.times[stage][0],
         "ended": tasks.times[stage][1]}
        for stage, (total, done) in tasks.progress().items()
    ]


def running_view(tasks: Tasks, participants: Participants) -> list[dict[str, object]]:
    """What is leased to whom, since when and how far, in the order of leasing."""
    leased = [
        (lease.since, {"task": ident, "node": participants.by_node[lease.node].name, "since": lease.since,
                       "bytes_done": lease.bytes_done, "status": lease.status})
        for ident, task in tasks.states.items() for lease in task.leases.values() if lease.began != BEHIND_OTHERS
    ]
    return [view for _, view in sorted(leased, key=lambda pair: pair[0])[:MOST_RUNNING]]


def waiting_view(state: str, tasks: Tasks, leases: Leases, participants: Participants) -> list[str]:
    """Why anything of a job waits, a line each."""
    if state == "queued":
        offered = sum(participant.state == "offered" for participant in participants)
        if offered:
            return [f"the job was offered to {offered} {_plural(offered, 'node')}, and none has answered yet"]
        return ["no node is fit for the job yet" if participants.verdicts else "the nodes of the domain are asked for"]
    if state != "running":
        return ["results are on their way here"] if state == "collecting" else []
    reasons: dict[str, int] = {}
    for task in tasks.ready():
        node = leases.place(task)
        if holder := leases.holder(task):
            why = f"for {participants.name(holder)}, which holds the input"
            reasons[why] = reasons.get(why, 0) + 1
            continue
        if not node:
            why = "for a worker that has not failed, or less often" if task.failed_on else "for a worker with room"
            reasons[why] = reasons.get(why, 0) + 1
            continue
        known = participants.get(node)
        why = f"for {known.name}, which has to do {'it' if not known.held else 'others before'}" if known else ""
        if known is None or known.state != "working":
            why = f"for node {known.name if known else node}, which is {known.state if known else 'not here'}"
        reasons[why] = reasons.get(why, 0) + 1
    for task in tasks.states.values():
        for lease in task.leases.values():
            if lease.began == BEHIND_OTHERS:
                why = f"at {participants.by_node[lease.node].name}, which does other tasks before"
                reasons[why] = reasons.get(why, 0) + 1
    lines = [f"{n} {_plural(n, 'task')} {'wait' if n > 1 else 'waits'} {why}" for why, n in reasons.items()]
    if not any(participant.state == "working" for participant in participants):
        lines.insert(0, "no node works on the job at present")
    return lines[:MOST_WAITING]


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
