"""`ipdc-edge unpin`: this node need not keep a CID any longer."""

from __future__ import annotations

import argparse
import os

from ipdc_edge.commands.client import call
from ipdc_edge.commands.content import cid_of
from ipdc_edge.commands.display import print_json
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge unpin bafybeiexample
  ipdc-edge unpin bafybeiexample && ipdc-edge gc

Its blocks stay until their room is wanted, or until `ipdc-edge gc`. What other pins or jobs hold stays anyhow.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Keep what a CID leads to no longer than there is room for it."
    parser.epilog = EXAMPLES
    parser.add_argument("cid", metavar="CID", help="a CID that is pinned here")
    parser.add_argument("--json", action="store_true", help="print the CID as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when it is pinned no more."""
    answer = call(Home(os.environ), "unpin", cid=cid_of(args.cid))
    if args.json:
        print_json(answer)
    else:
        print(f"{answer.get('cid')} is pinned no more.")
    return 0
