"""Runs the daemon: the loop, the control socket, and what the process says at its end.

Owns nothing of the node; `daemon.py` does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import traceback

from ..drivers import broker, identity
from ..drivers.control import ControlServer
from ..home import Home
from ..settings import Settings
from .background import note
from .daemon import Daemon
from .requests import Requests


def run(home: Home, settings: Settings, supervised: bool = False) -> int:
    """The daemon in the foreground; 0 after SIGTERM, 1 after a bug, whose traceback is in the journal. `supervised`:
    somebody starts the broker again when it ends. In another domain the daemon begins anew, and so does the broker."""
    faulthandler.enable()  # a watchdog's SIGABRT shows where it hung
    while True:
        daemon = asyncio.run(_live(home, settings, supervised or "INVOCATION_ID" in os.environ))
        if not daemon.restarts or daemon.failed is not None:
            break
        identity.ensure(home, settings.name)  # before the broker begins anew with it
        if not broker.restart(home):
            note("no broker was found that could begin anew with the new domain")
        if os.path.exists(home.kubo_mark):
            from ..drivers import kubo_node  # for who has one

            kubo_node.restart(home)
    if daemon.failed is None:
        return 0
    traceback.print_exception(daemon.failed)
    return 1


async def _live(home: Home, settings: Settings, supervised: bool) -> Daemon:
    own = await asyncio.to_thread(identity.ensure, home, settings.name)
    daemon = Daemon(home, settings, own, supervised)
    await daemon.run(ControlServer(home.control_socket, Requests(daemon).handle))
    return daemon
