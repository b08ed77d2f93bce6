"""`ipdc-edge join`: makes this node a member of the domain that a token invites to.

Owns the order of it: what can be refused is refused before the token is spent. drivers/join_client.py speaks to
the inviter and stores what it gives.
"""

from __future__ import annotations

import argparse
import os
import sys

from ipdc_edge import settings
from ipdc_edge.codec import join_token
from ipdc_edge.commands import change
from ipdc_edge.commands.display import counted, print_json
from ipdc_edge.errors import WrongUsage
from ipdc_edge.home import Home

LINE_LIMIT = 4096  # characters of a token's line on standard input

EXAMPLES = """\
examples:
  sudo ipdc-edge join TOKEN
  ssh pi-1 sudo ipdc-edge invite | sudo ipdc-edge join -

TOKEN is what `ipdc-edge invite` printed on the node that holds the domain's authority. `-` reads it from standard
input: a command's arguments can be seen by every user of this machine while it runs (ps).
A node that was in no domain keeps its jobs and content.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Join a domain: this node becomes a member, and works with the others."
    parser.epilog = EXAMPLES
    parser.add_argument("token", metavar="TOKEN", help="the token of an invitation, or - for standard input")
    parser.add_argument("--json", action="store_true", help="print the domain as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when this node is a member."""
    text = args.token
    if text == "-":
        text = sys.stdin.readline(LINE_LIMIT).strip()
        if not text:
            raise WrongUsage(reason="There is no token on standard input. `ipdc-edge invite` prints one.")
    token = join_token.parse(text)
    home = Home(os.environ)
    read = settings.load(home.conf)
    with change.owner(home):
        change.demand_alone(home)
        from ipdc_edge.drivers import join_client

        join_client.join(home, token, name=read.name, memory=settings.memory_total())
        now = change.identity.load(home)
        told = change.announce(home, f"This node is a member of {now.domain} now")
        settled = change.settle(home, now.authority, told)
    change.publish(home, read, now)
    if args.json:
        print_json({"domain": now.domain, "authority": now.authority, "version": now.members.version, "id": now.id,
                    "members": len(now.members.members), "daemon": told.to_dict()})
        return 0
    print(f"This node is a member of the domain {now.domain} now, one of "
          f"{counted(len(now.members.members), 'node')}.\n{change.explain(home, told, settled)}\n"
          f"Look: ipdc-edge domain show")
    return 0
