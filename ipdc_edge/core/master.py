"""One job as its master sees it: whom it is offered to, who holds which lease, what is committed, how it
ends.

Owns what follows from each event, and all that is sent and saved for it. Its ledger is the truth: leases are given
by it and run out by its clock, the first committed result of a task wins, later ones are acknowledged and dropped.
Everything it sends may be lost or doubled: offers and commands are sent again until they are seen, and workers send
their reports until they are `received`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import messages as m
from . import saved
from .architecture import Architecture
from .effects import DiscardResult, Effect, Note, PublishResult, ReleaseJob
from .failures import Failures
from .leases import Leases
from .life import FINAL, Life
from .locality import Locality
from .machine import require
from .membership import Membership
from .orders import Orders
from .pace import Pace
from .participant import MOST_SLOTS, Participant, Participants
from .parts import ASIDE, LOG, Parts
from .story import Story
from .tasks import Tasks, TaskState
from .timing import NEVER, Timing
from .values import Attempt, JobSpec, Json, Result
from .views import job_view, task_views

ALONE = 600.0  # seconds for a task that was begun again, after another of a brittle job has ended well
NO_ATTEMPT = Attempt(0, 0)  # of what was committed before a restart: the ledger keeps none


class Master:
    """The job machine. Methods change state and append to `effects`; `Node` takes those away."""

    def __init__(
        self, job: str, spec: JobSpec, architecture: Architecture, membership: Membership, timing: Timing,
        birth: int, now: float, engaged: Callable[[int], Mapping[str, int]],
    ) -> None:
        self.job, self.spec, self.architecture = job, spec, architecture
        self.membership, self.timing = membership, timing
        self.life = Life(job, spec, now)
        self.tasks = Tasks(architecture.plan(spec))
        self.participants = Participants(job, spec, membership, timing, now, engaged, architecture.unfit,
                                         1 if architecture.lasts else MOST_SLOTS)
        pace = Pace((task.task for task in self.tasks.states.values()), timing)
        self.locality = Locality(architecture.reads, self.tasks)
        self.leases = Leases(self.tasks, self.participants, pace, self.locality, birth)
        self.parts = Parts(job, self.tasks, membership)
        self.effects: list[Effect] = []
        self.story = Story(job, lambda fact: self.effects.append(fact))  # not its method: the list is taken away
        self.failures = Failures(job, spec, architecture, self.tasks, self.participants, self.story)
        self.orders = Orders(job, spec, architecture, membership, self.tasks, lambda sent: self.effects.append(sent))
        self.noticed = False  # whether the node knows that it has ended

    # -- its life

    @property
    def state(self) -> str:
        """Where it is in its life."""
        return self.life.state

    def accept(self, utc: str) -> None:
        """The job is new: make it durable before anybody hears of it."""
        self.effects.append(saved.job(self.job, self.spec, self.life.submitted, utc))
        self.story.tell("accepted", app=self.spec.app, tasks=len(self.tasks.states), workers=self.spec.workers)

    def restore(self, submitted: float, workers: Mapping[str, Json], committed: Mapping[str, Result]) -> None:
        """After a restart: take up what the ledger holds; the workers will say what they hold."""
        self.life.submitted_at(submitted)
        self.story.tell("restored", committed=len(committed), tasks=len(self.tasks.states), workers=len(workers))
        for node, worker in workers.items():
            self.participants.restore(node, worker)
        for task, result in committed.items():
            if task in self.tasks.states:
                self.tasks.commit(task, result, 0.0)
                self.effects += self.parts.fetch(self.tasks.states[task], result)
                self.effects += self.parts.fetch_prints(task, NO_ATTEMPT, result, ASIDE)  # they may not have come
        if committed or workers:
            self.life.start(submitted)
            self._finish_early(0.0)
            self._collect_when_done()
            self.life.was_done = self.state == "collecting"

    def cancel(self, now: float) -> None:
        """The owner wants it no more."""
        if self.state in ("queued", "running", "collecting"):
            self._end("cancel", "cancelled by its owner", now)

    def fail(self, reason: str, now: float) -> None:
        """The job cannot succeed."""
        if self.state not in FINAL:
            self._end("fail", reason, now)

    def _end(self, word: str, reason: str, now: float) -> None:
        self.life.end(word, now, reason)
        self.story.tell(self.state, reason=reason)
        for participant in self.participants:
            self.orders.send(participant.node, m.Cancel(self.job, reason[:200]))
            self.leases.take_back_all(participant)
        self.effects.append(saved.ended(self.job, self.view()))
        self.effects.append(DiscardResult(self.job, self.view()))

    def result_published(self, now: float) -> None:
        """The parts are in place: the job has succeeded, and its workers may forget it."""
        if self.state != "publishing":
            return
        self.life.end("finish", now)
        self.story.tell("published")
        self.effects.append(saved.ended(self.job, self.view()))
        for participant in self.participants:
            self.orders.send(participant.node, m.CleanUp(self.job))
        self.effects.append(ReleaseJob(self.job))

    # -- workers

    def retry(self, now: float) -> None:
        """A place has become free: ask again also those who refused lately."""
        self.participants.forgive()
        self.recruit(now)

    def recruit(self, now: float) -> None:
        """Offer the job to the best nodes that are not in it yet, until it has as many as it wants."""
        if self.state in ("queued", "running") and self.tasks.ready_count():
            for participant in self.participants.recruit(now):
                self.story.tell("offered", node=participant.name)
                self.orders.offer(participant.node)
            pardoned, self.participants.pardoned = self.participants.pardoned, []
            for participant in pardoned:
                self.story.tell("pardoned", node=participant.name)
            if not self.spec.queue and self.state == "queued" and self.participants.nobody_fits():
                self.fail("not placed: no node is fit for it", now)

    def accepted(self, node: str, message: m.Accept, now: float) -> None:
        """A worker takes the job."""
        participant = self.participants.get(node)
        if participant is None or self.state in FINAL:
            return self.orders.send(node, m.CleanUp(self.job))
        before, slots = participant.state, participant.slots
        self.participants.accept(participant, message.slots, now)
        if before != "working":
            self.locality.told(node, message.held)
            holds = len(self.locality.held.get(node, ()))
            self.story.tell("joined", node=participant.name, slots=participant.slots, was=before, holds=holds)
        elif participant.slots != slots:
            self.story.tell("slots", node=participant.name, slots=participant.slots)
        self._works(participant, now)
        self.lease(now)

    def _works(self, participant: Participant, now: float) -> None:
        """It is our worker: after a restart only those who were given the job may say what they hold of it."""
        if not participant.saved:
            participant.saved = True
            self.effects.append(saved.worker(self.job, participant, self.membership.addresses.get(participant.node)))
        if self.state == "queued":
            self.life.start(now)

    def refused(self, node: str, message: m.Refuse, now: float) -> None:
        """A node does not take the job, or has forgotten it."""
        before = self.participants.get(node)
        had = before is not None and before.state in ("working", "lost")
        participant = None if self.state in FINAL else self.participants.refuse(node, message.reason, now)
        if participant is not None:
            self.story.tell("refused", node=participant.name, reason=participant.reason, had=had)
            self._left(participant, had, "refused", now)

    def worker_began(self, node: str, start: int, now: float) -> None:
        """A node's first word since this start. If we knew it before, what it held and what it had made of the job is
        gone."""
        if not self.participants.began(node, start):
            return
        participant = None if self.state in FINAL else self.participants.restarted(node)
        if participant is not None:
            self.story.tell("restarted", node=participant.name)
            self._left(participant, True, "restarted", now)
        else:  # offered the job anew since we ourselves began anew
            self.participants.by_node[node].saved = False  # as what it was before
            self._lose_outputs_of(node)

    def _left(self, participant: Participant, had: bool, why: str, now: float) -> None:
        self._take_back_all(participant, why, now)
        if had:
            self._lose_outputs_of(participant.node)
        self.recruit(now)
        self.lease(now)

    def _take_back_all(self, participant: Participant, why: str, now: float) -> None:
        held = list(participant.held.values())
        for ident in held:
            self.story.returned(ident, participant.name, why)
        self.leases.take_back_all(participant)
        if held and self._brittle():
            self.fail(f"{held[0]} was on {participant.name}, which is {why}", now)

    def _lose_outputs_of(self, node: str) -> None:
        for ident in self.leases.lose_outputs_of(node) if self.state == "running" else ():
            name = self.participants.name(node)
            self.story.output_lost(ident, name, "left")
            self.effects.append(Note(f"job {self.job}: {ident} is done again, {name} lost it"))

    def lost(self, node: str, now: float) -> None:
        """The worker's connection broke."""
        participant = self.participants.get(node)
        if participant is not None and participant.state == "working" and self.state not in FINAL:
            self.story.tell("broke", node=participant.name)
        self.participants.connection_broke(node, now)

    def renew(self, node: str, message: m.Renew, now: float) -> None:
        """A worker says what it holds: its leases begin anew, what it missed is sent again."""
        before = self.participants.get(node)
        was, held = (before.state, dict(before.held)) if before is not None else ("", {})
        participant = None if self.state in FINAL else self.participants.renew(node, now)
        if participant is None:
            return self.orders.send(node, m.CleanUp(self.job))
        if was != "working":
            self.story.tell("back", node=participant.name, was=was)
        self._works(participant, now)
        drop = self.leases.renew(participant, message.held, now)
        for attempt in self.leases.unseen(participant, {h.attempt for h in message.held}, now, self.timing.resend):
            self.orders.order(node, participant.held[attempt], attempt)
        self.story.renewed(participant.name, held, participant.held)
        self.orders.send(node, m.Renewed(self.job, drop))
        self.lease(now)

    # -- tasks

    def lease(self, now: float) -> None:
        """Give ready tasks to workers with room."""
        if self.state == "running":
            for participant, task, attempt in self.leases.give(now):
                beside = next((lease.node for other, lease in task.leases.items() if other != attempt), "")
                late = self.participants.name(beside) if beside else ""
                self.story.leased(task.task.id, participant.name, attempt, late, len(task.issued) > 1)
                self.orders.order(participant.node, task.task.id, attempt)

    def report(self, node: str, message: m.Report, now: float) -> None:
        """A worker finished an attempt; the first result of a task is committed."""
        task = self._issued(node, message.task, message.attempt)
        if task is None:
            return
        wanted = self.state == "running" and message.channel == task.task.report
        if task.state not in ("committed", "skipped") and not wanted:
            return  # not taken, so not acknowledged: it comes again
        self.orders.send(node, m.Received(self.job, message.task, message.attempt))
        if task.state not in ("committed", "skipped"):
            result, held = message.result, message.attempt in task.leases
            losers = self.leases.commit(node, task, message.attempt, result, now)
            self.effects.append(saved.task(self.job, message.task, result))
            name = self.participants.name(node)
            self.story.tell("committed", message.task, name, size=result.size, late=not held,
                            attempt=list(message.attempt))
            for loser, attempt in losers:
                self.story.tell("outrun", message.task, self.participants.name(loser), by=name)
                self.orders.send(loser, m.Renewed(self.job, (attempt,)))
            for suspect in self.failures.shown(task, node):
                self._blame(suspect, "that others have done", now)
            self.effects += self.parts.fetch_prints(message.task, message.attempt, result, LOG, ASIDE)
            self.effects += self.parts.fetch(task, result)
            if hopeless := self.architecture.hopeless(self.spec, self.tasks.counters.own):
                return self.fail(hopeless, now)
            self._finish_early(now)
            self._collect_when_done()
        self.lease(now)

    def _blame(self, node: str, why: str, now: float) -> None:
        """A node failed where it need not have; one that does so often gets no more of this job."""
        if (note := self.failures.blame(node, why)) is not None:
            self.effects.append(note)
            self.recruit(now)

    def _brittle(self) -> bool:
        return self.architecture.brittle(self.spec, len(self.tasks.results))

    def _alone(self) -> tuple[str, float]:
        """A task that is to be done again since before another ended, and may wait for that one for ever; until when it
        may. ("", NEVER) where there is none."""
        if self.state == "running" and self.tasks.results and self._brittle():
            for ident, task in self.tasks.states.items():
                if task.state != "committed" and (len(task.issued) > 1 or task.issued and not task.leases):
                    return ident, max(other.committed for other in self.tasks.states.values()) + ALONE
        return "", NEVER

    def _finish_early(self, now: float) -> None:
        """Where the job has what it wants, what is left is not done, and who works on it is told at once."""
        if self.tasks.stage() is not None and self.architecture.enough(self.spec, self.tasks.results):
            self.story.tell("enough")
            for participant, attempts in self.leases.skip_rest(now):
                self.orders.send(participant.node, m.Renewed(self.job, attempts))

    def _issued(self, node: str, ident: str, attempt: Attempt) -> TaskState | None:
        """The task if this attempt was this node's, else None: reports are taken from the holder of the lease
        only."""
        task = self.tasks.states.get(ident)
        if task is None or self.participants.get(node) is None or self.state in FINAL:
            self.orders.send(node, m.CleanUp(self.job))
            return None
        return task if self.leases.may_speak(node, task, attempt) else None

    def failed(self, node: str, message: m.Failed, now: float) -> None:
        """A worker's attempt came to nothing: try again elsewhere, or give the job up."""
        task = self._issued(node, message.task, message.attempt)
        if task is None:
            return
        self.orders.send(node, m.Received(self.job, message.task, message.attempt))
        if message.attempt not in task.leases:
            return  # told before, or not wanted any more
        ordered = task.leases[message.attempt].sent
        self.leases.take_back(self.participants.by_node[node], message.attempt)
        task.failed[message.attempt] = None
        failure, name = message.failure, self.participants.name(node)
        if failure.kind == "dropped":  # it had been given up, and says nothing of the task
            self.story.returned(message.task, name, "dropped")
            if self._brittle():
                return self.fail(f"{message.task} was given up on {name}", now)
            return self.lease(now)
        hopeless = self.failures.count(task, node, message.attempt, failure, ordered, now)
        if failure.kind == "fetch":
            self._lose_output(failure.cid, ordered)
        elif failure.kind == "node":
            self._blame(node, f"for a reason of its own, the last: {failure.message}", now)
        self.life.failure, log = self.failures.kept(message.task, node, message.attempt, failure)
        self.effects.append(log)
        if hopeless:
            return self.fail(hopeless, now)
        if task.one_left() and not task.task.node and self.participants.seek(task, now):
            self.recruit(now)
        self.lease(now)

    def _lose_output(self, cid: str, ordered: float) -> None:
        for ident, node in self.leases.lose_output(cid, ordered).items():
            self.story.output_lost(ident, self.participants.name(node), "missed")
            self.parts.lose(ident)
        if self.state == "collecting" and self.tasks.stage() is not None:
            self.life.step("lose")

    # -- the result

    def _collect_when_done(self) -> None:
        if self.state == "running" and self.tasks.stage() is None:
            self.life.step("collect")
            self.story.tell("done")
            self._publish_when_complete()

    def part_fetched(self, task: str, cid: str, now: float) -> None:
        """A part of the result is here."""
        if self.state not in FINAL and self.parts.meant(task, cid) is not None:
            self.parts.arrived(task, cid)
            self._publish_when_complete()

    def part_failed(self, task: str, cid: str, reason: str, now: float) -> None:
        """A part could not be had: its task waits again."""
        state = self.parts.meant(task, cid)
        if state is None or self.state not in ("running", "collecting"):
            return  # publishing: every part is here already
        maker = self.tasks.results[task].node
        self.effects.append(Note(f"job {self.job}: part of {task} could not be fetched ({reason}): done again"))
        self.story.tell("part-missed", task, self.participants.name(maker), reason=reason)
        hopeless = self.failures.count_part(state, maker, cid, reason)
        if not hopeless and self.architecture.brittle(self.spec, len(self.tasks.results) - 1):
            hopeless = f"what {task} wrote could not be fetched from {self.participants.name(maker)}: {reason}"
        if hopeless:
            return self.fail(hopeless, now)
        self._lose_output(cid, NEVER)  # it is this very output, whatever the clock said when it was committed
        self.recruit(now)
        self.lease(now)

    def _publish_when_complete(self) -> None:
        if self.state == "collecting" and self.parts.complete():
            self.life.step("publish")
            self.story.tell("collected")
            self.effects.append(PublishResult(self.job, {**self.view(), "tasks": task_views(self.tasks.results)}))

    # -- time, and what people see

    def tick(self, now: float) -> None:
        """Do what is due: offers again, leases that ran out, more workers."""
        if self.state in FINAL:
            return
        if now >= self.life.due():
            return self.fail(f"not done within {self.spec.timeout} s of its submission, as --timeout demands", now)
        alone, until = self._alone()
        if now >= until:
            return self.fail(f"{alone} was begun again, and others ended well {ALONE:g} s ago: it waits for them", now)
        for participant in self.participants.to_remind(now):
            self.orders.offer(participant.node)
        for participant in self.participants.run_out(now):
            self.story.tell(participant.state, node=participant.name)
            if participant.state == "lost":
                self.effects.append(Note(f"job {self.job}: worker {participant.name} is lost, its leases move on"))
                self._take_back_all(participant, "lost", now)
        if now >= self.participants.recruit_at:
            self.participants.recruit_at = now + self.timing.replace
            self.recruit(now)
        self.lease(now)

    def next_wakeup(self) -> float:
        """When `tick` has something to do next."""
        late = self.leases.look_at if self.state == "running" else NEVER
        due = min(self.participants.next_wakeup(), late, self.life.due(), self._alone()[1])
        return NEVER if self.state in FINAL else due

    def workers(self) -> list[str]:
        """The nodes that have a part in the job at present."""
        return [participant.node for participant in self.participants if participant.active()]

    def view(self) -> dict[str, object]:
        """The job as `status --json` shows it."""
        return job_view(self.life, self.spec, self.architecture, self.tasks, self.leases, self.participants)

    def check(self) -> None:
        """The invariants of the job."""
        self.leases.check()
        require(self.state not in ("collecting", "publishing", "succeeded") or self.tasks.stage() is None,
                f"job {self.job} is {self.state} with uncommitted tasks")
