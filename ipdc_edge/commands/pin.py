"""`ipdc-edge pin`: this node keeps what a CID leads to, and fetches what is not here; `--list` shows what it keeps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.client import call, events
from ipdc_edge.commands.content import cid_of
from ipdc_edge.commands.display import count_of, counted, print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.errors import WrongUsage
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge pin bafybeiexample
  ipdc-edge pin --list

All blocks below are fetched from the domain's nodes, checked and kept until `ipdc-edge unpin CID`. What was added on
this node is pinned already. Files that are here by reference stay where they are.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Keep what a CID leads to on this node; what is not here is fetched."
    parser.epilog = EXAMPLES
    parser.add_argument("cid", metavar="CID", nargs="?", help="a CID, of version 0 or 1")
    parser.add_argument("--list", "--ls", action="store_true", help="what is pinned here, a CID a line")
    parser.add_argument("--json", action="store_true", help="print what was done, or the list, as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when it is pinned."""
    home = Home(os.environ)
    if args.list == bool(args.cid):
        raise WrongUsage(reason="name one CID, or ask for the --list of what is pinned")
    if args.list:
        pins = call(home, "pins").get("pins")
        found = [str(cid) for cid in pins] if isinstance(pins, list) else []
        if args.json:
            print_json(found)
        else:
            print("".join(f"{cid}\n" for cid in found), end="")
        return 0
    fetched = events(home, "pin", "pin it again", cid=cid_of(args.cid))
    answer = Progress(args.json).follow(fetched, _text)
    if args.json:
        print_json(answer)
    else:
        print(f"{answer.get('cid')} is pinned: {_text(answer)}.")
    return 0


def _text(answer: Mapping[str, Any]) -> str:
    return f"{counted(count_of(answer, 'blocks'), 'block')}, {size(count_of(answer, 'bytes'))} fetched"
