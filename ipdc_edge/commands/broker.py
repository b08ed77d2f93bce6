"""`ipdc-edge broker`: writes mosquitto's files and becomes mosquitto.

Owns nothing beyond that; drivers/broker_files.py knows the files. Used by the lab and by ipdc-broker.service, which
starts it again when it ends: that is how a node's broker gets into another domain.
"""

from __future__ import annotations

import argparse
import os

from ipdc_edge import settings
from ipdc_edge.drivers.broker import check_ports, exec_broker
from ipdc_edge.drivers.broker_files import write_all
from ipdc_edge.drivers.identity import become_owner, ensure
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge broker
  IPDC_HOME=~/node ipdc-edge broker
  ipdc-edge broker --write-only
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run this node's own mosquitto in the foreground, configured from ipdc.conf."
    parser.epilog = EXAMPLES
    parser.add_argument("--write-only", action="store_true",
                        help="only write mosquitto's files, for ipdc-broker.service, which starts it then")


def run(args: argparse.Namespace) -> int:
    """Does not return, unless only the files are wanted: the process becomes mosquitto."""
    home = Home(os.environ)
    read = settings.load(home.conf)
    become_owner(home)
    home.prepare()
    identity = ensure(home, read.name)
    if args.write_only:
        check_ports(home, read, identity)
        write_all(home, read, identity)
        return 0
    exec_broker(home, read, identity)
    return 0
