"""`ipdc-edge gc`: frees what was unpinned and nobody else holds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from ipdc_edge.commands.client import events
from ipdc_edge.commands.display import count_of, counted, print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge gc
  ipdc-edge gc --json

Pinned content, and what jobs hold, is never touched. Users' own files are not either: of those only the node's notes
of where they lie go. It may be ended at any moment and asked again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Free what was unpinned, and inputs kept of other nodes, where nobody else holds them."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print how much that was as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when nothing is left to free."""
    freed = events(Home(os.environ), "gc", "ask again; what is freed already stays so")
    answer = Progress(args.json).follow(freed, _text)
    if args.json:
        print_json(answer)
    else:
        print(_text(answer) + ".")
    return 0


def _text(answer: Mapping[str, object]) -> str:
    return f"{counted(count_of(answer, 'blocks'), 'block')} removed, {size(count_of(answer, 'bytes'))} freed"
