"""`ipdc-edge expel`: takes a node out of the domain.

Owns what people read about it; drivers/authority.py makes the new member list, and the daemon carries it to the
others.
"""

from __future__ import annotations

import argparse
import os

from ipdc_edge.commands import change
from ipdc_edge.commands.display import counted, print_json
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  sudo ipdc-edge expel pi-3
  sudo ipdc-edge expel 5DHTfT5BTf     (the end of its id, as `ipdc-edge domain show` prints it)

Every node drops the expelled one within ten seconds, its open connections too. Its jobs end; tasks that it held are
done by others. With a new token it may join again.
"""


class NobodyToExpel(IpdcError):
    """This node is alone, in no domain: there is nobody to expel."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Expel a node: no member speaks with it any more. Only the authority's node can."
    parser.epilog = EXAMPLES
    parser.add_argument("node", metavar="NODE", help="the node's name, or its id, or the beginning or end of its id")
    parser.add_argument("--json", action="store_true", help="print who was expelled as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when the node is out of the list."""
    home = Home(os.environ)
    with change.owner(home):
        before = change.present(home)
        if before is None or before.alone:
            raise NobodyToExpel()
        from ipdc_edge.drivers import authority

        after = authority.expel(home, args.node)
        gone = [member for member in before.members.members if after.member(member.id) is None]
        names = ", ".join(f"{member.name} ({member.id})" for member in gone) or args.node
        told = change.announce(home, f"{names} is expelled from {after.domain}")
    if args.json:
        print_json({"domain": after.domain, "version": after.version, "daemon": told.to_dict(),
                    "expelled": [{"id": member.id, "name": member.name} for member in gone]})
        return 0
    print(f"{names} is expelled. Member list of {after.domain}: version {after.version}, "
          f"{counted(len(after.members), 'node')}.")
    if told.daemon:
        print("The new list is on its way to the others.")
    else:
        print(f"No daemon runs here; the new list spreads when it does: {change.start_command(home)}")
    return 0
