"""`ipdc-edge story`: what happened to a job or a task, why, and on which node, in plain words.

Owns the sentences; the facts are the daemon's (`core/story.py` says which there are). A fact of a newer daemon, of a
kind unknown here, is shown as it came.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

from ipdc_edge.commands.choose import job_id
from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import clock, counted, plain, print_json
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge story abcd
  ipdc-edge story abcd map-00003
  ipdc-edge story abcd --json

What came of the same event is indented below it. The story is kept in the ledger with what has to be saved
anyway, for the last 64 jobs: a power cut may take its last lines, and of very many only the first and last are kept.
"""
CONSEQUENCES = ("offered", "leased", "returned", "outrun", "output-lost", "kept", "aside", "pardoned", "enough",
                "done", "collected")
WHY_LEASED = {
    "late": "{after} is late with it, and the first result counts",
    "lost": "{after} was lost with it",
    "restarted": "{after} restarted and lost it",
    "refused": "{after} gave the job up",
    "dropped": "{after} had given it up",
    "input": "its input was gone when {after} had it",
    "failed": "it failed on {after}",
    "missed": "{after} could not get its input",
    "output": "what {after} had made is gone",
    "again": "nobody else has it any more",
}
WHY_RETURNED = {
    "lost": "{task} is taken from {node} and waits for another node",
    "restarted": "{task} went down with {node} and waits again",
    "refused": "{task} is taken back from {node}",
    "dropped": "{node} had given {task} up: it waits again",
    "input": "{task} is taken back from {node}: an output that it needs is gone",
}
WHY_GONE = {
    "left": "what {task} made on {node} went with it: it is done again",
    "missed": "what {task} made on {node} cannot be had: it is done again",
}
WAS = {"lost": ", after it was lost", "refused": ", after it had refused", "silent": ", late"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "What happened to a job, or to one task of it: why, and on which node."
    parser.epilog = EXAMPLES
    parser.add_argument("id", metavar="ID", help="a job's id or its beginning")
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task, as map-00003: what happened to it, and why")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def run(args: argparse.Namespace) -> int:
    """0."""
    home = Home(os.environ)
    story: dict[str, Any] = call(home, "story", id=job_id(home, args.id), task=args.task or "")
    if args.json:
        print_json(story)
    else:
        print(plain(text(story)))
    return 0


def text(story: Mapping[str, Any]) -> str:
    """The story as people read it."""
    about = f"task {story['task']} of job {story.get('id')}" if story.get("task") else f"job {story.get('id')}"
    facts = story.get("facts") or []
    if not facts:
        return f"{about}: nothing is kept of it."
    lines, cause, shown = [f"{about}, {story.get('state')}"], None, ""
    for fact in facts:
        day, _, time = clock(fact.get("at")).partition(" ")
        if day != shown:
            lines.append(day)
            shown = day
        follows = cause is not None and fact.get("cause") == cause and _follows(fact)
        lines.append(f"  {'' if follows else time:8}  {'  so ' if follows else ''}{sentence(fact)}")
        cause = fact.get("cause")
    if story.get("left_out"):
        lines.append(f"{counted(int(story['left_out']), 'more fact')} of this job not kept: there were too many.")
    return "\n".join(lines)


def _follows(fact: Mapping[str, Any]) -> bool:
    """Whether it comes of what stands before it, when both have the same cause."""
    return fact.get("kind") in CONSEQUENCES or (fact.get("kind") == "failed" and not fact.get("task"))


def sentence(fact: Mapping[str, Any]) -> str:
    """One fact in words, on one line."""
    words = fact.get("words") if isinstance(fact.get("words"), Mapping) else {}
    said = {"task": fact.get("task"), "node": fact.get("node"), **(words or {})}
    try:
        tell = SENTENCES[str(fact.get("kind"))]
        found = tell(said) if callable(tell) else tell.format_map(said)
    except (KeyError, TypeError, ValueError):
        found = " ".join(str(part) for part in (fact.get("kind"), *(f"{k}={v}" for k, v in said.items() if v)))
    return " ".join(found.split())


def _leased(said: Mapping[str, Any]) -> str:
    why = "" if said["why"] == "first" else ": " + WHY_LEASED[said["why"]].format_map(said)
    verb = "is begun on {node} too" if said["why"] == "late" else "goes to {node}"
    return "{task} ".format_map(said) + verb.format_map(said) + why


def _failed(said: Mapping[str, Any]) -> str:
    if not said["task"]:
        return f"the job failed: {said['reason']}"
    if said.get("type") == "fetch":
        missed = f", which {said['missed']} had made" if said.get("missed") else ""
        return f"{said['task']} on {said['node']} could not get its input{missed}: {said['message']}"
    return f"{said['task']} failed on {said['node']}: {said['message']}"


def _accepted(said: Mapping[str, Any]) -> str:
    size = f"{counted(said['tasks'], 'task')} of {said['app']}"
    return f"the job was accepted: {size}, for {counted(said['workers'], 'node')}"


def _restored(said: Mapping[str, Any]) -> str:
    return (f"the daemon began anew: its ledger has {said['committed']} of {counted(said['tasks'], 'task')} done, "
            f"by {counted(said['workers'], 'node')}")


def _refused(said: Mapping[str, Any]) -> str:
    return f"{said['node']} {'gave the job up' if said['had'] else 'does not take the job'}: {said['reason']}"


def _joined(said: Mapping[str, Any]) -> str:
    holds = f", and holds the input of {counted(said['holds'], 'task')}" if said.get("holds") else ""
    return f"{said['node']} takes part, {said['slots']} at a time{WAS.get(said['was'], '')}{holds}"


def _slots(said: Mapping[str, Any]) -> str:
    many = f"takes {said['slots']} at a time now" if said["slots"] else "takes no more tasks: it drains"
    return f"{said['node']} {many}"


def _committed(said: Mapping[str, Any]) -> str:
    late = ", though it was given up there: it is the first result" if said.get("late") else ""
    return f"{said['task']} is done on {said['node']}{late}"


SENTENCES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "accepted": _accepted,
    "restored": _restored,
    "offered": "the job is offered to {node}",
    "silent": "{node} did not answer the offer",
    "joined": _joined,
    "slots": _slots,
    "refused": _refused,
    "broke": "the connection to {node} broke: it has a moment to come back",
    "lost": "{node} is lost: it was not heard of in time",
    "back": lambda said: "{node} is back with what it held".format_map(said) + WAS.get(said["was"], ""),
    "restarted": "{node} restarted: what it had of the job is gone",
    "aside": "{node} is set aside for this job: {reason}",
    "pardoned": "{node} is not set aside any more: nobody else is left",
    "leased": _leased,
    "kept": "{node} goes on with {task}, which it has held all along",
    "returned": lambda said: WHY_RETURNED[said["why"]].format_map(said),
    "failed": _failed,
    "committed": _committed,
    "outrun": "{task} is not wanted of {node} any more: {by} was first",
    "output-lost": lambda said: WHY_GONE[said["why"]].format_map(said),
    "enough": "the job has enough: what is left is not done",
    "done": "every task is done; the parts of the result are on their way here",
    "part-missed": "the part that {task} made could not be had from {node}: {reason}",
    "collected": "every part of the result is here",
    "published": "the result is in its place: the job has succeeded",
    "cancelled": "the job was cancelled: {reason}",
}
