"""`ipdc-edge add`: puts a file into this node's content and prints its CID."""

from __future__ import annotations

import argparse
import os
import sys
import time

from ipdc_edge.commands.display import print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.upload import add_file
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge add book.txt
  CID=$(ipdc-edge add book.txt); ipdc-edge submit Map.py Reduce.py --input $CID

The CID is that of IPFS under its profile unixfs-v1-2025. A file that the daemon may read itself is not
copied: it is served from where it lies, and refused by its hash once it is changed. --copy keeps the content
even then.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Put a file into this node's content and print its CID."
    parser.epilog = EXAMPLES
    parser.add_argument("path", metavar="PATH", help="a regular file of any size")
    parser.add_argument("--copy", action="store_true", help="copy the file, also where a reference would do")
    parser.add_argument("--json", action="store_true", help="print CID, size and how it is stored as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when the daemon has the file."""
    progress = Progress(args.json)
    shown = 0.0

    def show(count: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 0.1:
            shown = time.monotonic()
            progress.line(f"reading {size(count)}")

    name = os.path.basename(args.path)
    added = add_file(Home(os.environ), args.path, name=name, copy=args.copy, progress=show)
    progress.end()
    if args.json:
        print_json(added._asdict())
        return 0
    print(added.cid)
    if added.stored == "copy" and not args.copy:
        print("ipdc-edge: the file was copied, because the daemon may not read it itself", file=sys.stderr)
    return 0
