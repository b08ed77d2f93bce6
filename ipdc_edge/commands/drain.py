"""`ipdc-edge drain`: this node takes no more work, and what runs here may end; `--off` undoes it.

Owns the wording. The daemon remembers it over restarts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.client import events
from ipdc_edge.commands.display import count_of, counted, print_json
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  sudo ipdc-edge drain
  sudo ipdc-edge drain --wait && sudo poweroff
  sudo ipdc-edge drain --off

Jobs that are submitted on this node go on, on other nodes. It stays drained over a restart, until --off.
"""


class TakesWorkAgain(IpdcError):
    """Somebody wants {name} to take work again (ipdc-edge drain --off): {tasks} still run here."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Let this node take no more work. What runs here may end; what waits here goes to others."
    parser.epilog = EXAMPLES
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="return when nothing runs here any more")
    what.add_argument("--off", action="store_true", help="take work again")
    parser.add_argument("--json", action="store_true", help="print the node's state as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when it is so; with --wait, 1 where somebody undoes it before nothing runs here."""
    home, name, answer = Home(os.environ), "", {}
    asked = {"wait": True} if args.wait else {"off": args.off}
    for answer in events(home, "drain", "it stays drained, and this may be asked again", **asked):
        if not name and not args.json:
            print(text(answer), flush=True)
        name = str(answer.get("name"))
    if args.json:
        print_json(answer)
    if args.wait and answer.get("state") != "draining":
        raise TakesWorkAgain(name=name, tasks=counted(count_of(answer, "tasks"), "task"))
    if args.wait and not args.json:
        print("Nothing runs here any more.")
    return 0


def text(answer: Mapping[str, Any]) -> str:
    """What became of it, and what to know before the node is stopped."""
    name = answer.get("name")
    if answer.get("state") != "draining":
        return f"{name} takes work again."
    tasks, held, own = (count_of(answer, what) for what in ("tasks", "held_jobs", "own_jobs"))
    lines = [f"{name} takes no more work, until: ipdc-edge drain --off",
             f"{counted(tasks, 'task')} may still end here." if tasks else "Nothing runs here."]
    if held:
        jobs = counted(held, "job")
        lines.append(f"{jobs} may yet need what was made here. If this node stops, others make it again.")
    if own:
        jobs = counted(own, "job")
        lines.append(f"Not done yet of those submitted here: {jobs}. They wait while this node is stopped.")
    return "\n".join(lines)
