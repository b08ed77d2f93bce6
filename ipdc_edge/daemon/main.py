"""Runs the daemon: the loop, the control socket, the order in which its parts begin and end, and what the process says
at its end.

Owns nothing of the node; `daemon.py` does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
import traceback

from ..core import events as e
from ..core.membership import CONNECTIONS
from ..drivers import broker, identity
from ..drivers.control import ControlServer
from ..drivers.flash import FLASH
from ..home import Home
from ..settings import Settings
from .background import note
from .daemon import Daemon, NotDurable
from .requests import Requests
from .service import Service
from .store import begin

SAMPLE = 5.0  # seconds between two looks at the machine's vitals


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
    await _work(daemon, ControlServer(home.control_socket, Requests(daemon).handle))
    return daemon


async def _work(daemon: Daemon, control: ControlServer) -> None:
    """Until SIGTERM, SIGINT, or a bug in the core. Requests come in by `control`."""
    service, hurry = Service(daemon), asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):  # who asks twice is in a hurry
        daemon.loop.add_signal_handler(signum, lambda: (hurry if daemon.stopped.is_set() else daemon.stopped).set())
    daemon.loop.add_signal_handler(signal.SIGHUP, service.reload)
    await daemon.gateway.start()
    await control.start()
    daemon.background.start(daemon.domain.changed())  # by a command that found no daemon yet and told nobody
    daemon.mqtt.start()
    membership = daemon.node.membership
    for work in (begin(daemon.store), _sample(daemon), daemon.offer.prove(),
                 daemon.whereabouts.look(membership, daemon.mqtt.reconnect),
                 daemon.whereabouts.guess(membership, daemon.mqtt.context)):
        daemon.background.start(work)
    if daemon.domain.identity.restored:
        daemon.background.start(daemon.domain.announce(
            daemon.node.admission, membership,
            lambda message: daemon.mqtt.codec.encode(message, daemon.birth * CONNECTIONS).payload))
    service.ready()
    note(f"node {daemon.settings.name} ({daemon.id}) is up in domain {daemon.domain.members.domain}: "
         f"broker {daemon.whereabouts.mqtt}, gateway {daemon.whereabouts.gateway}")
    await daemon.stopped.wait()
    if daemon.failed is None and not daemon.restarts:
        await service.drain(hurry)
    if daemon.store.kubo is not None:
        daemon.store.kubo.hurry()
    await control.close()
    await daemon.background.close()
    await _say_goodbye(daemon)
    await daemon.tasks.close()
    await daemon.results.close()
    daemon.mqtt.close()
    await daemon.gateway.close()
    await daemon.fetcher.close()
    daemon.store.close()
    daemon.ledger.close()


async def _say_goodbye(daemon: Daemon) -> None:
    """Tell the portals, and let nothing begin any more; a broken core says nothing, the last wills do."""
    if daemon.failed is None:
        daemon.ask(e.StopRequested())
    daemon.closing = True
    if daemon.timer is not None:
        daemon.timer.cancel()
    try:
        await daemon.durable()
    except NotDurable as error:
        note(str(error))


async def _sample(daemon: Daemon) -> None:
    while True:
        try:
            vitals = daemon.vitals.sample()
            daemon.inputs.give_way(vitals.disk_free)
            daemon.emit(e.VitalsMeasured(vitals))
        except OSError as error:  # the disk, most likely: the old vitals stay, and the next look may do better
            note(f"vitals could not be taken: {error}")
        daemon.look_at_kubo()
        FLASH.look(time.monotonic(), daemon.busy())
        await asyncio.sleep(SAMPLE)
