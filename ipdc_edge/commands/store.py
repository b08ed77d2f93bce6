"""`ipdc-edge store`: how full this node's content is, and whether all of it is sound."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from ipdc_edge.commands.client import call, events
from ipdc_edge.commands.content import shown_name
from ipdc_edge.commands.display import count_of, counted, print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge store stat
  ipdc-edge store verify

verify reads every block, users' files that are referred to as well, checks it against its CID, and looks whether the
index and the files agree. What is damaged is named; from then on it counts as not here, and `ipdc-edge pin CID`
fetches it again where another node has it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "This node's content: how full it is, and whether it is sound."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("stat", "blocks, bytes, references, pins, and what may be freed"),
                       ("verify", "read every block and check it; exit code 1 when something is damaged")):
        action = actions.add_parser(name, help=text, description=text, epilog=EXAMPLES, allow_abbrev=False,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        action.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where verify found damage."""
    return _verify(args.json) if args.action == "verify" else _stat(args.json)


def _stat(as_json: bool) -> int:
    found = call(Home(os.environ), "store_stat")
    if as_json:
        print_json(found)
        return 0
    quota, held = count_of(found, "quota"), count_of(found, "bytes")
    print(f"blocks      {count_of(found, 'blocks')}, of which {count_of(found, 'references')} lie in users' own files")
    print(f"on disk     {size(held)} of {size(quota)} ({100 * held // max(1, quota)} %)")
    print(f"pins        {count_of(found, 'pins')}")
    print(f"unpinned    {size(count_of(found, 'unpinned'))}, until the room is wanted or `ipdc-edge gc`")
    print(f"inputs      {size(count_of(found, 'cached'))} of other nodes kept, likewise")
    if count_of(found, "lost"):
        print(f"lost        {counted(count_of(found, 'lost'), 'block')}: `ipdc-edge store verify` names them")
    return 0


def _verify(as_json: bool) -> int:
    progress = Progress(as_json)
    answer: Mapping[str, Any] = {}
    damaged = []
    try:
        for answer in events(Home(os.environ), "store_verify", "ask again"):
            damage = answer.get("damage")
            if not isinstance(damage, Mapping):
                progress.line(f"{count_of(answer, 'blocks')} of {count_of(answer, 'total')} blocks, "
                              f"{size(count_of(answer, 'bytes'))}")
            elif as_json:
                damaged.append(damage)
            else:
                progress.end()
                print(_text(damage), flush=True)
    finally:
        progress.end()
    if as_json:
        print_json({**answer, "damage": damaged})
    else:
        sound = "all sound" if not count_of(answer, "damaged") else f"{count_of(answer, 'damaged')} damaged"
        print(f"{counted(count_of(answer, 'blocks'), 'block')}, {size(count_of(answer, 'bytes'))} read: {sound}.")
    return 1 if count_of(answer, "damaged") else 0


def _text(damage: Mapping[str, Any]) -> str:
    what = [str(damage[key]) for key in ("cid", "path") if damage.get(key)]
    more = count_of(damage, "blocks")
    also = f" (and {counted(more - 1, 'block')} behind it)" if more > 1 else ""
    return f"damaged: {' in '.join(map(shown_name, what))}: {damage.get('reason')}{also}"
