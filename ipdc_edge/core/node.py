"""A node of the domain: the one door of the core.

`handle(event, now) -> [effects]`. Owns the machines of this node (its membership, the jobs it is master of,
the jobs it works for) and hands each event to the one it concerns. Pure: it is told the time, handed its
randomness and its saved state. A message is believed only as far as its sender may speak: commands for a job
from that job's master, reports from those who were given the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random

from . import effects as fx
from . import events as e
from . import messages as m
from .admission import Admission
from .architecture import Architecture, BadSpec
from .life import FINAL
from .machine import require
from .master import Master
from .membership import WATCH, Membership
from .queue import engaged_beside, freed, queued
from .saved import runnable, sort
from .timing import Timing
from .turns import Turns
from .values import HeldList, JobKey, NodeRecord
from .worker import MOST_BESIDE, Worker, refusal

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Node:
    """The state of one node. `own` says who it is; `held` who else is in the domain; `birth` rises with every start;
    `saved` is what its ledger holds."""

    def __init__(
        self, own: NodeRecord, held: HeldList, birth: int, random: Random,
        architectures: Mapping[str, Architecture], timing: Timing | None = None, saved: Iterable[fx.Save] = (),
        now: float = 0.0,
    ) -> None:
        self.id, self.birth, self.random = own.id, birth, random
        self.architectures = architectures
        self.timing = timing or Timing()
        self.membership = Membership(replace(own, members=held.members.version), held.members)
        self.admission = Admission(self.membership, held, now)
        self.masters: dict[str, Master] = {}
        self.workers: dict[JobKey, Worker] = {}
        self.effects: list[fx.Effect] = []
        self.handled = 0
        self.turns = Turns()
        self._restore(saved, now)
        self._handlers: dict[type, Callable[..., None]] = {
            e.MessageReceived: self._message_received, e.RecordsListed: self._records_listed,
            e.PortalJoined: self._portal_joined, e.PortalLeft: self._portal_left, e.PeerFound: self._peer_found,
            e.PeerUnreachable: self._peer_unreachable, e.OwnAddressChanged: self._own_address_changed,
            e.MembersAdopted: self._members_adopted, e.LeaveRequested: self._leave_requested,
            e.VitalsMeasured: self._vitals_measured, e.WatchRequested: self._watch_requested,
            e.DrainRequested: self._drain_requested, e.ResumeRequested: self._resume_requested,
            e.SettingsChanged: self._settings_changed, e.StopRequested: self._stop_requested,
            e.TimePassed: self._time_passed,
            e.JobSubmitted: self._job_submitted, e.CancelRequested: self._cancel_requested,
            e.PartFetched: self._part_fetched, e.PartFetchFailed: self._part_fetch_failed,
            e.ResultPublished: self._result_published, e.ResultFailed: self._result_failed,
            e.JobFetched: self._job_fetched, e.JobFetchFailed: self._job_fetch_failed,
            e.TaskProgressed: self._task_progressed, e.TaskFinished: self._task_finished,
            e.TaskFailed: self._task_failed,
        }

    def handle(self, event: e.Event, now: float) -> list[fx.Effect]:
        """Take in one event; the effects in the order in which they should be carried out, each with its cause."""
        self.handled += 1
        self._handlers[type(event)](event, now)
        for master in list(self.masters.values()):
            self._take(master)
        self._offer_next(now)
        self._start_tasks()
        self._take(self.membership)
        self._take(self.admission)
        effects, self.effects = self.effects, []
        cause = f"{self.birth}.{self.handled}"
        for effect in effects:
            object.__setattr__(effect, "cause", cause)  # frozen for everybody else; set once, here
        return effects

    def _take(self, machine: Master | Worker | Membership | Admission) -> None:
        if machine.effects:
            self.effects += machine.effects
            machine.effects = []

    def _start_tasks(self) -> None:
        """Fill this node's slots with queued attempts."""
        for worker in self.workers.values():
            while worker.beside and worker.running < MOST_BESIDE and (waiting := worker.next_queued()) is not None:
                worker.start(waiting)
        slotted = [worker for worker in self.workers.values() if not worker.beside]
        room = self.membership.own.slots - sum(worker.running for worker in slotted)
        while room > 0 and (found := self.turns.next(slotted)) is not None:
            worker, task = found
            worker.start(task)
            room -= 1
        for key, worker in list(self.workers.items()):
            self._take(worker)
            if worker.state == "freed":
                del self.workers[key]
                self.turns.forget(key)

    # -- this node as a master

    def _job_submitted(self, event: e.JobSubmitted, now: float) -> None:
        architecture = self.architectures.get(event.spec.app)
        if architecture is None:
            raise BadSpec(reason=f"no architecture '{event.spec.app}' here (there are {', '.join(self.architectures)})")
        architecture.check(event.spec)
        while True:
            job = event.utc + "-" + "".join(LETTERS[int(self.random.random() * 26)] for _ in range(4))
            if job not in self.masters:
                break
        master = Master(job, event.spec, architecture, self.membership, self.timing, self.birth, now,
                        engaged_beside(self.masters, job))
        self.masters[job] = master
        master.accept(event.utc)
        self.membership.watch(now + WATCH, now)
        master.recruit(now)

    def _offer_next(self, now: float) -> None:
        """A job has ended, so its workers have room: the first of those that wait for any is offered to them anew."""
        ended = freed(self.masters)
        for master in queued(self.masters)[:ended] if ended else ():
            master.retry(now)
            self._take(master)

    def _cancel_requested(self, event: e.CancelRequested, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].cancel(now)

    def _part_fetched(self, event: e.PartFetched, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].part_fetched(event.task, event.cid, now)

    def _part_fetch_failed(self, event: e.PartFetchFailed, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].part_failed(event.task, event.cid, event.reason, now)

    def _result_published(self, event: e.ResultPublished, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].result_published(now)

    def _result_failed(self, event: e.ResultFailed, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].fail(event.reason, now)

    # -- this node as a worker

    def _job_fetched(self, event: e.JobFetched, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].fetched(event.spec, event.held, now)

    def _job_fetch_failed(self, event: e.JobFetchFailed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].fetch_failed(event.reason)

    def _task_progressed(self, event: e.TaskProgressed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].progressed(event.attempt, event.bytes_done, event.status)

    def _task_finished(self, event: e.TaskFinished, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].finished(event.attempt, event.result)

    def _task_failed(self, event: e.TaskFailed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].finished(event.attempt, event.failure)

    def _offered(self, sender: str, offer: m.Download, now: float) -> None:
        key = JobKey(sender, offer.job)
        self.membership.learn(sender, offer.address, offer.gateway)
        if key in self.workers:
            self.workers[key].offered_again(offer, now)
            return
        reason = refusal(self.membership.own, sender, offer, self.workers)
        if reason:
            self.effects.append(fx.Send(sender, offer.address, m.Refuse(offer.job, reason)))
            return
        kind = self.architectures[offer.app]
        self.workers[key] = Worker(key, offer, self.membership, self.timing, now, kind.cluster or kind.lasts,
                                   kind.lasts)

    def _from_master(self, sender: str, message: m.FromMaster, now: float) -> None:
        """A message about a job of the sender's: nobody else can speak about it, since the sender is part of
        its key."""
        if isinstance(message, m.Download):
            self._offered(sender, message, now)
            return
        worker = self.workers.get(JobKey(sender, message.job))
        if worker is None:
            if isinstance(message, m.Command) and sender in self.membership.addresses:
                self._send(sender, m.Refuse(message.job, "does not know the job"))
        elif isinstance(message, m.Command):
            architecture = self.architectures[worker.offer.app]
            if message.channel in architecture.commands and message.report in architecture.reports:
                worker.commanded(message, now)
        elif isinstance(message, m.Received):
            worker.received(message.attempt, now)
        elif isinstance(message, m.Renewed):
            worker.renewed(message, now)
        else:
            worker.free()

    def _from_worker(self, sender: str, message: m.FromWorker, now: float) -> None:
        """A message about a job of this node's."""
        if isinstance(message, m.Accept):
            self.membership.learn(sender, message.address, message.gateway)
        master = self.masters.get(message.job)
        if master is None:
            if not isinstance(message, m.Refuse):
                self._send(sender, m.CleanUp(message.job))
        elif isinstance(message, m.Accept):
            master.accepted(sender, message, now)
        elif isinstance(message, m.Refuse):
            master.refused(sender, message, now)
        elif isinstance(message, m.Renew):
            master.renew(sender, message, now)
        elif isinstance(message, m.Report):
            if message.result.node == sender:
                master.report(sender, message, now)
        else:
            master.failed(sender, message, now)

    def _send(self, node: str, message: m.FromMaster | m.FromWorker) -> None:
        address = self.membership.addresses.get(node)
        if address is not None:
            self.effects.append(fx.Send(node, address[0], message))

    # -- the domain

    def _message_received(self, event: e.MessageReceived, now: float) -> None:
        message, sender = event.message, event.sender
        if not self.admission.admits(sender):  # expelled, and not yet cut off; or no node at all
            if sender == self.admission.members.authority and event.broker == e.OWN and isinstance(message, m.Members):
                self.admission.authority_told(message)
            return
        if isinstance(message, m.Present):
            if message.record.id == sender:
                self.membership.record_heard(event.broker, event.birth, message.record)
                if event.broker == e.OWN and sender != self.id:
                    self.admission.record_heard(message.record)
                self._recruit(now)
        elif isinstance(message, m.Lost):
            self.membership.loss_heard(event.broker, event.birth, sender)
            if event.broker == e.OWN and not self.membership.is_stale(sender, event.birth):
                self._peer_lost(sender, now)
        elif event.broker == e.OWN:
            if self.membership.peer_spoke(sender, event.birth):
                for master in self.masters.values():
                    master.worker_began(sender, self.membership.starts[sender], now)
            if isinstance(message, (m.Download, m.Command, m.Received, m.Renewed, m.Cancel, m.CleanUp)):
                self._from_master(sender, message, now)
            elif isinstance(message, (m.Accept, m.Refuse, m.Report, m.Failed, m.Renew)):
                self._from_worker(sender, message, now)
            elif isinstance(message, m.Members):
                self.admission.told(sender, message)
            elif isinstance(message, m.Ask):
                self.membership.learn(sender, message.address, message.gateway)
                self.effects.append(fx.Send(sender, message.address, m.Present(self.membership.own)))
            elif isinstance(message, m.Leave):
                self.admission.left(sender)

    def _members_adopted(self, event: e.MembersAdopted, now: float) -> None:
        """A newer member list: who was expelled works for nobody here, and nobody here for them."""
        for node in self.admission.adopt(event.held, now):
            self._peer_lost(node, now)
            for key, worker in self.workers.items():
                if key.master == node:
                    worker.free()

    def _leave_requested(self, event: e.LeaveRequested, now: float) -> None:
        if not self.admission.leave():
            self.effects.append(fx.Note("no node is known that holds the authority's key: expel this one there"))

    def _own_address_changed(self, event: e.OwnAddressChanged, now: float) -> None:
        partners = [key.master for key in self.workers]
        for master in self.masters.values():
            partners += master.workers()
        self.membership.moved(event.mqtt, event.gateway, partners, now)

    def _peer_lost(self, node: str, now: float) -> None:
        for master in self.masters.values():
            master.lost(node, now)

    def _peer_unreachable(self, event: e.PeerUnreachable, now: float) -> None:
        self.membership.unreachable(event.node)
        self._peer_lost(event.node, now)

    def _peer_found(self, event: e.PeerFound, now: float) -> None:
        if self.admission.admits(event.node):
            self.membership.found(event.node, event.address)

    def _records_listed(self, event: e.RecordsListed, now: float) -> None:
        self.membership.listed = self.membership.listed or not event.outstanding
        self._recruit(now)

    def _recruit(self, now: float) -> None:
        """The picture of the domain changed: jobs without any worker look again at once."""
        for master in queued(self.masters):
            master.recruit(now)

    def _portal_joined(self, event: e.PortalJoined, now: float) -> None:
        self.membership.portal_joined(event.portal)

    def _portal_left(self, event: e.PortalLeft, now: float) -> None:
        self.membership.portal_left(event.portal)

    def _vitals_measured(self, event: e.VitalsMeasured, now: float) -> None:
        self.membership.measured(event.vitals, now)

    def _watch_requested(self, event: e.WatchRequested, now: float) -> None:
        self.membership.watch(now + WATCH, now)

    def _drain_requested(self, event: e.DrainRequested, now: float) -> None:
        if event.lasting:
            self.effects.append(fx.Save("node", "node", {"draining": True}))
        self.membership.set_state("draining", now)
        for worker in self.workers.values():
            worker.drain()

    def _resume_requested(self, event: e.ResumeRequested, now: float) -> None:
        self.effects.append(fx.Save("node", "node", {"draining": False}))
        self.membership.set_state("ready", now)
        for worker in self.workers.values():
            worker.tell_slots()

    def _settings_changed(self, event: e.SettingsChanged, now: float) -> None:
        self.membership.offer(event.capabilities, event.slots, event.unable, now)
        for worker in self.workers.values():
            worker.tell_slots()

    def _stop_requested(self, event: e.StopRequested, now: float) -> None:
        for worker in self.workers.values():
            worker.hand_back()
        self.membership.set_state("gone", now)

    def idle(self) -> bool:
        """Whether nothing runs here for others or for itself, and every report has been heard."""
        return not any(worker.tasks for worker in self.workers.values())

    # -- time

    def _time_passed(self, event: e.TimePassed, now: float) -> None:
        self.membership.tick(now)
        self.admission.tick(now)
        for job, master in list(self.masters.items()):
            master.tick(now)
            if master.state in FINAL and now >= master.life.ended + self.timing.clean:
                self._take(master)
                del self.masters[job]
        for worker in self.workers.values():
            if now >= worker.next_wakeup():
                worker.tick(now)

    def next_wakeup(self, now: float) -> float:
        """When TimePassed has something to do next."""
        due = [self.membership.next_wakeup(now), self.admission.next_wakeup()]
        due += [worker.next_wakeup() for worker in self.workers.values()]
        for master in self.masters.values():
            due.append(master.life.ended + self.timing.clean if master.state in FINAL else master.next_wakeup())
        return min(due)

    # -- saved state

    def _restore(self, saved: Iterable[fx.Save], now: float) -> None:
        """Take up the jobs that the ledger says have not ended."""
        found = sort(saved)
        if found.draining:
            self.membership.begin_as("draining")
        for node, (mqtt, gateway) in found.peers.items():
            if self.admission.admits(node):
                self.membership.remember(node, mqtt, gateway)
        self.membership.keep_portals()
        jobs, waiting = runnable(found.jobs, self.architectures)
        self.effects += [fx.Note(why) for why in waiting]
        for job, (spec, architecture) in jobs.items():
            master = Master(job, spec, architecture, self.membership, self.timing, self.birth, now,
                            engaged_beside(self.masters, job))
            self.masters[job] = master
            master.restore(float(found.jobs[job]["submitted"]), found.workers.get(job, {}), found.results.get(job, {}))

    def check(self) -> None:
        """Every invariant of the node."""
        self.membership.check()
        self.admission.check()
        for master in self.masters.values():
            master.check()
        for key, worker in self.workers.items():
            require(worker.key == key, f"held job {worker.key} is filed under {key}")
            worker.check()
            require(worker.running <= MOST_BESIDE or not worker.beside, f"{worker.running} attempts run beside others")
        running = sum(worker.running for worker in self.workers.values() if not worker.beside)
        require(running <= self.membership.own.slots, f"{running} attempts run in {self.membership.own.slots} slots")
        require(not self.effects, "effects were left behind")
