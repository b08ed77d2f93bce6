"""Follows a job to its end, and says how it ended.

Owns what a final state means for the person who waits: words, and the error with its exit code. Never
submits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.client import Conversation
from ipdc_edge.commands.display import (
    FINAL,
    bad_records_text,
    count_of,
    counted,
    counter_lines,
    elapsed,
    error_text,
    failure_text,
    plain,
    seconds,
    size,
)
from ipdc_edge.commands.progress import Progress
from ipdc_edge.errors import DaemonLost, IpdcError, JobCancelled, JobFailed, NotPlaced
from ipdc_edge.home import Home


def follow(home: Home, job: str, progress: Progress) -> dict[str, Any]:
    """Shows a job until it is final; its last dictionary. Raises DaemonLost where the daemon goes first."""
    advice = f"`ipdc-edge status {job}`; the job itself goes on"
    state: dict[str, Any] = {}
    with Conversation(home, advice) as conversation:
        conversation.idle = progress.tick
        conversation.request("watch", {"id": job})
        for state in conversation.objects():
            if state:
                progress.update(state)
            if state.get("state") in FINAL:
                break
    progress.end()
    if state.get("state") not in FINAL:
        raise DaemonLost(socket=home.control_socket, advice=advice)
    return state


def outcome(job: Mapping[str, Any]) -> IpdcError | None:
    """The error that a final job means; None for success. A failure of the user's code comes with its traceback."""
    state = job.get("state")
    if state == "succeeded":
        return None
    if state == "cancelled":
        return JobCancelled(id=job.get("id"))
    error = job.get("error")
    if isinstance(error, Mapping):
        known = IpdcError.from_dict(dict(error))
        if known.exit_code != 1:
            return known
    if never_placed(job):
        return NotPlaced(reason=f"{error_text(job).removeprefix('not placed: ')}{placement_text(job)}")
    details = failure_text(job)
    reason = error_text(job)
    if details:
        reason += f"\n\n{details}\n\nEverything that its tasks printed: ipdc-edge logs {job.get('id')}"
    return JobFailed(id=job.get("id"), reason=reason)


def never_placed(job: Mapping[str, Any]) -> bool:
    """Whether a job ended without any node having been fit for it."""
    placement = job.get("placement") or ()
    return not job.get("started") and not job.get("failure") and not any(
        verdict.get("suitable", True) for verdict in placement)


def placement_text(job: Mapping[str, Any]) -> str:
    """Why each node was not fit, a line each."""
    lines = []
    for verdict in job.get("placement") or ():
        if not verdict.get("suitable", True):
            reasons = ", ".join(map(str, verdict.get("reasons") or ["no reason given"]))
            lines.append(f"\n  {verdict.get('name')}: {reasons}")
    return "".join(lines)


def success_text(job: Mapping[str, Any], directory: str) -> str:
    """The closing block: how long it took, what it read, made and counted, where the result is, and what to type."""
    ident, took = job.get("id"), elapsed(job)
    first = f"job {ident} succeeded in {seconds(took)}"
    read, directory = count_of(job, "input_bytes"), str(job.get("directory") or directory)
    if read:
        first += f": {size(read)} read"
        first += f", {size(read / took)}/s" if took >= 1 else ""
    elif job.get("local"):
        took_part = sum(bool(node.get("tasks_done")) for node in job.get("nodes") or ())
        first += f": {job['local']} on {counted(took_part, 'node')}"
    lines = [first]
    if job.get("local") and not count_of(job, "output_bytes"):
        lines.append(f"{'empty':10} nothing came of it: do nodes have files that {job['local']} means? It means files, "
                     "not directories")
    elif read and "output_bytes" in job and not count_of(job, "output_bytes"):
        lines.append(f"{'empty':10} nothing came of it: functions yield pairs, programs print lines. What functions "
                     f"printed: ipdc-edge logs {ident}")
    if shuffled := count_of(job, "shuffle_bytes"):
        lines.append(f"{'shuffled':10} {size(shuffled)}")
    if "output_bytes" in job:
        lines.append(f"{'written':10} {size(count_of(job, 'output_bytes'))}")
    lines += [f"{'counters' if number == 0 else '':10} {line}" for number, line in enumerate(counter_lines(job))]
    if bad := bad_records_text({**job, "directory": directory}):
        lines.append(f"{'bad':10} {bad}")
    lines += [f"{'results':10} {directory}",
              f"{'read them':10} ipdc-edge result {ident} | head",
              f"{'look back':10} ipdc-edge status {ident}"]
    return plain("\n".join(lines))
