"""Who holds which attempt of a job: what its tasks and its participants have in common.

Owns giving out leases, taking them back, and who may speak about an attempt. Sends nothing; `master.py`
orders what is leased here. An attempt is numbered under the master's birth number, so it is never used twice,
not even after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .machine import BrokenInvariant
from .messages import Held
from .participant import Participant, Participants
from .tasks import Tasks, TaskState
from .values import Attempt, Result


class Leases:
    """The leases of one job."""

    def __init__(self, tasks: Tasks, participants: Participants, birth: int) -> None:
        self.tasks, self.participants, self.birth = tasks, participants, birth
        self.issued = 0

    def give(self, now: float) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """Lease ready tasks to workers with room, the least loaded first; each is to be ordered at once."""
        while (task := self.tasks.first_ready()) is not None:
            participant = self.participants.freest(task, self.tasks.ready_count())
            if participant is None:
                return
            self.issued += 1
            attempt = Attempt(self.birth, self.issued)
            self.tasks.lease(task.task.id, attempt, participant.node, now)
            participant.held[attempt] = task.task.id
            yield participant, task, attempt

    def renew(self, participant: Participant, held: Iterable[Held], now: float) -> tuple[Attempt, ...]:
        """The worker says what it holds; the attempts that are not wanted any more."""
        drop = []
        for item in held:
            task = self.tasks.states.get(item.task)
            if task is None or not self._wanted(participant, task, item.attempt, now):
                drop.append(item.attempt)
            else:
                lease = task.leases[item.attempt]
                lease.seen, lease.bytes_done = True, item.bytes_done
        return tuple(drop)

    def _wanted(self, participant: Participant, task: TaskState, attempt: Attempt, now: float) -> bool:
        """Whether we want this attempt; takes up again what we had given up on, if its task is still open."""
        if attempt in participant.held or attempt in task.leases:
            return participant.held.get(attempt) == task.task.id
        if task.state == "committed" or not self.may_speak(participant.node, task, attempt):
            return False
        self.tasks.adopt(task.task.id, attempt, participant.node, now)
        participant.held[attempt] = task.task.id
        return True

    def may_speak(self, node: str, task: TaskState, attempt: Attempt) -> bool:
        """Whether the attempt was this node's. The ledger keeps no leases, only who our workers are: so what
        a worker says of an attempt from before our restart is believed."""
        if attempt in task.issued or attempt.birth >= self.birth:
            return task.issued.get(attempt) == node
        return node in self.participants.by_node

    def unseen(self, participant: Participant, seen: set[Attempt], now: float, wait: float) -> list[Attempt]:
        """What the worker should hold and did not name, and was ordered at least `wait` seconds ago: to be
        ordered again. What lost an output that it needs meanwhile is taken back."""
        again = []
        for attempt, ident in list(participant.held.items()):
            lease = self.tasks.states[ident].leases[attempt]
            if attempt in seen or now - lease.sent < wait:
                continue
            if self.tasks.is_ready(ident):
                lease.sent = now
                again.append(attempt)
            else:
                self.take_back(participant, attempt)
        return again

    def take_back(self, participant: Participant, attempt: Attempt) -> None:
        """An attempt is over without a result."""
        self.tasks.release(participant.held.pop(attempt), attempt)

    def take_back_all(self, participant: Participant) -> None:
        """The worker is out of it."""
        for attempt in list(participant.held):
            self.take_back(participant, attempt)

    def commit(self, node: str, task: TaskState, attempt: Attempt, result: Result, now: float) -> None:
        """The first result of a task; its other attempts are nobody's duty any more."""
        task.issued[attempt] = node
        for other, lease in task.leases.items():
            self.participants.by_node[lease.node].held.pop(other, None)
        self.tasks.commit(task.task.id, result, now)
        self.participants.by_node[node].tasks_done += 1

    def lose_output(self, cid: str, ordered: float) -> list[str]:
        """An output cannot be fetched by an attempt that was ordered then: its task waits again, and with a
        lost worker all that it alone held. Their ids. What was made anew since the order is not meant."""
        lost = [i for i in self.tasks.by_output.get(cid, ()) if self.tasks.states[i].committed <= ordered]
        makers = list(dict.fromkeys(self.tasks.results[i].node for i in lost))
        for ident in lost:
            self.tasks.lose(ident)
        for node in makers:
            lost += self.lose_outputs_of(node, self._joined(node))
        return lost

    def lose_outputs_of(self, node: str, before: float = float("inf")) -> list[str]:
        """A node lost everything that it made for the job, or what it made before it took the job anew, but
        for what is a part of the result: the master fetches those, and learns of each by itself. The ids of
        the tasks that wait again."""
        states = self.tasks.states
        made = [i for i, r in self.tasks.results.items() if r.node == node and not states[i].task.final]
        lost = [i for i in made if states[i].committed < before]
        for ident in lost:
            self.tasks.lose(ident)
        return lost

    def _joined(self, node: str) -> float:
        """When a worker took the job; what it holds since then it can give. Nothing if it is none now."""
        participant = self.participants.get(node)
        if participant is None or participant.state != "working":
            return float("inf")
        return participant.joined

    def check(self) -> None:
        """What tasks and participants say of leases is the same."""
        self.tasks.check()
        self.participants.check()
        held = sorted((attempt, ident, p.node) for p in self.participants for attempt, ident in p.held.items())
        states = self.tasks.states.items()
        leased = sorted((attempt, i, lease.node) for i, t in states for attempt, lease in t.leases.items())
        if held != leased:
            raise BrokenInvariant(f"leased {leased}, held {held}")
