"""Runs the daemon: the loop, the control socket, and what the process says at its end.

Owns nothing of the node; `daemon.py` does.
"""

from __future__ import annotations

import asyncio
import traceback

from ..drivers.control import ControlServer
from ..home import Home
from ..settings import Settings
from .daemon import Daemon
from .requests import Requests


def run(home: Home, settings: Settings) -> int:
    """The daemon in the foreground; 0 after SIGTERM, 1 after a bug, whose traceback is in the journal."""
    return asyncio.run(_live(home, settings))


async def _live(home: Home, settings: Settings) -> int:
    daemon = Daemon(home, settings)
    await daemon.run(ControlServer(home.control_socket, Requests(daemon).handle))
    if daemon.failed is None:
        return 0
    traceback.print_exception(daemon.failed)
    return 1
