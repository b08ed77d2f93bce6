"""The daemon: one asyncio loop, one queue of events, one place that calls the core.

Owns the parts of a node. Every effect of the core has one line in `_carry_out`; when it is its turn, `commits.py` says.
Decides nothing itself; `main.py` has it begin and end.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection
from random import SystemRandom
from typing import TYPE_CHECKING

from .. import __version__
from ..codec.messages import MessageCodec
from ..core import effects as fx
from ..core import events as e
from ..core.master import FINAL
from ..core.membership import CONNECTIONS
from ..core.node import Node
from ..core.values import JobKey, NodeRecord, Vitals
from ..drivers import sandbox, tls
from ..drivers.architectures import architectures, reserved
from ..drivers.block_rows import outlives
from ..drivers.broker_files import credentials
from ..drivers.fetcher import Fetcher
from ..drivers.gateway import HOLDINGS, LEFTOVERS, SWARM_KEY, Gateway
from ..drivers.identity import Identity
from ..drivers.input_cache import InputCache
from ..drivers.ledger import Ledger
from ..drivers.mqtt import Mqtt
from ..drivers.scratch import clear_leftovers
from ..drivers.vitals import VitalsSampler, architecture
from ..errors import IpdcError
from ..home import Home
from ..settings import LOOPBACK, Settings
from .background import Background, note
from .commits import Commits
from .domain import MEMBERS, Domain
from .invitations import Invitations
from .local_inputs import LocalInputs
from .offer import Offer
from .results import Results
from .store import open_store
from .tasks import TaskRunner
from .whereabouts import Whereabouts

if TYPE_CHECKING:
    from .holdings import Holdings
    from .kubo_network import KuboNetwork
    from .leftovers import Leftovers
    from .serving import Serving
    from .tunnels import Tunnels

ANSWERED = 0.1  # seconds in which an answer gets out before the daemon begins anew


class NotDurable(IpdcError):
    """the daemon is broken and ends ({reason}); what was asked of it last may be lost"""

    retry = True


class Daemon:
    """One node at work."""

    def __init__(self, home: Home, settings: Settings, identity: Identity, supervised: bool = False) -> None:
        self.home, self.settings, self.id = home, settings, identity.id
        self.supervised = supervised  # whether somebody starts the broker again when it ends
        self.loop = asyncio.get_running_loop()
        self.events: deque[e.Event] = deque()
        self.scheduled = False
        self.background = Background()
        self.timer: asyncio.TimerHandle | None = None
        self.wall = time.time() - time.monotonic()
        self.failed: BaseException | None = None
        self.closing = False
        self.restarts = False  # whether it ends only to begin anew, in another domain
        self.stopped = asyncio.Event()
        self._leftovers: Leftovers | None = None
        self._holdings: Holdings | None = None
        self._kubo: KuboNetwork | None = None
        self._tunnels: Tunnels | None = None
        self._serving: Serving | None = None
        self.change: asyncio.Future[None] = self.loop.create_future()  # done after the next event

        self.ledger = Ledger(home.ledger)
        self.commits = Commits(self.ledger, self._carry_out, self._broken)
        self.birth = self.ledger.next_birth()
        clear_leftovers(home.scratch)
        self.store = open_store(home, settings)
        client = tls.client_context(identity)
        self.fetcher = Fetcher(self.store, client)
        self.vitals = VitalsSampler(home.state)
        self.architectures = architectures()
        self.sandbox = sandbox.choose(home, settings.sandbox, note)
        self.domain = Domain(identity, home, settings, self.store, self.fetcher, self.background, self.emit,
                             self._cut, self.restart, supervised)
        self.whereabouts = Whereabouts(identity, settings, self.emit)
        self.offer = Offer(self)
        saved = [fx.Save("peer", node, {"mqtt": mqtt, "gateway": gateway})
                 for node, (mqtt, gateway) in identity.peers.items()]
        saved += self.ledger.unfinished()
        self.node = Node(self._record(), self.domain.held, self.birth, SystemRandom(),
                         self.architectures, saved=saved, now=self.now())
        self.invitations = Invitations(home, settings, self.domain, self.node.membership, self.background,
                                       lambda: self.whereabouts.host)
        self._release_leftovers({save.key for save in saved if save.kind == "job"})
        self.inputs = self.fetcher.unfinished = InputCache(
            self.store, settings.cache_limit(self.store.quota), identity.authority[-16:])
        self.domain.keep_list()
        self.tasks = TaskRunner(self.id, settings.name, self.store, self.fetcher, self.architectures, self.emit,
                                settings.slots, self.gateway_of, LocalInputs(settings.local_inputs), self.sandbox,
                                self.inputs)
        self.tasks.tensorflow, self.tasks.tunnels = self.offer.tensorflow, self.tunnels
        self.tasks.serving = self.serving
        self.results = Results(home.jobs, self.store, self.fetcher, self.emit, self.now)
        host = settings.bind(identity.alone)
        self.gateway = Gateway(self.store, host, settings.gateway_port, tls.server_context(identity),
                               self.domain.admits, note,
                               {LEFTOVERS: lambda _: self.leftovers().page(),
                                SWARM_KEY: lambda _: self.kubo().page(),
                                HOLDINGS: lambda query: self.holdings().page(query)})
        self.gateway.prints = lambda job, peer: self.tasks.prints().stream(JobKey(peer, job))
        codec = MessageCodec(*reserved(self.architectures))
        births = itertools.count(self.birth * CONNECTIONS)
        self.mqtt = Mqtt(identity.domain, self.id, f"{LOOPBACK}:{settings.local_port}", self.credentials, client, codec,
                         births, settings.keepalive, self.emit, note, self.domain.flooded, self.domain.broker_began,
                         self.keep_block)
        self.mqtt.serving, self.mqtt.serving_lost = self.serving, self._lost

    def _record(self) -> NodeRecord:
        """What this node says of itself at its start."""
        vitals = Vitals(0, 0, self.vitals.cpu_count, 1.0, 0.0, self.vitals.speed, 0)
        return NodeRecord(self.id, self.settings.name, "ready", self.whereabouts.mqtt, self.whereabouts.gateway,
                          __version__, self.offer.capabilities(), self.settings.slots, self.sandbox.kind, vitals,
                          architecture=architecture(), unable=self.offer.unable())

    def tunnels(self) -> Tunnels:
        """What carries the connections between roles of clusters."""
        if self._tunnels is None:
            from .tunnels import Tunnels  # rarely needed

            self._tunnels = self.gateway.tunnel = Tunnels(
                self.mqtt.context, self.gateway_of, self.domain.admits, self.background)
        return self._tunnels

    def serving(self) -> Serving:
        """What takes requests to served models."""
        if self._serving is None:
            from .serving import Serving  # rarely needed

            self._serving = Serving(self)
        return self._serving

    def served(self) -> tuple[str, ...]:
        """The words of this node's record for the models that it serves."""
        return self._serving.words() if self._serving is not None else ()

    def _lost(self, node: str) -> None:
        if self._serving is not None:
            self._serving.lost(node)

    def _cut(self, nodes: Collection[str]) -> None:
        """Nodes were expelled: end what they have with this one, whoever began it."""
        self.gateway.cut(nodes)
        if self._tunnels is not None:
            self._tunnels.cut(nodes)

    def leftovers(self) -> Leftovers:
        """What looks for what nobody needs here any more."""
        if self._leftovers is None:
            from .leftovers import Leftovers  # rarely needed

            self._leftovers = Leftovers(self)
        return self._leftovers

    def kubo(self) -> KuboNetwork:
        """This node's own Kubo among the others of the domain."""
        if self._kubo is None:
            from .kubo_network import KuboNetwork  # for who has one

            self._kubo = KuboNetwork(self)
        return self._kubo

    def look_at_kubo(self) -> None:
        """This node's own Kubo may have come, gone or changed, where there is one."""
        if self._kubo is not None or os.path.exists(self.home.kubo_mark):
            self.kubo().look()

    def holdings(self) -> Holdings:
        """What tells others which files are here."""
        if self._holdings is None:
            from .holdings import Holdings  # rarely needed

            self._holdings = Holdings(self.fetcher, self.store)
        return self._holdings

    def busy(self) -> bool:
        """Whether any job is here, of this node or of others."""
        return bool(self.node.workers) or any(job.state not in FINAL for job in self.node.masters.values())

    def gateway_of(self, node: str) -> str:
        """Where a node's gateway is, as far as is known; "" else."""
        return self.node.membership.addresses.get(node, ("", ""))[1]

    def credentials(self) -> tuple[str, str]:
        """User and password of this daemon at its own broker."""
        return credentials(self.home)

    def restart(self) -> None:
        """End, only to begin anew with what identity/ holds now; a moment later, so that who asked is answered."""
        self.restarts = True
        self.loop.call_later(ANSWERED, self.stopped.set)

    def now(self) -> float:
        """Seconds that never go back, close to those since the epoch where the clock was right at the start."""
        return self.wall + time.monotonic()

    def _release_leftovers(self, unfinished: set[str]) -> None:
        """Content of submissions that never came, and of others' jobs, does not outlive a start; own jobs' does."""
        for owner in self.store.owners():
            job, _, master = owner.partition(".")
            if owner != MEMBERS and not outlives(owner) and not (job in unfinished and master in ("", self.id)):
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

    def ask(self, event: e.Event) -> list[fx.Effect]:
        """Handle one event at once, for a request that needs the outcome; an IpdcError of the core goes to
        the asker."""
        effects = self.node.handle(event, self.now())
        self._batch(effects)
        self._moved()
        return effects

    def _batch(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Tell):
                self.ledger.stories.tell(effect, self.now())
        self.commits.take(effects)

    def _broken(self, error: BaseException) -> None:
        """The core or the ledger is broken: end, loudly; systemd starts us anew from the ledger."""
        if self.failed is None:
            self.failed = error
        self.stopped.set()

    async def look(self) -> None:
        """Watch the portals, and return when all that they hold has come."""
        self.ask(e.WatchRequested())
        while not self.node.membership.knows_the_domain(self.now()):
            await asyncio.wait([self.change])  # not awaited itself: a client that leaves must not cancel it

    async def durable(self) -> None:
        """Returns when everything handled so far is durable and on its way; NotDurable when it never will be."""
        await self.commits.settled()
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

    def _carry_out(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Save() | fx.Tell():  # written by now, or to be
                    continue
                case fx.Send():
                    self.mqtt.send(effect.node, effect.address, effect.message)
                case fx.PublishRecord():
                    self.mqtt.publish_record(effect.record)
                case fx.WatchRecords():
                    self.mqtt.watch(effect.wanted)
                case fx.KeepPortals():
                    self.mqtt.keep(effect.portals)
                case fx.AdmitMembers():
                    self.mqtt.part(effect.expelled)
                    self.domain.enforce(effect.members, effect.expelled)
                case fx.FetchMembers():
                    self.domain.fetch(effect)
                case fx.ExpelMember():
                    self.background.start(self.domain.expel(effect.node))
                case fx.LeaveDomain():
                    self.domain.left(effect)
                case fx.FetchJob():
                    self.tasks.fetch_job(effect)
                case fx.StartTask():
                    self.tasks.start_task(effect)
                case fx.StopTask():
                    self.tasks.stop_task(effect)
                case fx.FreeJob():
                    self.tasks.free_job(effect)
                case fx.FetchPart():
                    self.results.fetch_part(effect)
                case fx.KeepLog():
                    self.results.keep_log(effect)
                case fx.PublishResult():
                    self.results.publish(effect)
                case fx.DiscardResult():
                    self.results.discard(effect)
                    self._release(self.tasks.release_own, effect.job)
                case fx.ReleaseJob():
                    self._release(self.results.release, effect.job)
                    self._release(self.tasks.release_own, effect.job)
                case fx.Note():
                    note(effect.text)
                case _:
                    raise TypeError(f"nobody carries out {type(effect).__name__}")

    def keep_block(self, cid: str, data: bytes, job: str) -> bool:
        """A command's parameters that are too long for a message: content of the job until it ends. Where
        there is no room for them the job cannot go on."""
        try:
            self.store.put(cid, data, job, on_disk=True)  # a message waits for it
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
