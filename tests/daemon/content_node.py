"""A real daemon's store and control socket, without broker and gateway: what the commands about content need.

Owns the thread in which it runs, because commands block.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

from ipdc_edge import settings as conf
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.requests import Requests
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.control import ControlServer
from ipdc_edge.home import Home
from tests.waiting import eventually_async


class ContentNode:
    """A node under `directory`; a context manager."""

    def __init__(self, directory: str, settings: str = "") -> None:
        self.home = Home({"IPDC_HOME": directory})
        os.makedirs(directory, exist_ok=True)
        self.home.prepare()
        with open(self.home.conf, "w", encoding="utf-8") as file:
            file.write("sandbox = rlimits\n" + settings)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> ContentNode:
        self._thread.start()
        self.run(self._start)
        return self

    def run(self, work: Callable[[], Any]) -> Any:
        """A coroutine function, in the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(60)

    async def _start(self) -> None:
        self.daemon = Daemon(self.home, conf.load(self.home.conf), identity.ensure(self.home, "node"))
        self.server = ControlServer(self.home.control_socket, Requests(self.daemon).handle)
        await self.server.start()
        self.own_blocks = self.daemon.store.stat()["blocks"]  # of the list of members

    async def settled(self) -> None:
        """Until nobody is served any more."""
        await eventually_async(lambda: not self.server.connections, "requests that end")

    async def _stop(self) -> None:
        await self.server.close()
        await self.daemon.background.close()
        self.daemon.store.close()
        self.daemon.ledger.close()

    def __exit__(self, *_: object) -> None:
        self.run(self._stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
