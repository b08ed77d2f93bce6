"""Results and failures as others see them: people, the ledger, the record that lies beside a result. Pure
forms."""

from __future__ import annotations

from collections.abc import Mapping

from .values import Failure, Result


def failure_view(task: str, node: str, name: str, failure: Failure) -> tuple[dict[str, object], str]:
    """An attempt's failure as `status` shows it, and as text for the job's log with what the attempt printed."""
    details = dict(failure.details or {})
    output = str(details.pop("output", "") or "")
    told = {"task": task, "node": node, "name": name, "type": failure.kind, "message": failure.message}
    lines = (f"{task} on {name}: {failure.message}", details.get("traceback", ""))
    return {**told, **details}, "".join(f"{line}\n" for line in lines if line) + output


def saved_result(result: Result) -> dict[str, object]:
    """A result as the ledger keeps it."""
    return {"node": result.node, "output": result.output, "size": result.size, "details": dict(result.details)}


def task_views(results: Mapping[str, Result]) -> list[dict[str, object]]:
    """Who did each task, and what came of it; for the record that lies beside the result."""
    return [
        {"task": ident, "node": result.node, "output": result.output, "size": result.size,
         "outputs": result.details.get("outputs")}
        for ident, result in sorted(results.items())
    ]
