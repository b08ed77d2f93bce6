"""Who holds which attempt of a job: what its tasks and its participants have in common.

Owns giving out leases, taking them back, and who may speak about an attempt. Sends nothing; `master.py`
orders what is leased here. An attempt is numbered under the master's birth number, so it is never used twice,
not even after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .locality import Locality
from .machine import BrokenInvariant, require
from .messages import Held
from .pace import Pace
from .participant import Participant, Participants
from .tasks import BEHIND_OTHERS, MOST_ATTEMPTS, Lease, Tasks, TaskState
from .timing import NEVER
from .values import BEHIND, Attempt, Result

MOVED = 4 << 20  # bytes a second of input that has to be moved, about
MOST_COUNTED = 1000  # tasks that wait for one slot: more are as many


class Leases:
    """The leases of one job."""

    def __init__(
        self, tasks: Tasks, participants: Participants, pace: Pace, locality: Locality, birth: int,
    ) -> None:
        self.tasks, self.participants, self.pace, self.birth = tasks, participants, pace, birth
        self.locality = locality
        self.issued = 0
        self.reserved = self._keepers()  # for whom tasks are kept at present
        self.look_at = NEVER  # when there may be something to give out though nothing has happened

    def give(self, now: float) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """Lease ready tasks to workers with room, the least loaded first, and where none is left, late ones to workers
        with nothing to do; each is to be ordered at once."""
        self.look_at = NEVER
        if self.tasks.ready_count():
            yield from self._give_ready(now)
        if not self.tasks.ready_count():
            yield from self._double(now)

    def _give_ready(self, now: float) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        engaged = self.participants.engaged(1)
        held = self.locality.holders or self.participants.spec.held
        if held and not self.issued and (settled := self.participants.settled_at()) > now:
            self.look_at = settled  # or who answers first gets what others hold
            return
        if not self.locality.holders:
            yield from self._give_any(now, engaged)
            return
        yield from self._give_own(now, engaged)
        yield from self._give_any(now, engaged)
        yield from self._give_others(now, engaged)

    def _give_own(self, now: float, engaged: Mapping[str, int]) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """To each worker what it holds the input of."""
        while True:
            free = self.participants.with_room(self.tasks.ready_count(), engaged, self.pace)
            participant = next((p for p in free if self.locality.next_of(p.node)), None)
            if participant is None:
                return
            task = self.tasks.states[self.locality.next_of(participant.node)]
            yield participant, task, self._issue(participant, task, now)

    def _give_others(self, now: float, engaged: Mapping[str, int]) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """To workers with nothing else to do what another holds the input of and will not come to soon."""
        while idle := [p for p in self.participants.with_room(0, engaged, self.pace) if len(p.held) < p.slots]:
            busy = {p.node: p for p in self.participants.fit() if p.node in self.locality.held}
            over = {node: load for node, p in busy.items() if (load := self._overloaded(p, now))}
            task = next((task for node in sorted(over, key=lambda node: -over[node])
                         if (task := self._spare(node, busy, over)) is not None), None)
            if task is None:
                return
            yield idle[0], task, self._issue(idle[0], task, now)

    def _overloaded(self, participant: Participant, now: float) -> float:
        """How many tasks wait for it, for each of its slots, where it will not come to them soon: it has more than it
        takes at a time beside those in hand, or they take longer than to move their input, or it is late with what it
        has; else 0."""
        load = self.locality.waiting(participant.node, MOST_COUNTED * participant.slots) / participant.slots
        first = self.tasks.states[next(iter(self.locality.held[participant.node]))].task
        if load > 1 or load * (self.pace.usual(first) or 0.0) > 1.0 + first.size / MOVED:
            return load
        for attempt, ident in participant.held.items():
            task = self.tasks.states[ident]
            late = self.pace.late_at(task, task.leases[attempt]) + self.pace.timing.double
            if late <= now:
                return load
            self.look_at = min(self.look_at, late)
        return 0.0

    def _spare(self, node: str, busy: Mapping[str, Participant], over: Mapping[str, float]) -> TaskState | None:
        """A task that waits for a worker which has too many, and for nobody who has not."""
        for ident in self.locality.last_of(node):
            if all(holder in over for holder in self.locality.holders[ident] if holder in busy):
                return self.tasks.states[ident]
        return None

    def holder(self, task: TaskState) -> str:
        """A worker that holds most of the task's input and may do it; "" where none does."""
        for node in self.locality.holders.get(task.task.id, ()):
            participant = self.participants.get(node)
            if participant is not None and participant.fit():
                return node
        return ""

    def _give_any(self, now: float, engaged: Mapping[str, int]) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """What nobody holds the input of."""
        self._reserve()
        for task in self.tasks.open():
            node = self.place(task)
            if not node and task.one_left() and self.participants.awaits_another(task, now):
                continue
            participant = self.participants.freest(task, self.tasks.ready_count(), node, engaged, self.pace)
            if participant is None:
                if node or task.failed_on or task.missed_on:
                    continue  # another task may have a free node
                return
            yield participant, task, self._issue(participant, task, now)

    def _reserve(self) -> None:
        """Keeps what somebody fit holds the input of for them. All tasks are looked at only where who is fit, or what
        they hold, is not as it was: what is leased is taken out by itself, and what comes back is held by nobody."""
        now = self._keepers()
        if now != self.reserved:
            self.reserved = now
            self.tasks.reserve(lambda task: bool(self.holder(task)))

    def _keepers(self) -> tuple[int, tuple[str, ...]]:
        """What it depends on for whom tasks are kept."""
        return self.locality.changes, tuple(p.node for p in self.participants.fit() if p.node in self.locality.held)

    def _issue(self, participant: Participant, task: TaskState, now: float) -> Attempt:
        self.issued += 1
        attempt = Attempt(self.birth, self.issued)
        self.tasks.lease(task.task.id, attempt, participant.node, now)
        self.locality.leased(task.task.id)
        participant.held[attempt] = task.task.id
        if len(participant.held) > participant.slots:
            task.leases[attempt].began = BEHIND_OTHERS
        return attempt

    def _double(self, now: float) -> Iterator[tuple[Participant, TaskState, Attempt]]:
        """Tasks that are late at one worker begin at an idle one too, if it will be done sooner; the longest first."""
        free = [p for p in self.participants.fit() if len(p.held) < p.slots]
        if not free:
            return
        late = []
        for task, lease in self._lone():
            at = self.pace.late_at(task, lease)
            if at <= now:
                late.append((self.pace.left(task, lease, now), task, lease))
            else:
                self.look_at = min(self.look_at, at)
        if not late:
            return
        busy = self.participants.engaged(0)
        idle = [p for p in free for _ in range(p.slots - len(p.held) - busy.get(p.node, 0))]
        late.sort(key=lambda one: -one[0])
        for participant in sorted(idle, key=lambda p: self.pace.slowness(p.node)):
            node = participant.node
            found = next((one for one in late if node != one[2].node and not one[1].fails_at(node)
                          and self.pace.is_worth(one[1], one[2], node, now)), None)
            if found is not None:
                late.remove(found)
                yield participant, found[1], self._issue(participant, found[1], now)

    def _lone(self) -> Iterator[tuple[TaskState, Lease]]:
        """Tasks with one open attempt that any other worker may do as well, and that attempt's lease."""
        for participant in self.participants:
            for attempt, ident in participant.held.items():
                task = self.tasks.states[ident]
                alone = task.task.single or self.place(task)
                if len(task.leases) < MOST_ATTEMPTS and self.tasks.is_ready(ident) and not alone:
                    yield task, task.leases[attempt]

    def place(self, task: TaskState) -> str:
        """The one node that is to do a task; "" when any may. A node that did what this goes beside, as long as it can:
        it takes tasks, and has not failed this one."""
        beside = self.tasks.results.get(task.task.beside)
        if task.task.node or beside is None:
            return task.task.node
        participant = self.participants.get(beside.node)
        here = participant is not None and participant.fit()
        return beside.node if here and not task.fails_at(beside.node) else ""

    def skip_rest(self, now: float) -> Iterator[tuple[Participant, tuple[Attempt, ...]]]:
        """The job has enough: no attempt is anybody's duty any more. Who held which."""
        self.tasks.skip_rest(now)
        for ident in list(self.locality.holders):
            self.locality.leased(ident)
        for participant in self.participants:
            if participant.held:
                held, participant.held = tuple(participant.held), {}
                yield participant, held

    def renew(self, participant: Participant, held: Iterable[Held], now: float) -> tuple[Attempt, ...]:
        """The worker says what it holds; the attempts that are not wanted any more."""
        drop = []
        for item in held:
            task = self.tasks.states.get(item.task)
            if task is None or not self._wanted(participant, task, item.attempt, now):
                drop.append(item.attempt)
            else:
                lease = task.leases[item.attempt]
                lease.seen, lease.bytes_done, lease.status, lease.told = True, item.bytes_done, item.status, now
                if item.status == BEHIND:
                    lease.began = BEHIND_OTHERS
                elif lease.began == BEHIND_OTHERS:
                    lease.began = now
        return tuple(drop)

    def _wanted(self, participant: Participant, task: TaskState, attempt: Attempt, now: float) -> bool:
        """Whether we want this attempt; takes up again what we had given up on, if its task is still open."""
        if attempt in participant.held or attempt in task.leases:
            return participant.held.get(attempt) == task.task.id
        if task.state in ("committed", "skipped") or attempt in task.failed:
            return False
        if not self.may_speak(participant.node, task, attempt) or self._claimed_another(participant, task, attempt):
            return False
        mine = next((other for other, lease in task.leases.items() if lease.node == participant.node), None)
        if mine is None and len(task.leases) >= MOST_ATTEMPTS or mine is not None and mine < attempt:
            return False
        if mine is not None:  # both places are not for one node, and what it has had for longer is further
            self.take_back(participant, mine)
        self.tasks.adopt(task.task.id, attempt, participant.node, now)
        self.locality.leased(task.task.id)
        participant.held[attempt] = task.task.id
        return True

    def _claimed_another(self, participant: Participant, task: TaskState, attempt: Attempt) -> bool:
        """Whether the node was believed another attempt at the task from before our restart. One each: or a node could
        claim attempt after attempt, and fail the task with them."""
        return attempt not in task.issued and any(
            node == participant.node and other.birth < self.birth for other, node in task.issued.items())

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

    def commit(
        self, node: str, task: TaskState, attempt: Attempt, result: Result, now: float
    ) -> list[tuple[str, Attempt]]:
        """The first result of a task; its other attempts are nobody's duty any more: whose they were."""
        task.issued[attempt] = node
        self.locality.leased(task.task.id)
        own = task.leases.get(attempt)
        if own is not None:
            self.pace.took(task.task, node, now - own.from_when())
        losers = [(lease.node, other) for other, lease in task.leases.items() if other != attempt]
        for other, lease in task.leases.items():
            participant = self.participants.by_node[lease.node]
            participant.held.pop(other, None)
            if other != attempt:
                self.pace.outrun(task.task, lease.node, now - lease.from_when())
            self._next_begins(participant, now)
        self.tasks.commit(task.task.id, result, now)
        self.participants.by_node[node].tasks_done += 1
        return losers

    def _next_begins(self, participant: Participant, now: float) -> None:
        """A worker is done with an attempt: it begins the one that it has in hand."""
        for attempt, ident in participant.held.items():
            lease = self.tasks.states[ident].leases[attempt]
            if lease.began == BEHIND_OTHERS:
                lease.began = now
                return

    def lose_output(self, cid: str, ordered: float) -> dict[str, str]:
        """An output cannot be fetched by an attempt that was ordered then: its task waits again, and with a
        lost worker all that it alone held. Their ids, and who had made them. What was made anew since the order is not
        meant."""
        found = [i for i in self.tasks.by_output.get(cid, ()) if self.tasks.states[i].committed <= ordered]
        lost = {ident: self.tasks.results[ident].node for ident in found}
        for ident in found:
            self.tasks.lose(ident)
        for node in dict.fromkeys(lost.values()):
            lost |= dict.fromkeys(self.lose_outputs_of(node, self._joined(node)), node)
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
        self.locality.check()
        if self.reserved == self._keepers():
            for ident in (ident for waiting in self.tasks.waiting.values() for ident in waiting.all):
                task = self.tasks.states[ident]
                require((ident in self.tasks.waiting[task.task.stage].open) != bool(self.holder(task)),
                        f"{ident} is open and kept for '{self.holder(task)}', or neither")
        held = sorted((attempt, ident, p.node) for p in self.participants for attempt, ident in p.held.items())
        states = self.tasks.states.items()
        leased = sorted((attempt, i, lease.node) for i, t in states for attempt, lease in t.leases.items())
        if held != leased:
            raise BrokenInvariant(f"leased {leased}, held {held}")
