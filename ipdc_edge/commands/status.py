"""`ipdc-edge status`: one job as it is now.

Owns the layout of that. The newest job is meant where no id is given.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.choose import choose, jobs
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import (
    FINAL,
    LAST_FAILURE,
    bad_records_text,
    clock,
    column,
    count_of,
    counted,
    counter_lines,
    elapsed,
    error_text,
    failure_text,
    moment,
    plain,
    print_json,
    seconds,
    size,
    task_word,
    tasks,
)
from ipdc_edge.home import Home

NO_JOB = "No job was submitted here yet. For a first one: ipdc-edge submit --help"

EXAMPLES = """\
examples:
  ipdc-edge status                 the newest job
  ipdc-edge status 20261123        a job whose id begins so, if it is the only one
  ipdc-edge status abcd            or ends so
  ipdc-edge status abcd --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = ("How far a job is, where its time went, what it waits for, who works on it, where its\n"
                          "result is, or why it failed.")
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", nargs="?", help="a job's id, or its beginning or end (default: newest)")
    parser.add_argument("--json", action="store_true", help="print the job as JSON")


def run(args: argparse.Namespace) -> int:
    """0 whatever became of the job: asking has succeeded."""
    home = Home(os.environ)
    ids = [str(job.get("id")) for job in jobs(home)]
    if args.id is None and not ids:
        print("null" if args.json else NO_JOB)
        return 0
    job = call(home, "status", id=choose(args.id, ids) if args.id is not None else ids[-1])
    if args.json:
        print_json(job)
    else:
        print(plain(text(job)))
    return 0


def text(job: Mapping[str, Any], now: float | None = None) -> str:
    """A job as people read it."""
    lines = [f"job        {job.get('id')}", *column("state", [_state(job, now)])]
    if job.get("priority"):
        lines.append(f"priority   {job['priority']}")
    if limit := count_of(job, "timeout"):
        left = "" if job.get("ended") else f", {seconds(max(0.0, limit - elapsed(job, now)))} left"
        lines.append(f"timeout    {seconds(limit)} after its submission{left}")
    for stage in ("maps", "reduces"):
        done, total = tasks(job, stage)
        if total:
            lines.append(f"{task_word(job, stage):10} {done} of {total} done")
    if job.get("local"):
        lines.append(f"{'input':10} {job['local']} on each node")
    elif job.get("input_bytes") is not None:
        lines.append(f"{'input':10} {size(job.get('bytes_done') or 0)} of {size(job['input_bytes'])} read")
    if fetched := count_of(job, "fetched_bytes"):
        lines.append(f"{'':10} {size(fetched)} of it came from other nodes")
    if shuffled := count_of(job, "shuffle_bytes"):
        lines.append(f"{'shuffle':10} {size(count_of(job, 'shuffle_done'))} of {size(shuffled)} fetched")
    if written := count_of(job, "output_bytes"):
        lines.append(f"{'output':10} {size(written)} written")
    lines += column("flash", _flash(job))
    lines += column("time", _times(job, now))
    if job.get("state") not in FINAL:
        lines += column("waits", [str(reason) for reason in job.get("waiting") or ()])
        lines += column("running", [_task(task) for task in job.get("running") or ()])
    lines += [f"{'counters' if number == 0 else '':10} {line}" for number, line in enumerate(counter_lines(job))]
    if bad := bad_records_text(job):
        lines += column("bad", [bad])
    lines += column("nodes", [_node(node, job.get("state") in FINAL) for node in job.get("nodes") or ()])
    lines += column("placement", [_verdict(verdict) for verdict in job.get("placement") or ()])
    if job.get("state") == "succeeded" and job.get("directory"):
        lines += [f"results    {job['directory']}", f"           ipdc-edge result {job.get('id')}"]
    if job.get("state") == "failed":
        lines.append(f"error      {error_text(job)}")
    failure = failure_text(job)
    if failure and job.get("state") != "succeeded":
        lines += ["", failure] if job.get("state") == "failed" else ["", LAST_FAILURE, failure]
    return "\n".join(lines)


def _flash(job: Mapping[str, Any]) -> list[str]:
    """What the job wrote to disks, as far as this node counted it, and as far as workers told it."""
    lines = []
    if job.get("written_bytes") is not None:
        lines.append(f"{size(job['written_bytes'])} written and {counted(count_of(job, 'fsyncs'), 'fsync')} for it on "
                     "this node")
    if told := count_of(job, "stored_bytes") + count_of(job, "spilled_bytes"):
        lines.append(f"{size(told)} written by its tasks on all nodes, {size(count_of(job, 'spilled_bytes'))} of it "
                     "spilled")
    return lines


def _state(job: Mapping[str, Any], now: float | None) -> str:
    if job.get("ended"):
        return f"{job.get('state')} at {clock(job['ended'])} after {seconds(elapsed(job))}"
    return f"{job.get('state')}, {seconds(elapsed(job, now))} since {clock(job.get('submitted'))}"


def _times(job: Mapping[str, Any], now: float | None) -> list[str]:
    """Where the time went: waiting for the first task, each stage, and from the last task to the result here. Stages
    do not overlap, but when tasks of an earlier one had to be done again."""
    submitted = _second(job.get("submitted"))
    stages = job.get("stages") or ()
    if not submitted or not stages:
        return []
    now = time.time() if now is None else now
    ended = _second(job.get("ended")) or now
    spans = []
    begun = _second(stages[0].get("began"))
    spans.append((begun or ended, submitted, "waiting for a node"))
    for stage in stages:
        if began := _second(stage.get("began")):
            count = f"{stage.get('done')} of {counted(int(stage.get('total') or 0), 'task')}"
            spans.append((_second(stage.get("ended")) or ended, began, f"{stage.get('name')} ({count})"))
    last = _second(stages[-1].get("ended"))
    if last and job.get("state") != "failed":
        spans.append((ended, last, "fetching results"))
    shown = [(seconds(max(0.0, end - begin)), what) for end, begin, what in spans]
    width = max(len(took) for took, _ in shown)
    return [f"{took:>{width}}  {what}" for took, what in shown]


def _second(value: object) -> float:
    found = moment(value)
    return found.timestamp() if found else 0.0


def _task(task: Mapping[str, Any]) -> str:
    parts = [f"{task.get('task')} on {task.get('node')} for {seconds(float(task.get('seconds') or 0))}"]
    if task.get("bytes_done"):
        parts.append(size(task["bytes_done"]))
    said = " ".join(str(task.get("status") or "").split())
    return ", ".join(parts) + (f": {said}" if said else "")


def _node(node: Mapping[str, Any], ended: bool) -> str:
    done = int(node.get("tasks_done") or 0)
    reason = f" ({node['reason']})" if node.get("reason") else ""
    holds = f", holds {node['holds']}" if node.get("holds") else ""
    name = node.get("name") or node.get("id")
    state = "" if ended and node.get("state") == "working" else f" {node.get('state')}{reason},"
    return f"{name}{state} {counted(done, 'task')} done{holds}"


def _verdict(verdict: Mapping[str, Any]) -> str:
    score = verdict.get("score")
    shown = f"{score:.2f}" if isinstance(score, int | float) and verdict.get("suitable", True) else "not fit"
    reasons = ", ".join(map(str, verdict.get("reasons") or ()))
    return f"{verdict.get('name') or verdict.get('node')} {shown}" + (f": {reasons}" if reasons else "")
