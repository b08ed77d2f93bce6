"""`ipdc-edge tf`: TensorFlow on this node and over the domain.

Owns the table of actions and their options; each is done in a module of its own, `commands/tf_<action>.py`.
"""

from __future__ import annotations

import argparse
import importlib

EXAMPLES = """\
examples:
  sudo ipdc-edge tf install              TensorFlow for this node, in a virtual environment of its own
  ipdc-edge tf plan ClusterSpec.conf     which nodes get which roles of a cluster
  ipdc-edge tf up                        start them
  ipdc-edge tf run train.py              run a program against them
  ipdc-edge tf down
"""
ACTIONS = ("install", "plan", "up", "status", "run", "down")


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "TensorFlow on this node and over the nodes of the domain."
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name in ACTIONS:
        module = _module(name)
        action = actions.add_parser(name, help=module.HELP, description=module.HELP[0].upper() + module.HELP[1:] + ".",
                                    epilog=module.EXAMPLES, allow_abbrev=False,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
        module.configure(action)


def run(args: argparse.Namespace) -> int:
    """What the action returns."""
    return int(_module(args.action).run(args))


def _module(action: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"ipdc_edge.commands.tf_{action}")
