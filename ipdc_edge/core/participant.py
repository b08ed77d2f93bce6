"""The nodes that a job was offered to, as the job's master sees them.

Owns the participant machine, whom the job is offered to next, and when an offer or a worker's leases have run
out. Sends nothing and knows no task beyond the attempts that a worker holds; `master.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .machine import BrokenInvariant, Transitions, follow
from .membership import WATCH, Membership
from .placement import Verdict, rank
from .tasks import TaskState
from .timing import Timing
from .values import Attempt, JobSpec

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
    held: dict[Attempt, str] = field(default_factory=dict)  # open attempts -> task
    saved: bool = False  # whether the ledger knows it as our worker
    joined: float = 0.0  # when it last took the job: what it made before that may be gone
    tasks_done: int = 0
    reason: str = ""  # why it is not working

    def active(self) -> bool:
        """Whether it counts against the number of workers that the job wants."""
        return self.state in ("offered", "working")


class Participants:
    """All participants of one job, by node, in the order in which they came."""

    def __init__(self, job: str, spec: JobSpec, membership: Membership, timing: Timing, now: float) -> None:
        self.job, self.spec, self.membership, self.timing = job, spec, membership, timing
        self.by_node: dict[str, Participant] = {}
        self.verdicts: list[Verdict] = []
        self.recruit_at = now

    def __iter__(self) -> Iterator[Participant]:
        return iter(list(self.by_node.values()))

    def get(self, node: str) -> Participant | None:
        """The node's part, if it was ever offered the job."""
        return self.by_node.get(node)

    def _step(self, participant: Participant, word: str) -> None:
        ident = f"{participant.node} of {self.job}"
        participant.state = follow("participant", PARTICIPANT, participant.state, word, ident)

    def restore(self, node: str, name: str, slots: int) -> None:
        """A worker from before this master's restart."""
        self.by_node[node] = Participant(node, name, "lost", slots=slots, saved=True)

    # -- offers

    def recruit(self, now: float) -> list[Participant]:
        """The best nodes that are not in it yet, as many as are missing; they count as offered the job."""
        self.recruit_at = now + self.timing.replace
        missing = self.spec.workers - sum(participant.active() for participant in self)
        if missing <= 0:
            return []
        self.membership.watch(now + WATCH, now)
        if not self.membership.knows_the_domain(now):
            return []  # the portals' lists wake us
        self.verdicts = rank(self.membership.candidates(), self.spec, self.job, self.membership.own.id)
        chosen = []
        for verdict in self.verdicts:
            known = self.by_node.get(verdict.node)
            if not verdict.suitable or (known and (known.active() or now < known.retry)):
                continue
            if known is None:
                known = self.by_node[verdict.node] = Participant(verdict.node, verdict.name)
            else:
                self._step(known, "offer")
            known.deadline, known.sent = now + self.timing.offer, now
            chosen.append(known)
            if len(chosen) == missing:
                break
        return chosen

    def accept(self, participant: Participant, slots: int, now: float) -> None:
        """It takes the job; a second time changes nothing."""
        participant.slots = max(1, min(MOST_SLOTS, slots))
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

    def restarted(self, node: str) -> Participant | None:
        """It started anew and knows nothing of the job; None when it had no part in it."""
        participant = self.by_node.get(node)
        if participant is None or participant.state not in ("working", "lost"):
            return None
        self._step(participant, "restart")
        participant.reason, participant.retry = "restarted", 0.0
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

    def freest(self, task: TaskState, ready: int) -> Participant | None:
        """The worker to give a task to: not one where it failed if there is another, then the least loaded."""
        working = [p for p in self.by_node.values() if p.state == "working"]
        ahead = 1 if ready > len(working) else 0  # one in hand, so that nobody waits for a message
        free = [p for p in working if len(p.held) < p.slots + ahead]
        if not free:
            return None
        return min(free, key=lambda p: (task.failed_on.get(p.node, 0), len(p.held) / p.slots))

    # -- time

    def to_remind(self, now: float) -> list[Participant]:
        """Those whose offer should be sent again."""
        due = [p for p in self if p.state == "offered" and now >= p.sent + self.timing.resend and now < p.deadline]
        for participant in due:
            participant.sent = now
        return due

    def run_out(self, now: float) -> list[Participant]:
        """Those whose leases have run out; offers nobody answered are over too. Others are looked for at once."""
        lost = []
        for participant in self:
            if now < participant.deadline or not participant.active():
                continue
            self.recruit_at = now
            participant.retry = now + self.timing.replace
            if participant.state == "working":
                self._step(participant, "lose")
                participant.reason = "lost"
                lost.append(participant)
            else:
                self._step(participant, "expire")
                participant.reason, participant.retry = "did not answer", now + 3 * self.timing.replace
        return lost

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
                {"id": p.node, "name": p.name, "state": p.state, "tasks_done": p.tasks_done, "holds": len(p.held),
                 "reason": p.reason}
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
