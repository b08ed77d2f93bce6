"""One job as its master sees it: whom it is offered to, who holds which lease, what is committed, how it
ends.

Owns the job machine. Its ledger is the truth: leases are given by it and run out by its clock, the first
committed result of a task wins, later ones are acknowledged and dropped. Everything it sends may be lost or
doubled: offers and commands are sent again until they are seen, and workers send their reports until they are
`received`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .architecture import Architecture
from .events import DiscardResult, Effect, FetchPart, KeepLog, Note, PublishResult, ReleaseJob, Save, Send
from .leases import Leases
from .machine import Transitions, follow, require
from .membership import Membership
from .messages import (
    Accept,
    Cancel,
    CleanUp,
    Command,
    Download,
    Failed,
    FromMaster,
    Received,
    Refuse,
    Renew,
    Renewed,
    Report,
)
from .participant import Participant, Participants
from .tasks import Tasks, TaskState
from .timing import Timing
from .values import Attempt, Failure, JobSpec, Json, Result
from .views import failure_view, saved_result, task_views

JOB: Transitions = {
    ("queued", "start"): "running",  # the first worker accepted
    ("running", "collect"): "collecting",  # every task is committed; parts are on their way
    ("collecting", "lose"): "running",  # a part could not be had: its task waits again
    ("collecting", "publish"): "publishing",
    ("publishing", "finish"): "succeeded",
    ("queued", "fail"): "failed",
    ("running", "fail"): "failed",
    ("collecting", "fail"): "failed",
    ("publishing", "fail"): "failed",
    ("queued", "cancel"): "cancelled",
    ("running", "cancel"): "cancelled",
    ("collecting", "cancel"): "cancelled",
}
PUBLIC = {"collecting": "running", "publishing": "running"}  # what people are told of the state
FINAL = ("succeeded", "failed", "cancelled")
MOST_FAILURES = 4  # attempts at one task that may fail before the job does
MOST_FETCH_FAILURES = 12  # times that one task may miss content before the job fails


class Master:
    """The job machine. Methods change state and append to `effects`; `Node` takes those away."""

    def __init__(
        self, job: str, spec: JobSpec, architecture: Architecture, membership: Membership, timing: Timing,
        birth: int, now: float,
    ) -> None:
        self.job, self.spec, self.architecture = job, spec, architecture
        self.membership, self.timing = membership, timing
        self.state = "queued"
        self.tasks = Tasks(architecture.plan(spec))
        self.participants = Participants(job, spec, membership, timing, now)
        self.leases = Leases(self.tasks, self.participants, birth)
        self.parts: dict[str, str] = {}  # final tasks whose output is here -> its CID
        self.failure: dict[str, object] | None = None
        self.error: str | None = None
        self.effects: list[Effect] = []
        self.submitted, self.started, self.ended = now, 0.0, 0.0

    # -- its life

    def accept(self, utc: str) -> None:
        """The job is new: make it durable before anybody hears of it."""
        body = {"cid": self.spec.cid, "body": self.spec.body, "submitted": self.submitted, "utc": utc}
        self.effects.append(Save("job", self.job, body))

    def restore(self, submitted: float, workers: Mapping[str, Json], committed: Mapping[str, Result]) -> None:
        """After a restart: take up what the ledger holds; the workers will say what they hold."""
        self.submitted = submitted
        for node, worker in workers.items():
            self.participants.restore(node, str(worker["name"]), int(worker["slots"]))
            self.membership.learn(node, str(worker["address"]), str(worker["gateway"]))
        for task, result in committed.items():
            if task in self.tasks.states:
                self.tasks.commit(task, result, 0.0)
                self._fetch_if_final(self.tasks.states[task], result)
        if committed or workers:
            self._step("start")
            self.started = submitted
            self._collect_when_done()

    def _step(self, word: str) -> None:
        self.state = follow("job", JOB, self.state, word, self.job)

    def cancel(self, now: float) -> None:
        """The owner wants it no more."""
        if self.state in ("queued", "running", "collecting"):
            self._end("cancel", "cancelled by its owner", now)

    def fail(self, reason: str, now: float) -> None:
        """The job cannot succeed."""
        if self.state not in FINAL:
            self._end("fail", reason, now)

    def _end(self, word: str, reason: str, now: float) -> None:
        self._step(word)
        self.error, self.ended = reason, now
        for participant in self.participants:
            self._send(participant.node, Cancel(self.job, reason[:200]))
            self.leases.take_back_all(participant)
        self.effects.append(Save("ended", self.job, self.view()))
        self.effects.append(DiscardResult(self.job, self.view()))

    def result_published(self, now: float) -> None:
        """The parts are in place: the job has succeeded, and its workers may forget it."""
        if self.state != "publishing":
            return
        self._step("finish")
        self.ended = now
        self.effects.append(Save("ended", self.job, self.view()))
        for participant in self.participants:
            self._send(participant.node, CleanUp(self.job))
        self.effects.append(ReleaseJob(self.job))

    # -- workers

    def recruit(self, now: float) -> None:
        """Offer the job to the best nodes that are not in it yet, until it has as many as it wants."""
        if self.state in ("queued", "running") and self.tasks.ready_count():
            for participant in self.participants.recruit(now):
                self._offer(participant)

    def _offer(self, participant: Participant) -> None:
        own, spec = self.membership.own, self.spec
        self._send(participant.node, Download(self.job, spec.cid, spec.app, spec.memory, own.mqtt, own.gateway))

    def accepted(self, node: str, message: Accept, now: float) -> None:
        """A worker takes the job."""
        participant = self.participants.get(node)
        if participant is None or self.state in FINAL:
            return self._send(node, CleanUp(self.job))
        self.participants.accept(participant, message.slots, now)
        self._works(participant, now)
        self.lease(now)

    def _works(self, participant: Participant, now: float) -> None:
        """It is our worker: after a restart only those who were given the job may say what they hold of it."""
        if not participant.saved:
            participant.saved = True
            address, gateway = self.membership.addresses[participant.node]
            known = {"name": participant.name, "slots": participant.slots, "address": address, "gateway": gateway}
            self.effects.append(Save("worker", f"{self.job}/{participant.node}", known))
        if self.state == "queued":
            self._step("start")
            self.started = now

    def refused(self, node: str, message: Refuse, now: float) -> None:
        """A node does not take the job, or has forgotten it."""
        before = self.participants.get(node)
        had = before is not None and before.state in ("working", "lost")
        participant = None if self.state in FINAL else self.participants.refuse(node, message.reason, now)
        if participant is not None:
            self._left(participant, had, now)

    def worker_restarted(self, node: str, now: float) -> None:
        """A node started anew: what it held and what it had made of the job is gone."""
        participant = None if self.state in FINAL else self.participants.restarted(node)
        if participant is not None:
            self._left(participant, True, now)

    def _left(self, participant: Participant, had: bool, now: float) -> None:
        self.leases.take_back_all(participant)
        if had and self.state == "running":
            for ident in self.leases.lose_outputs_of(participant.node):
                self.effects.append(Note(f"job {self.job}: {ident} is done again, {participant.name} lost it"))
        self.recruit(now)
        self.lease(now)

    def lost(self, node: str, now: float) -> None:
        """The worker's connection broke."""
        self.participants.connection_broke(node, now)

    def renew(self, node: str, message: Renew, now: float) -> None:
        """A worker says what it holds: its leases begin anew, what it missed is sent again."""
        participant = None if self.state in FINAL else self.participants.renew(node, now)
        if participant is None:
            return self._send(node, CleanUp(self.job))
        self._works(participant, now)
        drop = self.leases.renew(participant, message.held, now)
        for attempt in self.leases.unseen(participant, {h.attempt for h in message.held}, now, self.timing.resend):
            self._command(node, self.tasks.states[participant.held[attempt]], attempt)
        self._send(node, Renewed(self.job, drop))
        self.lease(now)

    # -- tasks

    def lease(self, now: float) -> None:
        """Give ready tasks to workers with room."""
        if self.state == "running":
            for participant, task, attempt in self.leases.give(now):
                self._command(participant.node, task, attempt)

    def _command(self, node: str, task: TaskState, attempt: Attempt) -> None:
        require(self.tasks.is_ready(task.task.id), f"{task.task.id} is ordered before all that it needs is committed")
        params = dict(self.architecture.params(self.spec, task.task, self.tasks.results, self.membership.own.id))
        params["gateways"] = {
            provider: self.membership.addresses[provider][1]
            for provider in params.get("providers", ())
            if provider in self.membership.addresses
        }
        self._send(node, Command(self.job, task.task.command, task.task.id, attempt, task.task.report, params))

    def report(self, node: str, message: Report, now: float) -> None:
        """A worker finished an attempt; the first result of a task is committed."""
        task = self._issued(node, message.task, message.attempt)
        if task is None:
            return
        if task.state != "committed" and (self.state != "running" or message.channel != task.task.report):
            return  # not taken, so not acknowledged: it comes again
        self._send(node, Received(self.job, message.task, message.attempt))
        if task.state != "committed":
            result = message.result
            self.leases.commit(node, task, message.attempt, result, now)
            self.effects.append(Save("task", f"{self.job}/{message.task}", saved_result(result)))
            log = str(result.details.get("log") or "")
            if log:
                gateway = self.membership.addresses.get(node, ("", ""))[1]
                self.effects.append(KeepLog(self.job, message.task, message.attempt, "", log, gateway))
            self._fetch_if_final(task, result)
            self._collect_when_done()
        self.lease(now)

    def _issued(self, node: str, ident: str, attempt: Attempt) -> TaskState | None:
        """The task if this attempt was this node's, else None: reports are taken from the holder of the lease
        only."""
        task = self.tasks.states.get(ident)
        if task is None or self.participants.get(node) is None or self.state in FINAL:
            self._send(node, CleanUp(self.job))
            return None
        return task if self.leases.may_speak(node, task, attempt) else None

    def _fetch_if_final(self, task: TaskState, result: Result) -> None:
        if task.task.final:
            gateway = self.membership.addresses.get(result.node, ("", ""))[1]
            self.effects.append(FetchPart(self.job, task.task.id, task.task.index, result.output, result.size, gateway))

    def failed(self, node: str, message: Failed, now: float) -> None:
        """A worker's attempt came to nothing: try again elsewhere, or give the job up."""
        task = self._issued(node, message.task, message.attempt)
        if task is None:
            return
        self._send(node, Received(self.job, message.task, message.attempt))
        if message.attempt not in task.leases:
            return  # told before, or not wanted any more
        ordered = task.leases[message.attempt].sent
        self.leases.take_back(self.participants.by_node[node], message.attempt)
        failure = message.failure
        if failure.kind == "fetch":
            task.fetch_failures += 1
            self._lose_output(failure.cid, ordered)
            count, most = task.fetch_failures, MOST_FETCH_FAILURES
        elif failure.kind == "dropped":
            return self.lease(now)  # it had been given up, and says nothing of the task
        else:
            task.failures += 1
            task.failed_on[node] = task.failed_on.get(node, 0) + 1
            count, most = task.failures, MOST_FAILURES
        self._keep_failure(node, message.task, message.attempt, failure)
        if count >= most:
            name = self.participants.by_node[node].name
            self.fail(f"{message.task} failed {count} times, last on {name}: {failure.message}", now)
        self.lease(now)

    def _keep_failure(self, node: str, task: str, attempt: Attempt, failure: Failure) -> None:
        self.failure, text = failure_view(task, node, self.participants.by_node[node].name, failure)
        self.effects.append(KeepLog(self.job, task, attempt, text))

    def _lose_output(self, cid: str, ordered: float) -> None:
        for ident in self.leases.lose_output(cid, ordered):
            self.parts.pop(ident, None)
        if self.state == "collecting" and self.tasks.stage() is not None:
            self._step("lose")

    # -- the result

    def _collect_when_done(self) -> None:
        if self.state == "running" and self.tasks.stage() is None:
            self._step("collect")
            self._publish_when_complete()

    def part_fetched(self, task: str, cid: str, now: float) -> None:
        """A part of the result is here."""
        state = self.tasks.states.get(task)
        if state is None or state.result is None or state.result.output != cid or self.state in FINAL:
            return
        self.parts[task] = cid
        self._publish_when_complete()

    def part_failed(self, task: str, cid: str, reason: str, now: float) -> None:
        """A part could not be had: its task waits again."""
        state = self.tasks.states.get(task)
        if state is None or state.result is None or state.result.output != cid:
            return
        if self.state not in ("running", "collecting"):
            return  # publishing: every part is here already
        self.effects.append(Note(f"job {self.job}: part of {task} could not be fetched ({reason}): done again"))
        state.fetch_failures += 1
        state.failed_on[state.result.node] = state.failed_on.get(state.result.node, 0) + 1
        if state.fetch_failures >= MOST_FETCH_FAILURES:
            return self.fail(f"part of {task} could not be fetched {state.fetch_failures} times, last: {reason}", now)
        self._lose_output(cid, now)
        self.recruit(now)
        self.lease(now)

    def _publish_when_complete(self) -> None:
        if self.state == "collecting" and all(
            ident in self.parts for ident, task in self.tasks.states.items() if task.task.final
        ):
            self._step("publish")
            self.effects.append(PublishResult(self.job, {**self.view(), "tasks": task_views(self.tasks.results)}))

    # -- time, and what people see

    def tick(self, now: float) -> None:
        """Do what is due: offers again, leases that ran out, more workers."""
        if self.state in FINAL:
            return
        for participant in self.participants.to_remind(now):
            self._offer(participant)
        for participant in self.participants.run_out(now):
            self.effects.append(Note(f"job {self.job}: worker {participant.name} is lost, its leases move on"))
            self.leases.take_back_all(participant)
        if now >= self.participants.recruit_at:
            self.participants.recruit_at = now + self.timing.replace
            self.recruit(now)
        self.lease(now)

    def next_wakeup(self) -> float:
        """When `tick` has something to do next."""
        return float("inf") if self.state in FINAL else self.participants.next_wakeup()

    def _send(self, node: str, message: FromMaster) -> None:
        address = self.membership.addresses.get(node)
        if address is not None:
            self.effects.append(Send(node, address[0], message))

    def view(self) -> dict[str, object]:
        """The job as `status --json` shows it; times are the node's seconds since the epoch, 0 for what has
        not come."""
        return {
            "id": self.job,
            "state": PUBLIC.get(self.state, self.state),
            "phase": self.state,
            "app": self.spec.app,
            "workers": self.spec.workers,
            **self.architecture.view(self.spec, self.tasks.progress()),
            "error": self.error,
            "failure": self.failure,
            "submitted": self.submitted,
            "started": self.started,
            "ended": self.ended,
            "bytes_done": self.tasks.bytes_done(),
            **self.participants.view(),
        }

    def check(self) -> None:
        """The invariants of the job."""
        self.leases.check()
        require(self.state not in ("collecting", "publishing", "succeeded") or self.tasks.stage() is None,
                f"job {self.job} is {self.state} with uncommitted tasks")
