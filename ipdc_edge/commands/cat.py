"""`ipdc-edge cat`: content by its CID, to standard output, a block at a time."""

from __future__ import annotations

import argparse
import os
import sys

from ipdc_edge.commands.client import download
from ipdc_edge.commands.content import cid_of
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge cat bafkreiexample > file
  ipdc-edge cat bafybeiexample | head
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Print the file that a CID names. Every block is checked against its own CID."
    parser.epilog = EXAMPLES
    parser.add_argument("cid", metavar="CID", help="a CID, of version 0 or 1")


def run(args: argparse.Namespace) -> int:
    """0 when the whole file was printed."""
    cid = cid_of(args.cid)
    sys.stdout.flush()
    for data in download(Home(os.environ), "cat", cid=cid):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0
