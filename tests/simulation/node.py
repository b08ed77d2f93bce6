"""One node of the world: the daemon's own core, and what stands in for everything that the daemon has around it.

Owns the effects: each is carried out by the `do_` method of its name as the daemon does it, in the order that `disk`
allows, with the same answers when the network, the disk or the runner does not do what was asked. Content has owners as
the block store has, so that whatever is left over at the end of a job is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core.admission import AUTHORITY
from ipdc_edge.core.architecture import spec_of
from ipdc_edge.core.machine import require
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.messages import Command, Received
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import HeldList, InputRange, JobKey, Member, MemberList, NodeRecord, Vitals
from tests.simulation.connections import NO_ROOM, Connections
from tests.simulation.disk import Disk
from tests.simulation.network import Broker, Link
from tests.simulation.runners import Runners

if TYPE_CHECKING:
    from tests.simulation.world import World

MB = 1024 * 1024
ARCHITECTURES = {"mapreduce": MapReduce()}
FULL_PAUSE = 2.0  # between two tries of what a full disk refuses
GOODBYE = 1.0  # seconds that a daemon takes to end
PARTING = 5.0  # seconds in which an expelled node may still be told that it is


class SimNode:
    """A node, up or not. Everything that a crash takes is made anew by `start`."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.speed = 0.25 + world.random.random()
        self.slots = world.slots
        self.slowed = 1.0  # by a fault: how many times slower
        self.id, self.address, self.gateway = world.ids[number], f"sim:{number}", f"gate:{number}"
        self.clock = world.clock()  # seconds that its clock is ahead of the world's
        self.members, self.members_cid = world.members, world.list_cid(world.members)  # durable, as a file is
        self.lists: dict[str, MemberList] = {self.members_cid: self.members}
        self.content: dict[str, tuple[Any, dict[str, None]]] = {}  # durable: CID -> (what it is, its owners)
        self.disk = Disk(world.random, self.after, self.carry_out, self._durable)
        for other in range(world.portal_count):  # told when it joined
            told = {"mqtt": f"sim:{other}", "gateway": f"gate:{other}"}
            self.disk.rows["peer", world.ids[other]] = fx.Save("peer", world.ids[other], told)
        self.kept: dict[str, dict[tuple[int, int], None]] = {}  # durable: of inputs, by CID
        self.broker = Broker(self)
        self.left = ""  # why it is in the domain no more
        self.up = self.dark = False  # dark: without power, so that nothing answers at its address
        self.births = self.lives = 0
        self.forget()
        self.boot(None)

    def forget(self) -> None:
        """What only the process knew."""
        self.connections = Connections(self)
        self.runners = Runners(self)
        self.fetching: dict[tuple[str, str], None] = {}  # parts under way, (job, task)
        self.wake = float("inf")

    # -- its life

    @property
    def now(self) -> float:
        """What its own clock shows."""
        return self.world.now + self.clock

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self.world.after(seconds, call, *arguments)

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Unless the process has ended by then."""
        self.world.after(seconds, self._later, self.lives, call, arguments)

    def _later(self, life: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self.up and self.lives == life:
            call(*arguments)

    def start(self) -> None:
        """Boot from what is durable; on a full disk that is tried again, as systemd does."""
        if self.up or self.left:
            return
        if self.disk.full:
            return self.after(5.0, self.start)
        self.boot(Random(self.world.random.random()))

    def boot(self, random: Random | None) -> None:
        self.births = (self.births // CONNECTIONS + 1) * CONNECTIONS
        self.lives += 1
        self.up, self.dark, self.broker.up = True, False, True
        vitals = self._vitals()
        record = NodeRecord(
            self.id, f"n{self.number}", "ready", self.address, self.gateway, "0", self.capabilities(), self.slots,
            "none", vitals
        )
        saved = self.disk.unfinished()
        jobs = {save.key for save in saved if save.kind == "job"}
        for owner in {owner: None for _, owners in self.content.values() for owner in owners}:
            job, _, master = owner.partition(".")
            if not (job in jobs and master in ("", self.id)):
                self.release(owner)
        self.node = Node(
            record, HeldList(self.members, self.members_cid), self.births // CONNECTIONS,
            random or Random(self.world.random.random()), ARCHITECTURES, saved=saved, now=self.now,
        )
        self.handle(e.VitalsMeasured(vitals))
        if self.world.sample:
            self.later(self.world.sample * self.world.random.random(), self._sample)

    def _vitals(self) -> Vitals:
        random = self.world.random
        available = int((100 + 300 * random.random()) * MB)
        return Vitals(512 * MB, available, 4, random.random(), 0.5, self.speed / self.slowed, 10**9)

    def _sample(self) -> None:
        self.handle(e.VitalsMeasured(self._vitals()))
        self.later(self.world.sample, self._sample)

    def capabilities(self) -> tuple[str, ...]:
        return ("mapreduce", AUTHORITY) if self.number == 0 else ("mapreduce",)

    def crash(self, power: bool = True) -> None:
        """Lose all that was not durable: with the power the broker goes too, and nobody is told; a killed process'
        connections are closed by its kernel."""
        if not self.up:
            return
        self.up, self.dark = False, power
        self.disk.crash()
        links, broker = list(self.connections.links.values()), self.broker
        self.forget()
        for link in links:
            seconds = self.world.between((10.0, 15.0)) if power else 0.05
            self.after(seconds, self.world.network.end_session, link)
        if power:
            self.stop_broker(self.world.between((10.0, 15.0)))
            broker.up = False

    def stop(self) -> None:
        """End as systemd ends a daemon: say goodbye, hand back what runs, close connections without a will."""
        self.handle(e.StopRequested())
        self.later(GOODBYE, self._stop)

    def _stop(self) -> None:
        for link in self.connections.links.values():
            self.world.network.end_session(link, will=False)
        self.connections.links.clear()
        self.crash(False)

    def stop_broker(self, noticed: float) -> None:
        """The broker's process ends; who was connected sees that after so many seconds."""
        for link in list(self.broker.sessions.values()):
            self.after(noticed, link.source.broke, link)
        self.broker.restart()
        self.broker.up = False

    def broke(self, link: Link) -> None:
        """This side of a connection sees that it is gone."""
        self.connections.broke(link)

    def _durable(self, save: fx.Save) -> None:
        self.world.durable(self, save)

    # -- the one door

    def handle(self, event: e.Event) -> None:
        """Through the one door, then carry the effects out as soon as they may be."""
        if not self.up:
            return
        world = self.world
        effects = self.node.handle(event, self.now)
        world.observe(self, event, effects)
        if world.steps % world.check_every == 0:
            self.node.check()
        if effects:
            self.disk.batch(effects)
        due = self.node.next_wakeup(self.now) - self.clock
        if due < self.wake:
            self.wake = due
            self.after(max(0.001, due - world.now), self._woken, due)

    def _woken(self, due: float) -> None:
        if self.wake == due:
            self.wake = float("inf")
            self.handle(e.TimePassed())
            left = self.node.next_wakeup(self.now)
            require(left > self.now, f"n{self.number} is woken at {self.now}, and what was due at {left} is due still")

    def jump(self, seconds: float) -> None:
        """Somebody set the clock."""
        self.clock += seconds
        if self.up:
            self.wake = float("inf")
            self.later(0.001, self.handle, e.TimePassed())

    def carry_out(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            getattr(self, "do_" + type(effect).__name__)(effect)

    # -- messages and records

    def do_Send(self, effect: fx.Send) -> None:
        if isinstance(effect.message, (Received, Command)):
            self.world.promised(self, effect.node, effect.message)
        self.connections.send(self.world.by_address[effect.address].id, effect.message)

    def do_KeepPortals(self, effect: fx.KeepPortals) -> None:
        self.connections.keep(effect.portals)

    def do_PublishRecord(self, effect: fx.PublishRecord) -> None:
        self.connections.publish(effect.record)

    def do_WatchRecords(self, effect: fx.WatchRecords) -> None:
        self.connections.watch(effect.wanted)

    # -- the member list

    def sign(self, change: Callable[[MemberList], tuple[Member, ...]]) -> None:
        """As the authority: a new list, verified and durable here; later, if this node is not up."""
        if not self.up or self.disk.full:
            return self.after(1.0, self.sign, change)
        now = self.members
        members = change(now)
        if members != now.members:
            self.adopt(replace(now, version=now.version + 1, members=members))

    def adopt(self, members: MemberList) -> None:
        """Keep a list that is newer than ours, and tell the core."""
        if members.version > self.members.version and not self.disk.full:
            self.members, self.members_cid = members, self.world.list_cid(members)
            self.lists = {self.members_cid: members}
            self.handle(e.MembersAdopted(HeldList(members, self.members_cid)))
            masters = {key.master for key in self.node.workers} - {self.id}
            strangers = sorted(master for master in masters if members.member(master) is None)
            require(not strangers, f"n{self.number} works for {strangers}, who are no members")

    def do_AdmitMembers(self, effect: fx.AdmitMembers) -> None:
        for node in effect.expelled:
            self.broker.records.pop(node, None)
            self.broker.wills.pop(node, None)
            session = self.broker.sessions.get(node)
            if session is not None:
                self.after(0.0, self._end, session)
            link = self.connections.links.get(node)
            if link is not None:
                self.later(PARTING, self.connections.part, link)

    def _end(self, session: Link) -> None:
        """An expelled node's connection is thrown out."""
        self.world.network.end_session(session)
        session.source.broke(session)

    def do_FetchMembers(self, effect: fx.FetchMembers) -> None:
        holder = self.world.by_gateway.get(effect.gateway)
        if holder is not None and holder.up and self.world.network.passes(self.id, holder.id):
            members = holder.lists.get(effect.cid)  # packed in the message, or from the gateway
            if members is not None:
                self.later(0.2, self.adopt, members)

    def do_ExpelMember(self, effect: fx.ExpelMember) -> None:
        self.after(0.1, self.sign, lambda now: tuple(m for m in now.members if m.id != effect.node))

    def do_LeaveDomain(self, effect: fx.LeaveDomain) -> None:
        """It begins anew, alone: for the others it is gone."""
        self.left = effect.reason
        self.later(0.1, self.crash, False)

    # -- content

    def keep(self, cid: str, what: Any, owner: str) -> None:
        """Content of this node, as long as somebody owns it."""
        held = self.content.get(cid)
        self.content[cid] = (what, {**(held[1] if held else {}), owner: None})

    def release(self, owner: str) -> None:
        for cid, (_, owners) in list(self.content.items()):
            owners.pop(owner, None)
            if not owners:
                del self.content[cid]

    def fetch(self, gateway: str, cid: str) -> Any:
        """Content from a node's gateway; None when it cannot be had there."""
        holder = self.world.by_gateway.get(gateway)
        if holder is None or not holder.up or not self.world.network.passes(self.id, holder.id):
            return None
        if holder.members.member(self.id) is None or cid not in holder.content:
            return None
        return holder.content[cid][0]

    def gateway_of(self, node: str) -> str:
        return self.node.membership.addresses.get(node, ("", ""))[1]

    # -- a worker

    def do_FetchJob(self, effect: fx.FetchJob) -> None:
        self.later(self.world.between((0.02, 0.3)), self._fetch_job, effect)

    def _fetch_job(self, effect: fx.FetchJob) -> None:
        held = self.node.workers.get(effect.key)
        if held is None or held.state != "fetching":
            return
        body = self.fetch(self.gateway_of(effect.key.master), effect.cid)
        if body is None or self.disk.full:
            reason = NO_ROOM if body is not None else "it cannot be had"
            self.later(self.world.between((0.1, 4.0)), self.handle, e.JobFetchFailed(effect.key, reason))
        else:
            self.handle(e.JobFetched(effect.key, spec_of(effect.cid, body), self._held(body, effect.key.master)))

    def _held(self, body: Any, master: str) -> tuple[InputRange, ...]:
        """What it says it has of a job's inputs: what it has, or anything."""
        chance, item = self.world.random, body["inputs"][0]
        if self.world.keeps and master == self.id:
            return (InputRange(0, 0, item["size"]),)
        if not self.world.boast or chance.random() >= self.world.boast:
            kept = self.kept.get(item["cid"], ()) if self.world.keeps else ()
            return tuple(InputRange(0, start, end) for start, end in kept)
        size = item["size"]
        starts = [int(chance.random() * size) for _ in range(1 + int(chance.random() * 8))]
        return tuple(InputRange(0, at, at + 1 + int(chance.random() * size / 4)) for at in starts)

    def do_StartTask(self, effect: fx.StartTask) -> None:
        self.runners.start(effect)

    def do_StopTask(self, effect: fx.StopTask) -> None:
        self.runners.stop(effect.key, effect.attempt)

    def do_FreeJob(self, effect: fx.FreeJob) -> None:
        self.runners.free(effect.key)
        self._free(effect.key)

    def _free(self, key: JobKey) -> None:
        if self.disk.full:
            self.later(FULL_PAUSE, self._free, key)
        elif key not in self.node.workers:
            self.release(f"{key.job}.{key.master}")

    # -- a master

    def do_FetchPart(self, effect: fx.FetchPart) -> None:
        self.fetching[effect.job, effect.task] = None
        self.later(self.world.between((0.02, 0.5)), self._fetch_part, effect)

    def _fetch_part(self, effect: fx.FetchPart) -> None:
        if (effect.job, effect.task) not in self.fetching:
            return
        made = self.fetch(effect.gateway, effect.cid)
        if self.disk.full:
            self.handle(e.ResultFailed(effect.job, f"jobs/{effect.job}: {NO_ROOM}"))
        elif made is None:
            failed = e.PartFetchFailed(effect.job, effect.task, effect.cid, "it cannot be had")
            self.later(self.world.between((0.1, 4.0)), self.handle, failed)
        else:
            self.world.parts.setdefault(effect.job, {})[effect.index] = made["output"]
            self.handle(e.PartFetched(effect.job, effect.task, effect.cid))

    def do_PublishResult(self, effect: fx.PublishResult) -> None:
        self.later(self.world.between((0.02, 0.3)), self._publish, effect.job)

    def _publish(self, job: str) -> None:
        if self.disk.full:
            return self.handle(e.ResultFailed(job, f"jobs/{job}: {NO_ROOM}"))
        self.world.published(job)
        self.handle(e.ResultPublished(job))

    def _end_job(self, job: str) -> None:
        """What the master held for a job: input, description, parameters; and what it made for itself."""
        for place in [place for place in self.fetching if place[0] == job]:
            del self.fetching[place]
        self.release(job)
        self._free(JobKey(self.id, job))

    def do_DiscardResult(self, effect: fx.DiscardResult) -> None:
        self.world.parts.pop(effect.job, None)
        self._end_job(effect.job)

    def do_ReleaseJob(self, effect: fx.ReleaseJob) -> None:
        self._end_job(effect.job)

    def do_Save(self, effect: fx.Save) -> None:
        """It was made durable before."""

    def do_KeepLog(self, effect: fx.KeepLog) -> None: ...
    def do_Note(self, effect: fx.Note) -> None: ...
    def do_Tell(self, effect: fx.Tell) -> None: ...
