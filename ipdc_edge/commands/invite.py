"""`ipdc-edge invite`: a token with which one new node joins the domain.

Owns what people read about it. The daemon makes the token and opens the port; the token alone goes to standard
output.
"""

from __future__ import annotations

import argparse
import os
import sys

from ipdc_edge.commands.client import call
from ipdc_edge.commands.display import print_json, seconds
from ipdc_edge.errors import WrongUsage
from ipdc_edge.home import Home
from ipdc_edge.settings import JOIN_PORT, address

EXAMPLES = """\
examples:
  sudo ipdc-edge invite
  sudo ipdc-edge invite --address 192.168.1.20
  TOKEN=$(sudo ipdc-edge invite)

The token lets one node in, once, within ten minutes. On the new node: ipdc-edge join TOKEN
Whoever sees the token may use it: hand it over by a way that you trust.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Print a token with which one new node joins the domain."
    parser.epilog = EXAMPLES
    parser.add_argument("--address", metavar="HOST[:PORT]",
                        help="where the new node reaches this one (default: this node's own addresses)")
    parser.add_argument("--json", action="store_true", help="print token, addresses and seconds as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when a token was printed."""
    fields: dict[str, object] = {}
    if args.address is not None:
        try:
            host, port = address(args.address, 0)
        except ValueError as error:
            reason = f"--address {args.address}: not HOST or HOST:PORT (port {JOIN_PORT} is the usual one)."
            raise WrongUsage(reason=reason) from error
        fields["address"] = f"{host}:{port}" if port else host
    answer = call(Home(os.environ), "invite", **fields)
    if args.json:
        print_json(answer)
        return 0
    print(answer.get("token"), flush=True)
    valid, places = answer.get("expires_in"), answer.get("addresses")
    lasts = seconds(valid) if isinstance(valid, int | float) else "ten minutes"
    where = ", ".join(map(str, places)) if isinstance(places, list) else "-"
    print(f"Valid once, for {lasts}, at {where}. On the new node, which must reach this address:\n"
          f"  sudo ipdc-edge join {answer.get('token')}", file=sys.stderr)
    return 0
