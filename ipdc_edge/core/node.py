"""A node of the domain: the one door of the core.

`handle(event, now) -> [effects]`. Owns the machines of this node (its membership, the jobs it is master of,
the jobs it works for) and hands each event to the one it concerns. Pure: it is told the time, handed its
randomness and its saved state. A message is believed only as far as its sender may speak: commands for a job
from that job's master, reports from those who were given the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random

from .architecture import Architecture, BadSpec
from .events import (
    OWN,
    CancelRequested,
    Effect,
    Event,
    JobFetched,
    JobFetchFailed,
    JobSubmitted,
    MessageReceived,
    PartFetched,
    PartFetchFailed,
    PeerUnreachable,
    PortalLeft,
    RecordsListed,
    ResultFailed,
    ResultPublished,
    Save,
    Send,
    StopRequested,
    TaskFailed,
    TaskFinished,
    TaskProgressed,
    TimePassed,
    VitalsMeasured,
    WatchRequested,
)
from .machine import require
from .master import FINAL, Master
from .membership import WATCH, Membership
from .messages import (
    Accept,
    Cancel,
    CleanUp,
    Command,
    Download,
    Failed,
    FromMaster,
    FromWorker,
    Lost,
    Present,
    Received,
    Refuse,
    Renew,
    Renewed,
    Report,
)
from .placement import MB
from .timing import Timing
from .values import JobKey, JobSpec, NodeRecord, Result
from .worker import Worker

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST_HELD_JOBS = 32  # jobs that a node works for at once; more are refused as busy
MOST_HELD_JOBS_OF_ONE = 12  # of one master, so that nobody can occupy a node alone


class Node:
    """The state of one node. `own` says who it is; `birth` rises with every start; `saved` is what its ledger
    holds."""

    def __init__(
        self, own: NodeRecord, birth: int, random: Random, architectures: Mapping[str, Architecture],
        timing: Timing | None = None, saved: Iterable[Save] = (), now: float = 0.0,
    ) -> None:
        self.id, self.birth, self.random = own.id, birth, random
        self.architectures = architectures
        self.timing = timing or Timing()
        self.membership = Membership(own)
        self.masters: dict[str, Master] = {}
        self.workers: dict[JobKey, Worker] = {}
        self.effects: list[Effect] = []
        self.handled = 0
        self._turn = 0  # whose turn it is to start a task, among the jobs held
        self._restore(saved, now)
        self._handlers: dict[type, Callable[..., None]] = {
            MessageReceived: self._message_received, RecordsListed: self._records_listed, PortalLeft: self._portal_left,
            PeerUnreachable: self._peer_unreachable, VitalsMeasured: self._vitals_measured,
            WatchRequested: self._watch_requested, StopRequested: self._stop_requested,
            JobSubmitted: self._job_submitted,
            CancelRequested: self._cancel_requested,
            JobFetched: self._job_fetched, JobFetchFailed: self._job_fetch_failed,
            TaskProgressed: self._task_progressed, TaskFinished: self._task_finished, TaskFailed: self._task_failed,
            PartFetched: self._part_fetched, PartFetchFailed: self._part_fetch_failed,
            ResultPublished: self._result_published, ResultFailed: self._result_failed, TimePassed: self._time_passed,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event; the effects in the order in which they should be carried out, each with its cause."""
        self.handled += 1
        self._handlers[type(event)](event, now)
        for master in list(self.masters.values()):
            self._take(master)
        self._start_tasks()
        self._take(self.membership)
        effects, self.effects = self.effects, []
        cause = f"{self.birth}.{self.handled}"
        for effect in effects:
            object.__setattr__(effect, "cause", cause)  # frozen for everybody else; set once, here
        return effects

    def _take(self, machine: Master | Worker | Membership) -> None:
        if machine.effects:
            self.effects += machine.effects
            machine.effects = []

    def _start_tasks(self) -> None:
        """Fill this node's slots with queued attempts, its jobs taking turns."""
        room = self.membership.own.slots - sum(worker.running for worker in self.workers.values())
        while room > 0:
            jobs = list(self.workers.values())
            order = [jobs[(self._turn + n) % len(jobs)] for n in range(len(jobs))]
            found = next(((w, t) for w in order if (t := w.next_queued()) is not None), None)
            if found is None:
                break
            worker, task = found
            self._turn = (jobs.index(worker) + 1) % len(jobs)
            worker.start(task)
            room -= 1
        for key, worker in list(self.workers.items()):
            self._take(worker)
            if worker.state == "freed":
                del self.workers[key]

    # -- this node as a master

    def _job_submitted(self, event: JobSubmitted, now: float) -> None:
        architecture = self.architectures.get(event.spec.app)
        if architecture is None:
            raise BadSpec(reason=f"no architecture '{event.spec.app}' here (there are {', '.join(self.architectures)})")
        architecture.check(event.spec)
        while True:
            job = event.utc + "-" + "".join(LETTERS[int(self.random.random() * 26)] for _ in range(4))
            if job not in self.masters:
                break
        master = Master(job, event.spec, architecture, self.membership, self.timing, self.birth, now)
        self.masters[job] = master
        master.accept(event.utc)
        self.membership.watch(now + WATCH, now)
        master.recruit(now)

    def _cancel_requested(self, event: CancelRequested, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].cancel(now)

    def _part_fetched(self, event: PartFetched, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].part_fetched(event.task, event.cid, now)

    def _part_fetch_failed(self, event: PartFetchFailed, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].part_failed(event.task, event.cid, event.reason, now)

    def _result_published(self, event: ResultPublished, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].result_published(now)

    def _result_failed(self, event: ResultFailed, now: float) -> None:
        if event.job in self.masters:
            self.masters[event.job].fail(event.reason, now)

    # -- this node as a worker

    def _job_fetched(self, event: JobFetched, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].fetched(event.spec, now)

    def _job_fetch_failed(self, event: JobFetchFailed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].fetch_failed(event.reason)

    def _task_progressed(self, event: TaskProgressed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].progressed(event.attempt, event.bytes_done)

    def _task_finished(self, event: TaskFinished, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].finished(event.attempt, event.result)

    def _task_failed(self, event: TaskFailed, now: float) -> None:
        if event.key in self.workers:
            self.workers[event.key].finished(event.attempt, event.failure)

    def _offered(self, sender: str, offer: Download, now: float) -> None:
        key = JobKey(sender, offer.job)
        self.membership.learn(sender, offer.address, offer.gateway)
        own = self.membership.own
        if key in self.workers:
            self.workers[key].offered_again(offer, now)
            return
        reason = ""
        if own.state != "ready":
            reason = f"is {own.state}"
        elif offer.app not in own.capabilities:
            reason = f"cannot do {offer.app}"
        elif own.vitals.memory_available < offer.memory:
            reason = f"memory: {own.vitals.memory_available // MB} MB available, the job needs {offer.memory // MB} MB"
        elif len(self.workers) >= MOST_HELD_JOBS:
            reason = f"busy: holds {len(self.workers)} jobs"
        elif sum(held.master == sender for held in self.workers) >= MOST_HELD_JOBS_OF_ONE:
            reason = f"busy: holds {MOST_HELD_JOBS_OF_ONE} jobs of yours"
        if reason:
            self.effects.append(Send(sender, offer.address, Refuse(offer.job, reason)))
            return
        self.workers[key] = Worker(key, offer, (own.mqtt, own.gateway), own.slots, self.timing, now)

    def _from_master(self, sender: str, message: FromMaster, now: float) -> None:
        """A message about a job of the sender's: nobody else can speak about it, since the sender is part of
        its key."""
        if isinstance(message, Download):
            self._offered(sender, message, now)
            return
        worker = self.workers.get(JobKey(sender, message.job))
        if worker is None:
            if isinstance(message, Command) and sender in self.membership.addresses:
                self._send(sender, Refuse(message.job, "does not know the job"))
        elif isinstance(message, Command):
            architecture = self.architectures[worker.offer.app]
            if message.channel in architecture.commands and message.report in architecture.reports:
                worker.commanded(message, now)
        elif isinstance(message, Received):
            worker.received(message.attempt, now)
        elif isinstance(message, Renewed):
            worker.renewed(message, now)
        else:
            worker.free()

    def _from_worker(self, sender: str, message: FromWorker, now: float) -> None:
        """A message about a job of this node's."""
        if isinstance(message, Accept):
            self.membership.learn(sender, message.address, message.gateway)
        master = self.masters.get(message.job)
        if master is None:
            if not isinstance(message, Refuse):
                self._send(sender, CleanUp(message.job))
        elif isinstance(message, Accept):
            master.accepted(sender, message, now)
        elif isinstance(message, Refuse):
            master.refused(sender, message, now)
        elif isinstance(message, Renew):
            master.renew(sender, message, now)
        elif isinstance(message, Report):
            if message.result.node == sender:
                master.report(sender, message, now)
        else:
            master.failed(sender, message, now)

    def _send(self, node: str, message: FromMaster | FromWorker) -> None:
        address = self.membership.addresses.get(node)
        if address is not None:
            self.effects.append(Send(node, address[0], message))

    # -- the domain

    def _message_received(self, event: MessageReceived, now: float) -> None:
        message = event.message
        if isinstance(message, Present):
            if message.record.id == event.sender:
                self.membership.record_heard(event.broker, event.birth, message.record)
                self._recruit(now)
        elif isinstance(message, Lost):
            self.membership.loss_heard(event.broker, event.birth, event.sender)
            if event.broker == OWN and not self.membership.is_stale(event.sender, event.birth):
                self._peer_lost(event.sender, now)
        elif event.broker == OWN:
            if self.membership.peer_spoke(event.sender, event.birth):
                for master in self.masters.values():
                    master.worker_restarted(event.sender, now)
            if isinstance(message, (Download, Command, Received, Renewed, Cancel, CleanUp)):
                self._from_master(event.sender, message, now)
            elif isinstance(message, (Accept, Refuse, Report, Failed, Renew)):
                self._from_worker(event.sender, message, now)

    def _peer_lost(self, node: str, now: float) -> None:
        for master in self.masters.values():
            master.lost(node, now)

    def _peer_unreachable(self, event: PeerUnreachable, now: float) -> None:
        self._peer_lost(event.node, now)

    def _records_listed(self, event: RecordsListed, now: float) -> None:
        self.membership.listed = self.membership.listed or not event.outstanding
        self._recruit(now)

    def _recruit(self, now: float) -> None:
        """The picture of the domain changed: jobs without any worker look again at once."""
        for master in self.masters.values():
            if master.state == "queued":
                master.recruit(now)

    def _portal_left(self, event: PortalLeft, now: float) -> None:
        self.membership.portal_left(event.portal)

    def _vitals_measured(self, event: VitalsMeasured, now: float) -> None:
        self.membership.measured(event.vitals, now)

    def _watch_requested(self, event: WatchRequested, now: float) -> None:
        self.membership.watch(now + WATCH, now)

    def _stop_requested(self, event: StopRequested, now: float) -> None:
        self.membership.set_state("gone", now)

    # -- time

    def _time_passed(self, event: TimePassed, now: float) -> None:
        self.membership.tick(now)
        for job, master in list(self.masters.items()):
            master.tick(now)
            if master.state in FINAL and now >= master.ended + self.timing.clean:
                self._take(master)
                del self.masters[job]
        for worker in self.workers.values():
            if now >= worker.next_wakeup():
                worker.tick(now)

    def next_wakeup(self, now: float) -> float:
        """When TimePassed has something to do next."""
        due = [self.membership.next_wakeup(now)]
        due += [worker.next_wakeup() for worker in self.workers.values()]
        for master in self.masters.values():
            due.append(master.ended + self.timing.clean if master.state in FINAL else master.next_wakeup())
        return min(due)

    # -- saved state

    def _restore(self, saved: Iterable[Save], now: float) -> None:
        """Take up the jobs that the ledger says have not ended."""
        jobs: dict[str, Save] = {}
        workers: dict[str, dict[str, object]] = {}
        results: dict[str, dict[str, Result]] = {}
        for save in saved:
            job, _, rest = save.key.partition("/")
            if save.kind == "job":
                jobs[job] = save
            elif save.kind == "worker":
                workers.setdefault(job, {})[rest] = save.value
            elif save.kind == "task":
                value = save.value
                result = Result(str(value["node"]), str(value["output"]), int(value["size"]), value["details"])
                results.setdefault(job, {})[rest] = result
            elif save.kind == "ended":
                jobs.pop(job, None)
        for job, save in jobs.items():
            spec = spec_of(str(save.value["cid"]), save.value["body"])
            architecture = self.architectures[spec.app]
            master = Master(job, spec, architecture, self.membership, self.timing, self.birth, now)
            self.masters[job] = master
            master.restore(float(save.value["submitted"]), workers.get(job, {}), results.get(job, {}))  # type: ignore[arg-type]

    def check(self) -> None:
        """Every invariant of the node."""
        self.membership.check()
        for master in self.masters.values():
            master.check()
        for key, worker in self.workers.items():
            require(worker.key == key, f"held job {worker.key} is filed under {key}")
            worker.check()
        running = sum(worker.running for worker in self.workers.values())
        require(running <= self.membership.own.slots, f"{running} attempts run in {self.membership.own.slots} slots")
        require(not self.effects, "effects were left behind")


def spec_of(cid: str, body: object) -> JobSpec:
    """Read what the core needs from a job's description; BadSpec names the field that is not as it must be."""
    if not isinstance(body, dict):
        raise BadSpec(reason="not a JSON object")
    if body.get("version") != 1:
        raise BadSpec(reason=f"version {body.get('version')!r}; this node reads version 1")
    app, workers, memory = body.get("app"), body.get("workers"), body.get("memory")
    if not isinstance(app, str):
        raise BadSpec(reason=f"app {app!r} is not a name")
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= 10_000:
        raise BadSpec(reason=f"workers {workers!r} is not a number from 1 to 10000")
    if not isinstance(memory, int) or isinstance(memory, bool) or not 1 <= memory <= 1 << 40:
        raise BadSpec(reason=f"memory {memory!r} is not a number of bytes")
    return JobSpec(cid, app, workers, memory, body)
