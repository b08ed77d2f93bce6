"""`ipdc-edge ls`: what a CID names: the entries of a directory, or the one file or link that it is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.client import events
from ipdc_edge.commands.content import cid_of, shown_name
from ipdc_edge.commands.display import print_json
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge ls bafybeiexample
  ipdc-edge ls --json bafybeiexample | jq -r .name

A line for each entry: CID, kind, bytes (of a file), name. Names may hold any bytes: what a terminal would act on is
shown as an escape. `missing` is what no node gives that is reached now, `other` what is no file of IPFS.
"""
KINDS = 9  # columns


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "List the directory that a CID names; a large one of IPFS (sharded) too."
    parser.epilog = EXAMPLES
    parser.add_argument("cid", metavar="CID", help="a CID, of version 0 or 1")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line: name, cid, kind, size, target")


def run(args: argparse.Namespace) -> int:
    """0 when all was listed."""
    answer: Mapping[str, Any] = {}
    for answer in events(Home(os.environ), "ls", "ask again", cid=cid_of(args.cid)):
        entry = answer.get("entry")
        if isinstance(entry, Mapping):
            _show(entry, args.json)
    if answer.get("kind") != "directory":
        _show({"name": None, **answer}, args.json)
    return 0


def _show(entry: Mapping[str, Any], as_json: bool) -> None:
    """One line: listings may be endless, so nothing is aligned by all of them."""
    if as_json:
        print_json({key: entry.get(key) for key in ("name", "cid", "kind", "size", "target")}, line=True)
        return
    kind, count, name = str(entry.get("kind")), entry.get("size"), entry.get("name")
    parts = [str(entry.get("cid")), f"{kind:{KINDS}}", f"{'-' if kind == 'directory' else count!s:>12}"]
    if name is not None:
        parts.append(shown_name(str(name)))
    if entry.get("target") is not None:
        parts += ["->", shown_name(str(entry["target"]))]
    print(" ".join(parts))
