"""One job as a worker holds it, and each attempt at a task as its runner's node sees it.

Owns the machines of a held job and of its attempts. A worker goes on with what it holds while the master is
away, keeps every report until the master has `received` it, and frees the job on `clean-up`, `cancel`, or
when the master stays silent too long.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .effects import Effect, FetchJob, FreeJob, Note, Send, StartTask, StopTask
from .machine import BrokenInvariant, Transitions, follow, require
from .membership import Membership
from .messages import Accept, Command, Download, Failed, FromWorker, Held, Refuse, Renew, Renewed, Report
from .placement import MB
from .timing import Timing
from .values import BEHIND, Attempt, Failure, InputRange, JobKey, JobSpec, Json, NodeRecord, Result

MOST_HELD_JOBS = 32  # jobs that a node works for at once; more are refused as busy
MOST_HELD_JOBS_OF_ONE = 12  # of one master, so that nobody can occupy a node alone
MOST_BESIDE = 20  # tasks at once of a job whose tasks take no slots; fewer are told where memory is for fewer
MOST_STATUS = 1000  # characters of the user's code in one renewal, of up to six bytes each
MOST_OPEN = 150  # attempts held for one job; as many as a renewal can name
MOST_CLOSED = 30_000  # attempts of one job that are remembered as over: three for each task that a job may have
HELD_JOB: Transitions = {
    ("fetching", "fetch"): "ready",
    ("fetching", "fail"): "freed",
    ("fetching", "free"): "freed",
    ("ready", "free"): "freed",
}
HELD_TASK: Transitions = {
    ("queued", "start"): "running",
    ("running", "finish"): "reporting",
    ("running", "fail"): "reporting",
    ("reporting", "receive"): "done",
    ("queued", "drop"): "dropped",
    ("running", "drop"): "dropped",
    ("reporting", "drop"): "dropped",
}


def refusal(own: NodeRecord, master: str, offer: Download, held: Collection[JobKey]) -> str:
    """Why a node that holds these jobs does not take another; "" when it does."""
    if own.state != "ready":
        return f"is {own.state}"
    if offer.app not in own.capabilities:
        return f"cannot do {offer.app}"
    if own.vitals.memory_available < offer.memory:
        return f"memory: {own.vitals.memory_available // MB} MB available, the job needs {offer.memory // MB} MB"
    if len(held) >= MOST_HELD_JOBS:
        return f"busy: holds {len(held)} jobs"
    if sum(key.master == master for key in held) >= MOST_HELD_JOBS_OF_ONE:
        return f"busy: holds {MOST_HELD_JOBS_OF_ONE} jobs of yours"
    return ""


@dataclass(slots=True)
class HeldTask:
    """An attempt that this node was told to work on, and its outcome until the master has it."""

    attempt: Attempt
    command: Command
    state: str = "queued"
    bytes_done: int = 0
    status: str = ""
    outcome: Result | Failure | None = None

    def step(self, word: str) -> None:
        """Follow the table."""
        self.state = follow("attempt", HELD_TASK, self.state, word, f"{self.command.task} {self.attempt}")


class Worker:
    """One job of one master on this node. Methods change state and append to `effects`; `Node` takes those away."""

    def __init__(
        self, key: JobKey, offer: Download, membership: Membership, timing: Timing, now: float, beside: bool = False,
        moves: bool = False,
    ) -> None:
        """beside: whether its tasks take no slots, but run beside all others, at once; moves: whether it takes one of
        them, and gives it back where the node drains, for it would not end."""
        self.key, self.offer, self.membership, self.timing, self.beside = key, offer, membership, timing, beside
        self.moves = moves
        self.state = "fetching"
        self.tasks: dict[Attempt, HeldTask] = {}  # open ones
        self.closed: dict[Attempt, None] = {}  # done or dropped: never to be begun again
        self.queued: dict[Attempt, None] = {}  # in the order of starting
        self.running = 0
        self.effects: list[Effect] = [FetchJob(key, offer.cid, offer.gateway)]
        self.heard = now  # when the master last said anything about this job
        self.renew_at = now + timing.renew
        self.held: tuple[InputRange, ...] = ()  # of the job's inputs, when it was taken

    def _step(self, word: str) -> None:
        self.state = follow("held job", HELD_JOB, self.state, word, f"{self.key.job} of {self.key.master}")

    def _send(self, message: FromWorker) -> None:
        address = self.membership.addresses.get(self.key.master, (self.offer.address, ""))[0]  # it may have moved
        self.effects.append(Send(self.key.master, address, message))

    # -- the offer

    def offered_again(self, offer: Download, now: float) -> None:
        """The offer was doubled, or the master restarted and may have moved: answer as before."""
        if (offer.cid, offer.app, offer.memory) != (self.offer.cid, self.offer.app, self.offer.memory):
            return  # another job under the same id: not ours to judge
        self.offer, self.heard = offer, now
        if self.state == "ready":
            self._accept()

    def fetched(self, spec: JobSpec, held: tuple[InputRange, ...], now: float) -> None:
        """The job's description is here, and so much of its inputs: take the job."""
        if self.state != "fetching":
            return
        if (spec.app, spec.memory) != (self.offer.app, self.offer.memory):
            return self.fetch_failed("the job's description is not what was offered")
        self._step("fetch")
        self.held = held
        self.renew_at = now + self.timing.renew
        self._accept()

    def _accept(self) -> None:
        own = self.membership.own
        slots = (self._beside() if self.beside else own.slots) if own.state == "ready" else 0
        self._send(Accept(self.key.job, slots, own.mqtt, own.gateway, self.held))

    def _beside(self) -> int:
        """How many tasks that take no slots: as many as memory is for. One at least, or the job had been refused."""
        if self.moves:
            return 1
        room = self.membership.own.vitals.memory_available // max(1, self.offer.memory)
        return max(1, min(MOST_BESIDE, self.running + room))

    def tell_slots(self) -> None:
        """How many tasks at once this node takes has changed."""
        if self.state == "ready":
            self._accept()

    def drain(self) -> None:
        """Take no more, and give back what has not begun, or would not end."""
        self.tell_slots()
        for attempt in list(self.tasks if self.moves else self.queued):
            self._give_back(self.tasks[attempt])

    def _give_back(self, task: HeldTask) -> None:
        if task.outcome is not None:
            return  # it has ended, and the master is told until it has heard
        self._stop(task)
        task.step("drop")
        self._close(task.attempt)
        self._given_up(task.command)

    def hand_back(self) -> None:
        """This node stops: the master need not wait until the leases have run out. A job of this node's own goes on
        from the ledger."""
        if self.key.master != self.membership.own.id:
            self._send(Refuse(self.key.job, "stops"))

    def _given_up(self, command: Command) -> None:
        self._send(Failed(self.key.job, command.task, command.attempt,
                          Failure("dropped", "the attempt had been given up")))

    def fetch_failed(self, reason: str) -> None:
        """The description cannot be had or understood."""
        if self.state == "fetching":
            self._send(Refuse(self.key.job, reason[:200]))
            self.free("fail")

    def free(self, word: str = "free") -> None:
        """The job is over for this node."""
        self._step(word)
        for task in self.tasks.values():
            self._stop(task)
        self.tasks.clear()
        self.effects.append(FreeJob(self.key))

    def _close(self, attempt: Attempt) -> None:
        """What an attempt was about is not needed any more, only that it was."""
        del self.tasks[attempt]
        self.closed[attempt] = None

    def _stop(self, task: HeldTask) -> None:
        self.queued.pop(task.attempt, None)
        if task.state == "running":
            self.running -= 1
            self.effects.append(StopTask(self.key, task.attempt))

    # -- attempts

    def commanded(self, command: Command, now: float) -> None:
        """The master orders an attempt; a second order for the same one changes nothing, but repeats a report."""
        self.heard = now
        if self.state != "ready":
            return  # the order overtook the offer's answer; the master will send it again
        held = self.tasks.get(command.attempt)
        if command.attempt in self.closed:  # the master took it up again by a late renewal of ours
            return self._given_up(command)
        if held is None:
            if self.membership.own.state != "ready":  # the master had not heard of it yet
                self._accept()
                return self._given_up(command)
            if len(self.tasks) >= MOST_OPEN:
                return  # no master leases so many to one worker
            if len(self.closed) >= MOST_CLOSED:
                self._send(Refuse(self.key.job, f"has had {MOST_CLOSED} attempts of this job"))
                return self.free()
            if self.moves:  # a place of a job is enough: where its lease had run out, the new order counts
                if max(self.tasks, default=command.attempt) > command.attempt:
                    return self._given_up(command)
                for task in list(self.tasks.values()):
                    self._give_back(task)
            self.tasks[command.attempt] = HeldTask(command.attempt, command)
            self.queued[command.attempt] = None
        elif held.outcome is not None:
            self._report(held)

    def next_queued(self) -> HeldTask | None:
        """The attempt to start next."""
        return next((self.tasks[attempt] for attempt in self.queued), None)

    def start(self, task: HeldTask) -> None:
        """A slot is free: run it."""
        task.step("start")
        del self.queued[task.attempt]
        self.running += 1
        self.effects.append(StartTask(self.key, task.command.task, task.attempt, task.command.params))

    def progressed(self, attempt: Attempt, bytes_done: int, status: str) -> None:
        """The runner got on."""
        task = self.tasks.get(attempt)
        if task is not None and task.state == "running":
            task.bytes_done, task.status = bytes_done, status or task.status

    def finished(self, attempt: Attempt, outcome: Result | Failure) -> None:
        """The runner is done with an attempt, one way or the other; one that was dropped meanwhile is ignored."""
        task = self.tasks.get(attempt)
        if task is None or task.state != "running":
            return
        task.step("finish" if isinstance(outcome, Result) else "fail")
        self.running -= 1
        task.outcome = outcome
        self._report(task)

    def _report(self, task: HeldTask) -> None:
        job, name = self.key.job, task.command.task
        if isinstance(task.outcome, Result):
            self._send(Report(job, task.command.report, name, task.attempt, task.outcome))
        elif task.outcome is not None:
            self._send(Failed(job, name, task.attempt, task.outcome))

    def received(self, attempt: Attempt, now: float) -> None:
        """The master has the report."""
        self.heard = now
        task = self.tasks.get(attempt)
        if task is not None and task.state == "reporting":
            task.step("receive")
            self._close(attempt)

    def renewed(self, message: Renewed, now: float) -> None:
        """The master heard our renewal and names what it does not want any more."""
        self.heard = now
        for attempt in message.drop:
            task = self.tasks.get(attempt)
            if task is not None:
                self._stop(task)
                task.step("drop")
                self._close(attempt)

    # -- time

    def tick(self, now: float) -> None:
        """Do what is due: renew, report again, or give up on a master that is silent for good."""
        if now >= self.heard + self.timing.orphan:
            self.effects.append(Note(f"job {self.key.job}: its master {self.key.master} is silent; freed"))
            self.free()
        elif self.state == "ready" and now >= self.renew_at:
            self.renew_at = now + self.timing.renew
            self._send(Renew(self.key.job, self._held()))
            for task in list(self.tasks.values()):
                self._report(task)

    def _held(self) -> tuple[Held, ...]:
        """All open attempts, with as many words of the user's code as fit into the message beside them."""
        held, room = [], MOST_STATUS
        for task in self.tasks.values():
            said = {"running": task.status, "queued": BEHIND}.get(task.state, "")
            status = said if len(said) <= room else ""
            room -= len(status)
            held.append(Held(task.command.task, task.attempt, task.bytes_done, status))
        return tuple(held)

    def next_wakeup(self) -> float:
        """When `tick` has something to do next."""
        if self.state == "freed":
            return float("inf")
        return min(self.renew_at if self.state == "ready" else float("inf"), self.heard + self.timing.orphan)

    def view(self) -> Json:
        """What `doctor` and tests see of a held job."""
        states: dict[str, int] = {}
        for task in self.tasks.values():
            states[task.state] = states.get(task.state, 0) + 1
        return {"job": self.key.job, "master": self.key.master, "state": self.state, "attempts": states}

    def check(self) -> None:
        """The invariants of a held job."""
        require(self.state != "freed" or not self.tasks, f"freed job {self.key} holds {len(self.tasks)} attempts")
        running = sum(task.state == "running" for task in self.tasks.values())
        require(running == self.running, f"{running} attempts run, {self.running} counted")
        for attempt, task in self.tasks.items():
            if (task.state == "queued") != (attempt in self.queued) or task.attempt != attempt:
                raise BrokenInvariant(f"attempt {attempt} is {task.state} and in the queue, or queued and not in it")
            if (task.outcome is not None) != (task.state == "reporting") or attempt in self.closed:
                raise BrokenInvariant(f"attempt {attempt} is {task.state} with outcome {task.outcome}")
