"""`ipdc-edge broker`: writes mosquitto's configuration and becomes mosquitto.

Owns nothing beyond that; drivers/broker.py knows the configuration. Used by the lab and by
ipdc-broker.service.
"""

from __future__ import annotations

import argparse
import os

from ipdc_edge import settings
from ipdc_edge.drivers.broker import exec_broker
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge broker
  IPDC_HOME=~/node ipdc-edge broker
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run this node's own mosquitto in the foreground, configured from ipdc.conf."
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Does not return: the process becomes mosquitto."""
    home = Home(os.environ)
    read = settings.load(home.conf)
    home.prepare()
    exec_broker(home, read)
    return 0
