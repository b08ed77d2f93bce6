"""A job as others see it: what people are shown, and what the ledger keeps of a result.

Owns these forms and nothing else; pure functions of a master's state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .values import Failure, Result

if TYPE_CHECKING:
    from .master import Master

PUBLIC = {"collecting": "running", "publishing": "running"}  # what people are told of the job's state


def job_view(master: Master) -> dict[str, object]:
    """The job as `status --json` shows it; times are the node's seconds since the epoch, 0 for what has not
    come."""
    return {
        "id": master.job,
        "state": PUBLIC.get(master.state, master.state),
        "phase": master.state,
        "app": master.spec.app,
        "workers": master.spec.workers,
        **master.architecture.view(master.spec, master.tasks.progress()),
        "error": master.error,
        "failure": master.failure,
        "submitted": master.submitted,
        "started": master.started,
        "ended": master.ended,
        "bytes_done": master.tasks.bytes_done(),
        **master.participants.view(),
    }


def task_views(master: Master) -> list[dict[str, object]]:
    """Who did each task, and what came of it; for the record that lies beside the result."""
    return [
        {"task": ident, "node": result.node, "output": result.output, "size": result.size}
        for ident, result in sorted(master.tasks.results.items())
    ]


def failure_view(task: str, node: str, name: str, failure: Failure) -> tuple[dict[str, object], str]:
    """An attempt's failure as `status` shows it, and as text for the job's log with what the attempt printed.
    """
    details = dict(failure.details or {})
    output = str(details.pop("output", "") or "")
    told = {"task": task, "node": node, "name": name, "type": failure.kind, "message": failure.message}
    lines = (f"{task} on {name}: {failure.message}", details.get("traceback", ""))
    return {**told, **details}, "".join(f"{line}\n" for line in lines if line) + output


def saved_result(result: Result) -> dict[str, object]:
    """A result as the ledger keeps it."""
    return {"node": result.node, "output": result.output, "size": result.size, "details": dict(result.details)}
