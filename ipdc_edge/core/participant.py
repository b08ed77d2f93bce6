"""The nodes that a job was offered to, as the job's master sees them.

Owns the participant machine, whom the job is offered to next, and when an offer or a worker's leases have run
out. Sends nothing and knows no task beyond the attempts that a worker holds; `master.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .bounds import MOST_UNASKED
from .machine import BrokenInvariant, Transitions, follow
from .membership import UNKNOWN, WATCH, Membership
from .pace import SLOW, Pace
from .placement import Verdict, rank
from .tasks import TaskState
from .timing import Timing
from .values import Attempt, JobSpec, Json, NodeRecord

PARTICIPANT: Transitions = {
    ("offered", "accept"): "working",
    ("offered", "refuse"): "refused",
    ("offered", "expire"): "silent",
    ("silent", "accept"): "working",  # late, and welcome
    ("silent", "offer"): "offered",
    ("silent", "refuse"): "refused",
    ("refused", "offer"): "offered",
    ("refused", "accept"): "working",  # it thought better of it
    ("working", "lose"): "lost",
    ("working", "refuse"): "refused",  # restarted: it does not know the job any more
    ("lost", "accept"): "working",
    ("lost", "renew"): "working",  # it is back with what it held
    ("offered", "renew"): "working",  # it was offered the job again, but had never left it
    ("silent", "renew"): "working",
    ("refused", "renew"): "working",
    ("lost", "restart"): "refused",
    ("working", "restart"): "refused",  # whatever it held is gone
    ("lost", "offer"): "offered",
    ("lost", "refuse"): "refused",
}
MOST_BLAMED = 3  # tasks that may fail at a node which others can do, before it gets no more of the job
MOST_SLOTS = 64  # that a worker may claim
ROOM_IN_VIEW = 50  # participants and verdicts shown of a large domain


@dataclass(slots=True)
class Participant:
    """A node and its part in one job. `deadline` is when its offer or its leases run out."""

    node: str
    name: str
    state: str = "offered"
    deadline: float = 0.0
    sent: float = 0.0  # when the offer was last sent
    retry: float = 0.0  # not to be offered the job again before
    slots: int = 1
    start: int = UNKNOWN  # the number of its start that it spoke since last
    held: dict[Attempt, str] = field(default_factory=dict)  # open attempts -> task
    saved: bool = False  # whether the ledger knows it as our worker
    joined: float = 0.0  # when it last took the job: what it made before that may be gone
    tasks_done: int = 0
    blamed: int = 0  # tasks that failed here through its own fault: others did them, or it said so itself
    aside: str = ""  # why it gets no more tasks of this job, but for those that it alone can do
    reason: str = ""  # why it is not working

    def active(self) -> bool:
        """Whether it has a part in the job now."""
        return self.state in ("offered", "working")

    def fit(self) -> bool:
        """Whether it may be given tasks."""
        return self.state == "working" and self.slots > 0 and not self.aside

    def counts(self) -> bool:
        """Whether it counts against the number of workers that the job wants; not one that drains or is set aside."""
        return self.active() and self.slots > 0 and not self.aside


class Participants:
    """All participants of one job, by node, in the order in which they came."""

    def __init__(
        self, job: str, spec: JobSpec, membership: Membership, timing: Timing, now: float,
        engaged: Callable[[int], Mapping[str, int]],
        unfit: Callable[[JobSpec, NodeRecord], Iterable[str]] | None = None, most: int = MOST_SLOTS,
    ) -> None:
        """engaged(least): how many tasks of the master's other jobs nodes have, by node; at least so many for each job
        that they have a part in. unfit: the job's `Architecture.unfit`. most: tasks of one worker at a time."""
        self.unfit, self.most = unfit, most
        self.job, self.spec, self.membership, self.timing, self.engaged = job, spec, membership, timing, engaged
        self.by_node: dict[str, Participant] = {}
        self.verdicts: list[Verdict] = []
        self.recruit_at = now
        self.pardoned: list[Participant] = []  # not aside any more, and nobody has been told
        self.seek_until = now  # so long the last attempt at a task waits for a node that has not failed it

    def __iter__(self) -> Iterator[Participant]:
        return iter(list(self.by_node.values()))

    def get(self, node: str) -> Participant | None:
        """The node's part, if it was ever offered the job."""
        return self.by_node.get(node)

    def name(self, node: str) -> str:
        """What people call a node; its id, where it has no part in the job."""
        participant = self.by_node.get(node)
        return participant.name if participant is not None else node

    def _step(self, participant: Participant, word: str) -> None:
        ident = f"{participant.node} of {self.job}"
        participant.state = follow("participant", PARTICIPANT, participant.state, word, ident)

    def restore(self, node: str, saved: Json) -> None:
        """A worker from before this master's restart, as it was saved."""
        slots, start = int(saved["slots"]), int(saved.get("start", UNKNOWN))
        self.by_node[node] = Participant(node, str(saved["name"]), "lost", slots=slots, saved=True, start=start)

    # -- offers

    def wanted(self) -> int:
        """How many workers the job may have."""
        return max(self.spec.workers, MOST_UNASKED) if self.spec.grows else self.spec.workers

    def recruit(self, now: float) -> list[Participant]:
        """The best nodes that are not in it yet, as many as are missing; they count as offered the job."""
        self.recruit_at = now + self.timing.replace
        missing = self.wanted() - sum(participant.counts() for participant in self)
        if now < self.seek_until:
            missing = max(1, missing)
        if missing <= 0:
            return []
        self.membership.watch(now + WATCH, now)
        if not self.membership.knows_the_domain(now):
            return []  # the portals' lists wake us
        own = self.membership.own.id
        self.verdicts = rank(self.membership.candidates(), self.spec, self.job, own, self.engaged(1),
                             self.unfit)
        chosen = []
        for verdict in self.verdicts:
            known = self.by_node.get(verdict.node)
            if not verdict.suitable or (known and (known.active() or known.aside or now < known.retry)):
                continue
            if known is None:
                start = self.membership.starts.get(verdict.node, UNKNOWN)
                known = self.by_node[verdict.node] = Participant(verdict.node, verdict.name, start=start)
            else:
                self._step(known, "offer")
            known.deadline, known.sent = now + self.timing.offer, now
            chosen.append(known)
            if len(chosen) == missing:
                break
        if not any(participant.state == "offered" for participant in self):
            self.seek_until = now  # there is no other
            if not self.fit():
                self._pardon()
        return chosen

    def seek(self, task: TaskState, now: float) -> bool:
        """Look for a node beyond those wanted, where all that work have failed a task that has one attempt left;
        whether that is new."""
        if task.sought or any(participant.node not in task.failed_on for participant in self.fit()):
            return False
        task.sought, self.seek_until = True, now + 3 * self.timing.offer
        return True

    def awaits_another(self, task: TaskState, now: float) -> bool:
        """Whether a node may yet come that has not failed the task; nobody else gets it meanwhile."""
        return now < self.seek_until and all(participant.node in task.failed_on for participant in self.fit())

    def blame(self, node: str, why: str) -> Participant | None:
        """A task failed there and need not have. The participant if it is set aside now: because of several such tasks,
        of which it did not do twice as many others, and as long as somebody else works."""
        participant = self.by_node.get(node)
        if participant is None:
            return None
        participant.blamed += 1
        enough = participant.blamed >= MOST_BLAMED and 2 * participant.blamed > participant.tasks_done
        if participant.aside or not enough or all(other is participant for other in self.fit()):
            return None
        participant.aside = f"{participant.blamed} tasks failed here {why}"[:200]
        return participant

    def _pardon(self) -> None:
        """Better those than nobody."""
        for participant in self:
            if participant.aside:
                participant.aside, participant.blamed = "", 0
                self.pardoned.append(participant)

    def forgive(self) -> None:
        """Whoever refused may have room now."""
        for participant in self.by_node.values():
            if participant.state == "refused":
                participant.retry = 0.0

    def nobody_fits(self) -> bool:
        """Whether every node of the domain was judged, and none is fit."""
        return bool(self.verdicts) and not any(verdict.suitable for verdict in self.verdicts)

    def accept(self, participant: Participant, slots: int, now: float) -> None:
        """It takes the job, or says again how many tasks it takes at once: none when it drains."""
        participant.slots = min(self.most, slots)
        participant.deadline, participant.reason = now + self.timing.lease, ""
        if participant.state != "working":
            self._step(participant, "accept")
            participant.joined = now

    def refuse(self, node: str, reason: str, now: float) -> Participant | None:
        """It does not take the job, or has forgotten it; None when that is not new."""
        participant = self.by_node.get(node)
        if participant is None or participant.state == "refused":
            return None
        self._step(participant, "refuse")
        participant.reason, participant.retry = reason[:200], now + 3 * self.timing.replace
        return participant

    def began(self, node: str, start: int) -> bool:
        """A node has spoken since this start; whether it had begun anew since it had a part in the job. Each job has a
        number of its own: a node may have begun anew between two jobs that the ledger tells of. What this node itself
        has made for its own jobs outlives its starts."""
        participant = self.by_node.get(node)
        if participant is None:
            return False
        before, participant.start = participant.start, max(start, participant.start)
        return UNKNOWN < before < start and node != self.membership.own.id

    def restarted(self, node: str) -> Participant | None:
        """It started anew and knows nothing of the job; None when it had no part in it."""
        participant = self.by_node.get(node)
        if participant is None or participant.state not in ("working", "lost"):
            return None
        self._step(participant, "restart")
        participant.reason, participant.retry = "restarted", 0.0
        participant.aside, participant.blamed = "", 0  # whatever was wrong may be over
        participant.saved = False  # as what it was before
        return participant

    # -- leases

    def renew(self, node: str, now: float) -> Participant | None:
        """It is alive and holds the job: its leases begin anew. None when it was never offered it."""
        participant = self.by_node.get(node)
        if participant is None:
            return None
        if participant.state != "working":
            self._step(participant, "renew")
            participant.reason = ""
        participant.deadline = now + self.timing.lease
        return participant

    def connection_broke(self, node: str, now: float) -> None:
        """It has a moment to come back before its leases move on."""
        participant = self.by_node.get(node)
        if participant is not None and participant.active():
            participant.deadline = min(participant.deadline, now + self.timing.grace)

    def fit(self) -> list[Participant]:
        """Those that may be given tasks."""
        return [participant for participant in self.by_node.values() if participant.fit()]

    def freest(
        self, task: TaskState, ready: int, node: str, engaged: Mapping[str, int], pace: Pace
    ) -> Participant | None:
        """The worker to give a task to: not one where it failed more often than on another, for whom it waits; then the
        least loaded, with other jobs too, and the faster of two. With `node` it is that one or none."""
        if node:
            only = self.by_node.get(node)
            return only if only and only.state == "working" and len(only.held) < only.slots else None
        free = self.with_room(ready, engaged, pace)
        if task.failed_on or task.missed_on:  # who fails is soon free again, and would use up all attempts
            least = min((task.fails_at(p.node) for p in self.fit()), default=0)
            free = [p for p in free if task.fails_at(p.node) == least]
        return free[0] if free else None

    def with_room(self, ready: int, engaged: Mapping[str, int], pace: Pace) -> list[Participant]:
        """Those that may be given one of so many ready tasks, in the order in which they are given any."""
        working = self.fit()
        ahead = 1 if ready > len(working) and self.most > 1 else 0  # one in hand, so that nobody waits for a message
        free = [p for p in working if len(p.held) < p.slots + (ahead if pace.slowness(p.node) < SLOW else 0)]
        return sorted(free, key=lambda p: ((len(p.held) + engaged.get(p.node, 0)) / p.slots, pace.slowness(p.node)))

    def settled_at(self) -> float:
        """When nobody who was offered the job can be waited for any more; a time that is past where all answered."""
        offered = [p.deadline for p in self.by_node.values() if p.state == "offered"]
        return max(offered, default=0.0) - self.timing.offer + self.timing.settle

    # -- time

    def to_remind(self, now: float) -> list[Participant]:
        """Those whose offer should be sent again."""
        due = [p for p in self if p.state == "offered" and now >= p.sent + self.timing.resend and now < p.deadline]
        for participant in due:
            participant.sent = now
        return due

    def run_out(self, now: float) -> list[Participant]:
        """Those whose leases have run out, who are lost now, and those who did not answer an offer, who are silent.
        Others are looked for at once."""
        over = []
        for participant in self:
            if now < participant.deadline or not participant.active():
                continue
            self.recruit_at = now
            participant.retry = now + self.timing.replace
            if participant.state == "working":
                self._step(participant, "lose")
                participant.reason = "lost"
            else:
                self._step(participant, "expire")
                participant.reason, participant.retry = "did not answer", now + 3 * self.timing.replace
            over.append(participant)
        return over

    def next_wakeup(self) -> float:
        """When something of the above is due next."""
        due = [self.recruit_at]
        for participant in self.by_node.values():
            if participant.state == "offered":
                due.append(min(participant.deadline, participant.sent + self.timing.resend))
            elif participant.state == "working":
                due.append(participant.deadline)
        return min(due)

    def view(self) -> dict[str, object]:
        """What `status` shows of nodes and placement."""
        return {
            "nodes": [
                {"id": p.node, "name": p.name, "state": "aside" if p.aside and p.active() else p.state,
                 "tasks_done": p.tasks_done, "holds": len(p.held), "reason": p.aside or p.reason}
                for p in list(self.by_node.values())[:ROOM_IN_VIEW]
            ],
            "placement": [
                {"node": v.node, "name": v.name, "score": v.score, "suitable": v.suitable, "reasons": list(v.reasons)}
                for v in self.verdicts[:ROOM_IN_VIEW]
            ],
        }

    def check(self) -> None:
        """The invariants of the participants."""
        for node, participant in self.by_node.items():
            if participant.node != node or (participant.held and participant.state != "working"):
                raise BrokenInvariant(f"{node} is {participant.state} and holds {participant.held}")
