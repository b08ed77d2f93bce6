"""`ipdc-edge lab up|down`: many nodes on this machine, for trying and testing."""

from __future__ import annotations

import argparse
import shlex

from ipdc_edge.commands.display import counted, print_json, program
from ipdc_edge.commands.laboratory import READY_SECONDS, Lab
from ipdc_edge.settings import SANDBOXES

EXAMPLES = """\
examples:
  ipdc-edge lab up --nodes 3 --dir ~/lab
  IPDC_HOME=~/lab/node2 ipdc-edge nodes
  IPDC_HOME=~/lab/node2 ipdc-edge submit Map.py Reduce.py --input book.txt -k 3
  ipdc-edge lab down --dir ~/lab              (keeps results; `lab up` takes them up again)
  ipdc-edge lab down --dir ~/lab --purge      (removes everything that `lab up` made)

Every node has a home, a key, a daemon and a mosquitto of its own, on free ports of 127.0.0.1. node1 makes a closed
domain, the others join it. Their logs are in DIR/nodeN/log/.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "A closed domain of many nodes on this machine, run by the present user."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="up|down", required=True)
    up = actions.add_parser("up", help="make the lab where there is none, and start what does not run",
                            epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    up.add_argument("--nodes", metavar="N", type=int, default=3, help="number of nodes (default: 3)")
    up.add_argument("--sandbox", metavar="KIND", choices=SANDBOXES, default="",
                    help="what holds the code of jobs, as in ipdc.conf (default: auto); rlimits lets it see this "
                    "machine's files")
    up.add_argument("--timeout", metavar="SECONDS", type=float, default=READY_SECONDS,
                    help="give up when the nodes do not see each other by then (default: %(default)g)")
    down = actions.add_parser("down", help="end the lab's processes",
                              epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    down.add_argument("--purge", action="store_true", help="also remove the nodes' homes, with all results")
    for action in (up, down):
        action.add_argument("--dir", required=True, help="the lab's directory")
        action.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when the lab is up, or down."""
    lab = Lab(args.dir)
    return _up(lab, args) if args.action == "up" else _down(lab, args)


def _up(lab: Lab, args: argparse.Namespace) -> int:
    lab.make(args.nodes, args.sandbox)
    lab.up((lambda text: None) if args.json else lambda text: print(text, flush=True), args.timeout)
    if args.json:
        print_json({"directory": lab.directory, "nodes": [
            {"name": node.name, "home": node.home.state} for node in lab.nodes]})
        return 0
    name = program()
    first = shlex.quote(lab.nodes[0].home.state)
    print(f"\n{counted(len(lab.nodes), 'node')} up and in sight of each other. Speak to one of them:\n"
          f"  export IPDC_HOME={first}\n"
          f"  {name} nodes\n"
          f"  {name} submit Map.py Reduce.py --input FILE\n"
          f"End the lab:\n"
          f"  {name} lab down --dir {shlex.quote(lab.directory)}")
    return 0


def _down(lab: Lab, args: argparse.Namespace) -> int:
    ran = lab.down()
    if args.purge:
        lab.purge()
    if args.json:
        print_json({"directory": lab.directory, "ended": ran, "purged": args.purge})
    elif args.purge:
        print(f"{counted(ran, 'node')} ended, and everything of the lab in {lab.directory} is removed")
    else:
        print(f"{counted(ran, 'node')} ended. What they hold stays in {lab.directory}")
    return 0
