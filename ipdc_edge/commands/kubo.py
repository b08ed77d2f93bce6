"""`ipdc-edge kubo`: makes this node's Kubo a member of the domain's private network, and becomes it.

Owns nothing beyond that; drivers/kubo_node.py knows the repository. Used by ipdc-kubo.service, which starts it again
when it ends: that is how a node's Kubo gets into another domain, or takes up a new key.
"""

from __future__ import annotations

import argparse
import os
from contextlib import suppress

from ipdc_edge import settings
from ipdc_edge.commands.client import call
from ipdc_edge.drivers import kubo_node
from ipdc_edge.drivers.identity import become_owner, ensure
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  sudo systemctl enable --now ipdc-kubo       (the installed node: runs this command, and again at every boot)
  IPDC_HOME=~/node ipdc-edge kubo
  ipdc-edge kubo --write-only
  IPFS_PATH=/var/lib/ipdc/kubo ipfs swarm peers

Kubo (ipfs) must be installed; it takes some hundred megabytes of memory. It connects to Kubo nodes of this domain only:
its network is private, by a key that the domain's authority made. Its port: kubo_swarm_port in ipdc.conf.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run a Kubo (IPFS) of this node in the domain's private network, in the foreground."
    parser.epilog = EXAMPLES
    parser.add_argument("--write-only", action="store_true",
                        help="only make its repository below the node's directory, or bring that up to date")


def run(args: argparse.Namespace) -> int:
    """Does not return, unless only the repository is wanted: the process becomes Kubo."""
    home = Home(os.environ)
    read = settings.load(home.conf)
    become_owner(home)
    home.prepare()
    own = ensure(home, read.name)
    if not own.alone and not own.has_authority:
        with suppress(IpdcError):  # no daemon, or nobody answers it: the key that is here will do, or is missed below
            call(home, "swarm_key")
    if args.write_only:
        kubo_node.prepare(home, read, own)
        return 0
    kubo_node.exec_kubo(home, read, own)
    return 0
