"""The daemon as a service: what it tells the service manager, how it stops, and what a reload changes.

Owns the words to systemd (sdnotify; where nobody listens, nothing happens), the drain before an end, and which settings
take effect while it runs. Source: sd_notify(3), systemd.service(5).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import sdnotify

from .. import settings as conf
from ..core import events as e
from ..core.life import FINAL
from ..errors import IpdcError
from ..settings import Settings
from .background import note
from .local_inputs import LocalInputs

if TYPE_CHECKING:
    from .daemon import Daemon

TELL_EVERY = 5.0  # seconds between two looks at what STATUS should say
LIVE = ("slots", "runner_memory", "store_quota", "input_cache", "local_inputs", "allow_network", "stop_grace",
        "tensorflow")


class Service:
    """What a service manager and its owner want of a daemon."""

    def __init__(self, daemon: Daemon, environ: Mapping[str, str] = os.environ) -> None:
        self.daemon = daemon
        self.notifier = sdnotify.SystemdNotifier()
        watchdog = environ.get("WATCHDOG_USEC", "")
        self.feed_every = int(watchdog) / 3e6 if watchdog.isdecimal() else 0.0  # seconds
        self.status = ""

    def ready(self) -> None:
        """The daemon does its work from now on."""
        self.tell("READY=1")
        background = self.daemon.background
        background.start(self._tell_status())
        if self.feed_every:
            background.start(self._feed())

    def tell(self, words: str) -> None:
        """Tells the service manager, with what STATUS is now."""
        self.status = self.describe()
        self.notifier.notify(f"{words}\nSTATUS={self.status}".lstrip())

    def describe(self) -> str:
        """A line for people: who this node is, and what it does."""
        daemon = self.daemon
        members = len(daemon.domain.members.members)
        own = sum(master.state not in FINAL for master in daemon.node.masters.values())
        tasks = sum(worker.running for worker in daemon.node.workers.values())
        what = "" if (state := daemon.node.membership.own.state) == "ready" else f" ({state})"
        return (f"{daemon.settings.name} in domain {daemon.domain.members.domain}{what}: {_many(members, 'member')}, "
                f"{_many(own, 'job')} of its own, {_many(tasks, 'task')} running here")

    async def _tell_status(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            if self.describe() != self.status:
                self.tell("")

    async def _feed(self) -> None:
        """The watchdog is fed by what does the work: an event that the core has handled, and a ledger that answers."""
        while True:
            handled = self.daemon.change
            self.daemon.emit(e.TimePassed())
            await asyncio.wait([handled])
            await self.daemon.ledger.answers()
            self.notifier.notify("WATCHDOG=1")
            await asyncio.sleep(self.feed_every)

    # -- the end

    async def drain(self, hurry: asyncio.Event) -> None:
        """Takes no more work, and lets what runs end for `stop_grace` seconds, or until somebody is in a hurry."""
        daemon = self.daemon
        daemon.ask(e.DrainRequested())
        self.tell("STOPPING=1")
        hurried = asyncio.ensure_future(hurry.wait())
        deadline = daemon.loop.time() + daemon.settings.stop_grace
        while not daemon.node.idle() and not hurried.done() and daemon.failed is None:
            left = deadline - daemon.loop.time()
            if left <= 0:
                note("handing back what still runs here: stop_grace is over")
                break
            await asyncio.wait([hurried, daemon.change], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()

    # -- settings

    def reload(self, load: Callable[[str], Settings] = conf.load) -> None:
        """Takes up what ipdc.conf says now, as far as it can be done without a restart; a file with a mistake changes
        nothing."""
        daemon, before = self.daemon, self.daemon.settings
        self.notifier.notify("RELOADING=1")
        try:
            read = load(daemon.home.conf)
        except IpdcError as error:
            note(f"the settings stay as they were: {error}")
            return self.tell("READY=1")
        changed = [field.name for field in fields(read) if getattr(read, field.name) != getattr(before, field.name)]
        now = replace(before, **{name: getattr(read, name) for name in changed if name in LIVE})
        later = [name for name in changed if name not in LIVE]
        daemon.settings = now
        daemon.tasks.slots, daemon.tasks.local = now.slots, LocalInputs(now.local_inputs)
        if now.store_quota != before.store_quota:
            daemon.store.quota = now.quota(daemon.home.state, daemon.store.stat()["bytes"])
        daemon.inputs.limit = now.cache_limit(daemon.store.quota)
        daemon.inputs.shrink()
        daemon.offer.look()
        told = f"changed: {', '.join(name for name in changed if name in LIVE) or 'nothing'}"
        if later:
            told += f"; not before a restart (systemctl restart ipdc-broker ipdc-edge): {', '.join(later)}"
        note(f"{daemon.home.conf} was read again; {told}")
        self.tell("READY=1")


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
