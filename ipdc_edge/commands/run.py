"""`ipdc-edge run`: this node's daemon in the foreground, with its broker as a child where that is wished.

Owns reading home and settings for the daemon. This module stays in the daemon's memory, so it loads next to
nothing: argparse only for --help and for mistakes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ipdc_edge import settings as conf
from ipdc_edge.drivers.identity import become_owner, ensure
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  ipdc-edge run
  IPDC_HOME=~/node ipdc-edge run --with-broker
  ipdc-edge run --check

The broker must run already (ipdc-broker.service, or `ipdc-edge broker`), unless --with-broker is given.
Settings are in /etc/ipdc/ipdc.conf, or in ipdc.conf below IPDC_HOME. `systemctl reload ipdc-edge` does --check first
and fails where that fails.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Run this node's daemon in the foreground until SIGTERM or Ctrl-C."
    parser.epilog = EXAMPLES
    parser.add_argument("--with-broker", action="store_true", help="start this node's mosquitto as a child")
    parser.add_argument("--check", action="store_true", help="only look for mistakes in ipdc.conf; exit code 1 for one")


def run(args: argparse.Namespace) -> int:
    """Returns when the daemon ends, or at once where only the settings are to be checked."""
    return _check() if args.check else _run(args.with_broker)


def quick(words: list[str]) -> int | None:
    """The same for the usual command lines, without argparse."""
    if words in ([], ["--with-broker"]):
        return _run(bool(words))
    return _check() if words == ["--check"] else None


def _check() -> int:
    """Reads the settings as the daemon would. Raises what is wrong with them, with file and line."""
    home = Home(os.environ)
    conf.load(home.conf)
    print(f"{home.conf} has no mistake")
    return 0


def _run(with_broker: bool) -> int:
    from ipdc_edge.daemon import main

    # a broker that runs as a child is started again when it ends
    return serve(Home(os.environ), lambda home, settings: main.run(home, settings, with_broker), with_broker)


def serve(home: Home, daemon: Callable[[Home, Settings], int], with_broker: bool) -> int:
    """Reads the settings, makes directories and identity where they are missing, and runs `daemon(home, settings)`,
    between a broker's start and end where `with_broker` says so."""
    settings = conf.load(home.conf)
    become_owner(home)
    home.prepare()
    identity = ensure(home, settings.name)
    if not with_broker:
        return daemon(home, settings)
    from ipdc_edge.drivers.broker import BrokerProcess

    broker = BrokerProcess(home, settings, identity)
    broker.start()
    try:
        return daemon(home, settings)
    finally:
        broker.stop()
