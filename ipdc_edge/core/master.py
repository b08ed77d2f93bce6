"""One job as its master sees it: whom it is offered to, who holds which lease, what is committed, how it ends.

Owns the job machine. Its ledger is the truth: leases are given by it and run out by its clock, the first committed result of
a task wins, later ones are acknowledged and dropped. Everything it sends may be lost or doubled: offers and commands are sent again
until they are seen, and workers send their reports until they are `received`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .architecture import Architecture
from .events import DiscardResult, Effect, FetchPart, KeepLog, Note, PublishResult, ReleaseJob, Save, Send
from .machine import BrokenInvariant, Transitions, follow, require
from .membership import WATCH, Membership
from .messages import Accept, Cancel, CleanUp, Command, Download, Failed, FromMaster, Received, Refuse, Renew, Renewed, Report
from .participant import Participant
from .placement import Verdict, rank
from .tasks import Tasks, TaskState
from .timing import Timing
from .values import Attempt, Failure, JobSpec, Json, Result

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
FINAL = ("succeeded", "failed", "cancelled")
PUBLIC = {"collecting": "running", "publishing": "running"}  # what people are told
MOST_FAILURES = 4  # attempts at one task that may fail before the job does
MOST_FETCH_FAILURES = 12  # times that one task may miss content before the job fails
ROOM_IN_VIEW = 50  # verdicts and nodes shown of a large domain


class Master:
    """The job machine. Methods change state and append to `effects`; `Node` takes those away."""

    def __init__(
        self, job: str, spec: JobSpec, architecture: Architecture, membership: Membership, timing: Timing,
        birth: int, now: float,
    ) -> None:
        self.job, self.spec, self.architecture = job, spec, architecture
        self.membership, self.timing, self.birth = membership, timing, birth
        self.state = "queued"
        self.tasks = Tasks(architecture.plan(spec))
        self.participants: dict[str, Participant] = {}
        self.verdicts: list[Verdict] = []
        self.parts: dict[str, str] = {}  # final tasks whose output is here -> its CID
        self.failure: dict[str, object] | None = None
        self.error: str | None = None
        self.effects: list[Effect] = []
        self.attempts = 0
        self.submitted, self.started, self.ended = now, 0.0, 0.0
        self.recruit_at = now

    # -- its life

    def accept(self, utc: str) -> None:
        """The job is new: make it durable before anybody hears of it."""
        body = {"cid": self.spec.cid, "body": self.spec.body, "submitted": self.submitted, "utc": utc}
        self.effects.append(Save("job", self.job, body))

    def restore(self, submitted: float, workers: Mapping[str, Json], committed: Mapping[str, Result]) -> None:
        """After a restart: take up what the ledger holds; the workers will say what they hold."""
        self.submitted = submitted
        for node, worker in workers.items():
            self.participants[node] = Participant(node, str(worker["name"]), "lost", slots=int(worker["slots"]))
            self.membership.learn(node, str(worker["address"]), str(worker["gateway"]))
        for task, result in committed.items():
            if task in self.tasks.states:
                self.tasks.commit(task, result)
                self._fetch_if_final(self.tasks.states[task], result)
        if committed:
            self._step("start")
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
        for participant in self.participants.values():
            self._send(participant.node, Cancel(self.job, reason[:200]))
            participant.held.clear()
        for task in self.tasks.states.values():
            for attempt in list(task.leases):
                self.tasks.release(task.task.id, attempt)
        self.effects.append(Save("ended", self.job, self.view()))
        self.effects.append(DiscardResult(self.job, self.view()))

    def result_published(self, now: float) -> None:
        """The parts are in place: the job has succeeded, and its workers may forget it."""
        if self.state != "publishing":
            return
        self._step("finish")
        self.ended = now
        self.effects.append(Save("ended", self.job, self.view()))
        for participant in self.participants.values():
            self._send(participant.node, CleanUp(self.job))
        self.effects.append(ReleaseJob(self.job))

    # -- workers

    def recruit(self, now: float) -> None:
        """Offer the job to the best nodes that are not in it yet, until it has as many as it wants."""
        self.recruit_at = now + self.timing.replace
        wanted = self.spec.workers - sum(p.active() for p in self.participants.values())
        if wanted <= 0 or self.state not in ("queued", "running") or not self.tasks.ready_count():
            return
        self.membership.watch(now + WATCH, now)
        if not self.membership.knows_the_domain(now):
            self.recruit_at = now + 0.2 if self.membership.listed else now + self.timing.replace
            return
        self.verdicts = rank(self.membership.candidates(), self.spec, self.job, self.membership.own.id)
        for verdict in self.verdicts:
            known = self.participants.get(verdict.node)
            if not verdict.suitable or (known and (known.active() or now < known.retry)):
                continue
            if known is None:
                known = self.participants[verdict.node] = Participant(verdict.node, verdict.name)
            else:
                known.step("offer", self.job)
            known.deadline = now + self.timing.offer
            self._offer(known, now)
            wanted -= 1
            if not wanted:
                break

    def _offer(self, participant: Participant, now: float) -> None:
        participant.sent = now
        own = self.membership.own
        self._send(
            participant.node,
            Download(self.job, self.spec.cid, self.spec.app, self.spec.memory, own.mqtt, own.gateway),
        )

    def accepted(self, node: str, message: Accept, now: float) -> None:
        """A worker takes the job."""
        participant = self.participants.get(node)
        if participant is None or self.state in FINAL:
            return self._send(node, CleanUp(self.job))
        if participant.state != "working":
            if participant.state == "refused":
                participant.step("offer", self.job)
            participant.step("accept", self.job)
            self._save_worker(participant, message)
        participant.slots = max(1, min(64, message.slots))
        participant.deadline = now + self.timing.lease
        if self.state == "queued":
            self._step("start")
            self.started = now
        self.lease(now)

    def _save_worker(self, participant: Participant, message: Accept) -> None:
        """After a restart only those who were given the job may say what they hold of it."""
        known = {"name": participant.name, "slots": message.slots, "address": message.address, "gateway": message.gateway}
        self.effects.append(Save("worker", f"{self.job}/{participant.node}", known))

    def refused(self, node: str, message: Refuse, now: float) -> None:
        """A node does not take the job, or has forgotten it."""
        participant = self.participants.get(node)
        if participant is None or participant.state == "refused" or self.state in FINAL:
            return
        participant.step("refuse", self.job)
        participant.reason = message.reason[:200]
        participant.retry = now + 3 * self.timing.replace
        self._release_all(participant)
        self.recruit(now)
        self.lease(now)

    def lost(self, node: str, now: float) -> None:
        """The worker's connection broke: it has a moment to come back before its leases move on."""
        participant = self.participants.get(node)
        if participant is not None and participant.active():
            participant.deadline = min(participant.deadline, now + self.timing.grace)

    def renew(self, node: str, message: Renew, now: float) -> None:
        """A worker says what it holds: its leases begin anew, what it missed is sent again."""
        participant = self.participants.get(node)
        if participant is None or self.state in FINAL:
            return self._send(node, CleanUp(self.job))
        if participant.state == "lost":
            participant.step("renew", self.job)
        if participant.state != "working":
            return self._send(node, CleanUp(self.job))
        participant.deadline = now + self.timing.lease
        drop = []
        for held in message.held:
            task = self.tasks.states.get(held.task)
            if task is None or not self._holds(participant, task, held.attempt, now):
                drop.append(held.attempt)
                continue
            lease = task.leases[held.attempt]
            lease.seen, lease.bytes_done = True, held.bytes_done
        listed = {held.attempt for held in message.held}
        for attempt, ident in list(participant.held.items()):
            lease = self.tasks.states[ident].leases[attempt]
            if attempt in listed or now - lease.sent < self.timing.resend:
                continue
            if self.tasks.is_ready(ident):
                lease.sent = now
                self._command(participant.node, self.tasks.states[ident], attempt)
            else:  # an output that it needs was lost meanwhile: it has to wait again
                del participant.held[attempt]
                self.tasks.release(ident, attempt)
        self._send(node, Renewed(self.job, tuple(drop)))
        self.lease(now)

    def _holds(self, participant: Participant, task: TaskState, attempt: Attempt, now: float) -> bool:
        """Whether this worker's attempt is one we want; takes up again what we had given up on, if it is still open."""
        if attempt in task.leases:
            return task.leases[attempt].node == participant.node
        if task.state == "committed":
            return False
        before_restart = attempt.birth < self.birth and attempt not in task.issued
        if task.issued.get(attempt) == participant.node or before_restart:
            self.tasks.adopt(task.task.id, attempt, participant.node, now)
            participant.held[attempt] = task.task.id
            return True
        return False

    def _release_all(self, participant: Participant) -> None:
        for attempt, ident in participant.held.items():
            self.tasks.release(ident, attempt)
        participant.held.clear()

    # -- tasks

    def lease(self, now: float) -> None:
        """Give ready tasks to workers with room, the least loaded first."""
        while self.state == "running":
            task = self.tasks.first_ready()
            participant = None if task is None else self._freest(task)
            if task is None or participant is None:
                return
            self.attempts += 1
            attempt = Attempt(self.birth, self.attempts)
            self.tasks.lease(task.task.id, attempt, participant.node, now)
            participant.held[attempt] = task.task.id
            self._command(participant.node, task, attempt)

    def _freest(self, task: TaskState) -> Participant | None:
        """The worker to give this task to: not one where it failed if there is another, then the least loaded."""
        working = [p for p in self.participants.values() if p.state == "working"]
        ahead = 1 if self.tasks.ready_count() > len(working) else 0  # one in hand, so that nobody waits for a message
        free = [p for p in working if len(p.held) < p.slots + ahead]
        if not free:
            return None
        return min(free, key=lambda p: (task.failed_on.get(p.node, 0), len(p.held) / p.slots))

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
        task = self._issued(node, message.task, message.attempt, now)
        if task is None:
            return
        self._send(node, Received(self.job, message.task, message.attempt))
        participant = self.participants[node]
        participant.held.pop(message.attempt, None)
        if task.state != "committed" and self.state == "running" and message.channel == task.task.report:
            for attempt, lease in task.leases.items():
                self.participants[lease.node].held.pop(attempt, None)
            result = message.result
            self.tasks.commit(message.task, result)
            participant.tasks_done += 1
            self.effects.append(Save("task", f"{self.job}/{message.task}", saved_result(result)))
            log = str(result.details.get("log") or "")
            if log:
                gateway = self.membership.addresses.get(node, ("", ""))[1]
                self.effects.append(KeepLog(self.job, message.task, message.attempt, "", log, gateway))
            self._fetch_if_final(task, result)
            self._collect_when_done()
        self.lease(now)

    def _issued(self, node: str, ident: str, attempt: Attempt, now: float) -> TaskState | None:
        """The task if this attempt was this node's, else None: reports are taken from the holder of the lease only."""
        task = self.tasks.states.get(ident)
        participant = self.participants.get(node)
        if task is None or participant is None or self.state in FINAL:
            self._send(node, CleanUp(self.job))
            return None
        if task.issued.get(attempt) != node:
            if attempt.birth >= self.birth or attempt in task.issued:
                return None
            task.issued[attempt] = node  # from before our restart: the ledger keeps no leases, but knows our workers
        return task

    def _fetch_if_final(self, task: TaskState, result: Result) -> None:
        if task.task.final:
            gateway = self.membership.addresses.get(result.node, ("", ""))[1]
            self.effects.append(FetchPart(self.job, task.task.id, task.task.index, result.output, gateway))

    def failed(self, node: str, message: Failed, now: float) -> None:
        """A worker's attempt came to nothing: try again elsewhere, or give the job up."""
        task = self._issued(node, message.task, message.attempt, now)
        if task is None:
            return
        self._send(node, Received(self.job, message.task, message.attempt))
        self.participants[node].held.pop(message.attempt, None)
        if message.attempt not in task.leases:
            return  # told before, or not wanted any more
        self.tasks.release(message.task, message.attempt)
        failure = message.failure
        if failure.kind == "fetch":
            task.fetch_failures += 1
            self._lose_output(failure.cid)
            count, most = task.fetch_failures, MOST_FETCH_FAILURES
        else:
            task.failures += 1
            task.failed_on[node] = task.failed_on.get(node, 0) + 1
            count, most = task.failures, MOST_FAILURES
        self._keep_failure(node, message.task, message.attempt, failure)
        if count >= most:
            self.fail(f"{message.task} failed {count} times, last on {self.participants[node].name}: {failure.message}", now)
        self.lease(now)

    def _keep_failure(self, node: str, task: str, attempt: Attempt, failure: Failure) -> None:
        details = dict(failure.details or {})
        output = str(details.pop("output", "") or "")
        name = self.participants[node].name
        self.failure = {"task": task, "node": node, "name": name, "type": failure.kind, "message": failure.message, **details}
        text = "".join(f"{line}\n" for line in (f"{task} on {name}: {failure.message}", details.get("traceback", "")) if line)
        self.effects.append(KeepLog(self.job, task, attempt, text + output))

    def _lose_output(self, cid: str) -> None:
        """An output cannot be fetched: its task is done again, and with a lost worker all that it alone held."""
        lost = list(self.tasks.by_output.get(cid, ()))
        holders = {self.tasks.results[ident].node for ident in lost}
        gone = {node for node in holders if node not in self.participants or self.participants[node].state != "working"}
        for ident, task in self.tasks.states.items():
            alone = task.result is not None and task.result.node in gone and not task.task.final
            if task.state == "committed" and (ident in lost or alone):
                self.tasks.lose(ident)
                self.parts.pop(ident, None)
        if self.state == "collecting":
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
        if state is None or state.result is None or state.result.output != cid or self.state in FINAL:
            return
        self.effects.append(Note(f"job {self.job}: part of {task} could not be fetched ({reason}): done again"))
        self._lose_output(cid)
        self.recruit(now)
        self.lease(now)

    def _publish_when_complete(self) -> None:
        if self.state == "collecting" and all(
            ident in self.parts for ident, task in self.tasks.states.items() if task.task.final
        ):
            self._step("publish")
            self.effects.append(PublishResult(self.job, self.view()))

    # -- time, and what people see

    def tick(self, now: float) -> None:
        """Do what is due: offers again, leases that ran out, more workers."""
        if self.state in FINAL:
            return
        for participant in list(self.participants.values()):
            if participant.state == "offered" and now >= participant.deadline:
                participant.step("expire", self.job)
                participant.reason, participant.retry = "did not answer", now + 3 * self.timing.replace
                self.recruit_at = now
            elif participant.state == "offered" and now >= participant.sent + self.timing.resend:
                self._offer(participant, now)
            elif participant.state == "working" and now >= participant.deadline:
                participant.step("lose", self.job)
                participant.reason, participant.retry = "lost", now + self.timing.replace
                self.effects.append(Note(f"job {self.job}: worker {participant.name} is lost, its leases move on"))
                self._release_all(participant)
                self.recruit_at = now
        if now >= self.recruit_at:
            self.recruit(now)
        self.lease(now)

    def next_wakeup(self) -> float:
        """When `tick` has something to do next."""
        if self.state in FINAL:
            return float("inf")
        due = [self.recruit_at]
        for participant in self.participants.values():
            if participant.state == "offered":
                due.append(min(participant.deadline, participant.sent + self.timing.resend))
            elif participant.state == "working":
                due.append(participant.deadline)
        return min(due)

    def _send(self, node: str, message: FromMaster) -> None:
        address = self.membership.addresses.get(node)
        if address is not None:
            self.effects.append(Send(node, address[0], message))

    def view(self) -> dict[str, object]:
        """The job as `status --json` shows it; times are the node's seconds since the epoch."""
        shown = list(self.participants.values())[:ROOM_IN_VIEW]
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
            "nodes": [
                {"id": p.node, "name": p.name, "state": p.state, "tasks_done": p.tasks_done, "holds": len(p.held),
                 "reason": p.reason}
                for p in shown
            ],
            "placement": [
                {"node": v.node, "name": v.name, "score": v.score, "suitable": v.suitable, "reasons": list(v.reasons)}
                for v in self.verdicts[:ROOM_IN_VIEW]
            ],
        }

    def check(self) -> None:
        """The invariants of the job."""
        self.tasks.check()
        held = {}
        for node, participant in self.participants.items():
            if participant.held and participant.state != "working":
                raise BrokenInvariant(f"{node} is {participant.state} and holds leases {participant.held}")
            for attempt, ident in participant.held.items():
                held[attempt] = (ident, node)
        leased = {a: (i, t.leases[a].node) for i, t in self.tasks.states.items() for a in t.leases}
        if held != leased:
            raise BrokenInvariant(f"job {self.job}: leases {leased}, held {held}")
        require(self.state not in ("collecting", "publishing", "succeeded") or self.tasks.stage() is None,
                f"job {self.job} is {self.state} with uncommitted tasks")


def saved_result(result: Result) -> dict[str, object]:
    """A result as the ledger keeps it."""
    return {"node": result.node, "output": result.output, "size": result.size, "details": dict(result.details)}
