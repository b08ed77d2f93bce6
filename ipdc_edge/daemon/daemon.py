"""The daemon: one asyncio loop, one queue of events, one place that calls the core.

Owns the life of a node's process and the rule that a `Save` is durable before any `Send` of the same batch
leaves. Every effect of the core has one line in `_carry_out`. Decides nothing itself.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

import sdnotify

from .. import __version__
from ..apps import built_in
from ..codec.messages import MessageCodec
from ..core import events as e
from ..core.membership import CONNECTIONS
from ..core.node import Node
from ..core.values import NodeRecord, Vitals
from ..drivers import identity
from ..drivers.blocks import BlockStore
from ..drivers.control import ControlServer
from ..drivers.fetcher import Fetcher
from ..drivers.gateway import Gateway
from ..drivers.ledger import Ledger
from ..drivers.mqtt import Mqtt
from ..drivers.runner import RunnerProcess
from ..drivers.vitals import VitalsSampler
from ..errors import IpdcError
from ..home import Home
from ..settings import Settings
from .background import Background
from .results import Results
from .tasks import TaskRunner

GATHER = 0.02  # seconds in which saves gather for one commit; the design allows 0.2
SAMPLE = 5.0  # seconds between two looks at the machine's vitals


class NotDurable(IpdcError):
    """the daemon is broken and ends ({reason}); what was asked of it last may be lost"""

    retry = True


@dataclass(slots=True)
class Batch:
    """The effects of one event, the saves among them, and who waits until they are carried out."""

    saves: list[e.Save]
    effects: list[e.Effect]
    done: asyncio.Future[None] | None = None


class Daemon:
    """One node at work."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings = home, settings
        self.loop = asyncio.get_running_loop()
        self.events: deque[e.Event] = deque()
        self.scheduled = False
        self.batches: deque[Batch] = deque()  # waiting to be durable, in order
        self.saving: asyncio.Task[None] | None = None
        self.background = Background()
        self.timer: asyncio.TimerHandle | None = None
        self.wall = time.time() - time.monotonic()
        self.failed: BaseException | None = None
        self.closing = False
        self.stopped = asyncio.Event()
        self.change: asyncio.Future[None] = self.loop.create_future()  # done after the next event

        os.makedirs(home.identity, mode=0o700, exist_ok=True)
        self.id = identity.load_or_make(home.identity)
        self.ledger = Ledger(home.ledger)
        self.birth = self.ledger.next_birth()
        self.store = BlockStore(home.blocks, settings.quota(home.state))
        self.fetcher = Fetcher(self.store)
        self.vitals = VitalsSampler(home.state)
        self.architectures = {architecture.name: architecture for architecture in built_in()}
        host = settings.listen
        self.address, self.gateway_address = f"{host}:{settings.mqtt_port}", f"{host}:{settings.gateway_port}"
        own = NodeRecord(
            self.id, settings.name, "ready", self.address, self.gateway_address, __version__, tuple(self.architectures),
            settings.slots, RunnerProcess.kind, Vitals(0, 0, self.vitals.cpu_count, 1.0, 0.0, self.vitals.speed, 0),
        )
        saved = self.ledger.unfinished()
        self.node = Node(own, self.birth, SystemRandom(), self.architectures, saved=saved, now=self.now())
        self._release_leftovers({save.key for save in saved if save.kind == "job"})
        self.tasks = TaskRunner(self.id, self.store, self.fetcher, self.architectures, self.emit, home.scratch,
                                settings.slots)
        self.results = Results(home.jobs, self.store, self.fetcher, self.emit, self.now)
        self.gateway = Gateway(self.store, host, settings.gateway_port)
        codec = MessageCodec(
            itertools.chain.from_iterable(a.commands for a in self.architectures.values()),
            itertools.chain.from_iterable(a.reports for a in self.architectures.values()),
        )
        births = itertools.count(self.birth * CONNECTIONS)
        portals = tuple(f"{host}:{port}" for host, port in settings.portals)
        self.mqtt = Mqtt(settings.domain, self.id, self.address, portals, codec, births, settings.keepalive, self.emit,
                         note, self.keep_block)

    def now(self) -> float:
        """Seconds that never go back, close to those since the epoch where the clock was right at the start."""
        return self.wall + time.monotonic()

    def _release_leftovers(self, unfinished: set[str]) -> None:
        """Content of submissions that never came, and of others' jobs, does not outlive a start; own jobs' does."""
        for owner in self.store.owners():
            job, _, master = owner.partition(".")
            if owner != "user" and not (job in unfinished and master in ("", self.id)):
                self._release(self.store.release, owner)

    # -- events in, effects out

    def emit(self, event: e.Event) -> None:
        """Queue an event for the core."""
        self.events.append(event)
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._drain)

    def _drain(self) -> None:
        self.scheduled = False
        if self.failed is not None or self.closing:
            return
        try:
            while self.events:
                self._batch(self.node.handle(self.events.popleft(), self.now()))
            self._moved()
        except BaseException as error:
            self._broken(error)

    def ask(self, event: e.Event) -> list[e.Effect]:
        """Handle one event at once, for a request that needs the outcome; an IpdcError of the core goes to
        the asker."""
        effects = self.node.handle(event, self.now())
        self._batch(effects)
        self._moved()
        return effects

    def _batch(self, effects: list[e.Effect]) -> None:
        """Carry effects out in order; a batch with a save, and whatever comes after it, waits until that is
        durable."""
        saves = [effect for effect in effects if isinstance(effect, e.Save)]
        if not saves and self.saving is None:
            return self._carry_out(effects)
        self.batches.append(Batch(saves, effects))
        if self.saving is None:
            self.saving = self.loop.create_task(self._save())

    async def _save(self) -> None:
        try:
            while self.batches:
                await asyncio.sleep(GATHER)
                group = list(self.batches)
                saves = [save for batch in group for save in batch.saves]
                if saves:
                    await self.ledger.save(saves)
                for batch in group:
                    self.batches.popleft()
                    self._carry_out(batch.effects)
                    if batch.done is not None and not batch.done.done():
                        batch.done.set_result(None)
        except BaseException as error:
            self._broken(error)
        finally:
            self.saving = None

    def _broken(self, error: BaseException) -> None:
        """The core or the ledger is broken: end, loudly; systemd starts us anew from the ledger."""
        if self.failed is None:
            self.failed = error
        self.stopped.set()

    async def durable(self) -> None:
        """Returns when everything handled so far is durable and on its way; NotDurable when it never will be."""
        if self.saving is not None:
            done = self.loop.create_future()
            self.batches.append(Batch([], [], done))
            await asyncio.wait([done, self.saving], return_when=asyncio.FIRST_COMPLETED)
        if self.failed is not None:
            raise NotDurable(reason=f"{type(self.failed).__name__}: {self.failed}")

    def _moved(self) -> None:
        """The core's state may have changed: wake whoever watches, and set the clock for what is due next."""
        if self.timer is not None:
            self.timer.cancel()
        wait = max(0.01, self.node.next_wakeup(self.now()) - self.now())
        self.timer = self.loop.call_later(min(wait, 3600.0), self.emit, e.TimePassed())
        self.change.set_result(None)
        self.change = self.loop.create_future()

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Save():
                    continue
                case e.Send():
                    self.mqtt.send(effect.node, effect.address, effect.message)
                case e.PublishRecord():
                    self.mqtt.publish_record(effect.record)
                case e.WatchRecords():
                    self.mqtt.watch(effect.wanted)
                case e.FetchJob():
                    self.tasks.fetch_job(effect)
                case e.StartTask():
                    self.tasks.start_task(effect)
                case e.StopTask():
                    self.tasks.stop_task(effect)
                case e.FreeJob():
                    self.tasks.free_job(effect)
                case e.FetchPart():
                    self.results.fetch_part(effect)
                case e.KeepLog():
                    self.results.keep_log(effect)
                case e.PublishResult():
                    self.results.publish(effect)
                case e.DiscardResult():
                    self.results.discard(effect)
                    self._release(self.tasks.release_own, effect.job)
                case e.ReleaseJob():
                    self._release(self.results.release, effect.job)
                    self._release(self.tasks.release_own, effect.job)
                case e.Note():
                    note(effect.text)
                case _:
                    raise TypeError(f"nobody carries out {type(effect).__name__}")

    def keep_block(self, cid: str, data: bytes, job: str) -> bool:
        """A command's parameters that are too long for a message: content of the job until it ends. Where
        there is no room for them the job cannot go on."""
        try:
            self.store.put(cid, data, job)
        except (IpdcError, OSError, sqlite3.Error) as error:
            self.emit(e.ResultFailed(job, f"its parameters could not be stored: {error}"[:500]))
            return False
        return True

    def _release(self, release: Callable[[str], None], job: str) -> None:
        """Free what a job held; a disk that refuses even that is no reason to end, the next start frees it."""
        try:
            release(job)
        except (IpdcError, OSError, sqlite3.Error) as error:
            note(f"job {job}: what it held could not be freed yet: {error}")

    # -- its life

    async def run(self, control: ControlServer) -> None:
        """Until SIGTERM, SIGINT, or a bug in the core. Requests come in by `control`."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(signum, self.stopped.set)
        await self.gateway.start()
        await control.start()
        self.mqtt.start()
        self.background.start(self._sample())
        notifier = sdnotify.SystemdNotifier()
        notifier.notify(f"READY=1\nSTATUS={self.settings.name} in domain {self.settings.domain}")
        note(f"node {self.settings.name} ({self.id}) is up: broker {self.address}, gateway {self.gateway_address}")
        await self.stopped.wait()
        notifier.notify("STOPPING=1")
        await control.close()
        await self.background.close()
        await self._say_goodbye()
        await self.tasks.close()
        await self.results.close()
        self.mqtt.close()
        await self.gateway.close()
        await self.fetcher.close()
        self.store.close()
        self.ledger.close()

    async def _say_goodbye(self) -> None:
        """Tell the portals, and let nothing begin any more; a broken core says nothing, the last wills do."""
        if self.failed is None:
            self.ask(e.StopRequested())
        self.closing = True
        if self.timer is not None:
            self.timer.cancel()
        try:
            await self.durable()
        except NotDurable as error:
            note(str(error))

    async def _sample(self) -> None:
        while True:
            try:
                self.emit(e.VitalsMeasured(self.vitals.sample()))
            except OSError as error:  # the disk, most likely: the old vitals stay, and the next look may do better
                note(f"vitals could not be taken: {error}")
            await asyncio.sleep(SAMPLE)


def note(text: str) -> None:
    """A line for the journal."""
    print(text, file=sys.stderr, flush=True)
