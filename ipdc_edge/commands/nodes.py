"""`ipdc-edge nodes`: who is in the domain, what they can do, and how busy they are."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import print_json, size, table
from ipdc_edge.home import Home

HEADING = ("NAME", "ID", "ROLE", "STATE", "SLOTS", "IDLE", "LOAD", "SPEED", "MEMORY FREE", "OF", "SANDBOX",
           "VERSION")

EXAMPLES = """\
examples:
  ipdc-edge nodes
  ipdc-edge nodes --json

ROLE: `this` is the node that was asked, `portal` one at which the others find each other.
SPEED: work per second of one core, 1.0 being the reference.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "The nodes of the domain that this node sees."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    """0."""
    answer = call(Home(os.environ), "nodes").get("nodes")
    found: list[dict[str, Any]] = [node for node in answer if isinstance(node, dict)] if isinstance(
        answer, list) else []
    found.sort(key=lambda node: (not node.get("self"), str(node.get("name")), str(node.get("id"))))
    if args.json:
        print_json(found)
        return 0
    print(table([HEADING, *map(_row, found)], right=(4, 5, 6, 7, 8, 9)))
    return 0


def _row(node: dict[str, Any]) -> list[object]:
    role = " ".join(word for word, flag in (("this", "self"), ("portal", "portal")) if node.get(flag))
    identity = str(node.get("id") or "-")
    cores = node.get("cpu_count")
    short = identity if len(identity) <= 12 else f"..{identity[-10:]}"  # ids of one kind begin alike
    return [node.get("name"), short, role or "-", node.get("state"),
            node.get("slots"), _number(node.get("cpu_idle"), "{:.0%}") + (f" of {cores}" if cores else ""),
            _number(node.get("load"), "{:.2f}"), _number(node.get("speed"), "{:.2f}"),
            size(node.get("memory_available")), size(node.get("memory_total")), node.get("sandbox"),
            node.get("version")]


def _number(value: object, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else "-"
