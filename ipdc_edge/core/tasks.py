"""The tasks of one job as its master keeps them: which wait, which are leased to whom, which are committed.

Owns the task machine and the order of work: a task is ready when every task of an earlier stage is committed.
Never talks to anybody; `master.py` does. Every attempt ever issued stays known, so that a worker that was
thought lost can still deliver: the first committed result of a task wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .counters import Counters
from .machine import BrokenInvariant, Transitions, follow, require
from .values import Attempt, Result, Task
from .waiting import Waiting

TASK: Transitions = {
    ("waiting", "lease"): "leased",
    ("leased", "lease"): "leased",  # a second attempt beside the first
    ("leased", "release"): "waiting",  # its last open attempt failed or ran out
    ("leased", "commit"): "committed",
    ("waiting", "commit"): "committed",  # late, from a worker thought lost
    ("committed", "lose"): "waiting",  # the node that held the output is gone
    ("waiting", "skip"): "skipped",  # the job has enough without it
    ("leased", "skip"): "skipped",
}

BEHIND_OTHERS = float("inf")  # for when an attempt began: not yet
MOST_ATTEMPTS = 2  # open at a time of one task: nobody is to be kept busy for nothing by a third
MOST_FAILURES = 4  # attempts at one task that may fail before the job does


@dataclass(slots=True)
class Lease:
    """One open attempt: who works on it, since when, and how far it said it is."""

    node: str
    since: float
    sent: float
    began: float  # about when its worker began it; BEHIND_OTHERS while it does others before
    told: float = 0.0  # when its worker last said how far it is
    seen: bool = False  # whether the worker has said that it holds it
    bytes_done: int = 0
    status: str = ""  # what the user's code said of it last

    def from_when(self) -> float:
        """Since when it takes its time, working or waiting there."""
        return self.since if self.began == BEHIND_OTHERS else self.began


@dataclass(slots=True)
class TaskState:
    """A task and all that is known of its attempts."""

    task: Task
    state: str = "waiting"
    result: Result | None = None
    leases: dict[Attempt, Lease] = field(default_factory=dict)
    issued: dict[Attempt, str] = field(default_factory=dict)
    committed: float = 0.0  # when
    failures: int = 0
    fetch_failures: dict[str, int] = field(default_factory=dict)  # by the node whose content was missed
    stale_misses: dict[str, int] = field(default_factory=dict)  # by the node that missed what was known to be lost
    failed_on: dict[str, int] = field(default_factory=dict)  # attempts that failed there and not for want of content
    missed_on: dict[str, int] = field(default_factory=dict)  # that missed content there
    suspects: dict[str, None] = field(default_factory=dict)  # nodes whose fault it is if another one does it
    sought: bool = False  # whether another node was sought for its last attempt
    failed: dict[Attempt, None] = field(default_factory=dict)  # whose end was told: a late renewal revives none of them

    def one_left(self) -> bool:
        """Whether its next failure is the job's."""
        return self.failures >= MOST_FAILURES - 1

    def forget_failures(self) -> None:
        """What lasts for months fails now and then: only failures one after the other say something of it."""
        self.failures = 0
        self.failed_on.clear()

    def fails_at(self, node: str) -> int:
        """How much speaks against a node. That content was missed there once says nothing: whoever held it is gone."""
        return self.failed_on.get(node, 0) + max(0, self.missed_on.get(node, 0) - 1)


class Tasks:
    """All tasks of a job."""

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self.states = {task.id: TaskState(task) for task in tasks}
        self.results: dict[str, Result] = {}  # of committed tasks
        self.by_output: dict[str, dict[str, None]] = {}  # CID of a committed output -> tasks; empty outputs are alike
        self.lost: dict[str, None] = {}  # CIDs of outputs that could not be had any more
        self.waiting: dict[int, Waiting] = {}  # by stage
        self.uncommitted: dict[int, int] = {}
        self.times: dict[int, list[float]] = {}  # of a stage: [its first lease, its last commit]
        self.counters = Counters()
        for task in sorted(tasks, key=lambda t: t.stage):
            self.waiting.setdefault(task.stage, Waiting()).append(task.id)
            self.uncommitted[task.stage] = self.uncommitted.get(task.stage, 0) + 1
            self.times.setdefault(task.stage, [0.0, 0.0])

    def _step(self, task: TaskState, word: str) -> None:
        task.state = follow("task", TASK, task.state, word, task.task.id)

    def stage(self) -> int | None:
        """The stage at work: the first with uncommitted tasks; None when all are committed."""
        return next((stage for stage, count in self.uncommitted.items() if count), None)

    def is_ready(self, ident: str) -> bool:
        """Whether every task of the stages before this one's is committed."""
        stage = self.stage()
        return stage is None or self.states[ident].task.stage <= stage

    def ready_count(self) -> int:
        """How many tasks may be leased now."""
        stage = self.stage()
        return 0 if stage is None else len(self.waiting[stage])

    def ready(self) -> Iterator[TaskState]:
        """The tasks that may be leased now, in the order of leasing."""
        stage = self.stage()
        for ident in self.waiting[stage].all if stage is not None else ():
            yield self.states[ident]

    def open(self) -> Iterator[TaskState]:
        """Of these the ones that are kept for nobody; they may be leased on the way."""
        stage = self.stage()
        for ident in self.waiting[stage].walk() if stage is not None else ():
            yield self.states[ident]

    def reserve(self, kept: Callable[[TaskState], bool]) -> None:
        """Which of the waiting tasks are kept for somebody from now on; all others are open."""
        for waiting in self.waiting.values():
            waiting.reserve(lambda ident: kept(self.states[ident]))

    def lease(self, ident: str, attempt: Attempt, node: str, now: float) -> None:
        """Issue an attempt to a node."""
        task = self.states[ident]
        self._step(task, "lease")
        times = self.times[task.task.stage]
        times[0] = times[0] or now
        self.waiting[task.task.stage].remove(ident)
        task.leases[attempt] = Lease(node, now, now, now)
        task.issued[attempt] = node

    def adopt(self, ident: str, attempt: Attempt, node: str, now: float) -> None:
        """Take up an attempt that was issued before this master restarted."""
        self.lease(ident, attempt, node, now)
        self.states[ident].leases[attempt].seen = True

    def release(self, ident: str, attempt: Attempt) -> None:
        """An open attempt is over without a result; the task waits again if it was the last."""
        task = self.states[ident]
        if task.leases.pop(attempt, None) is not None and not task.leases and task.state == "leased":
            self._step(task, "release")
            self.waiting[task.task.stage].append(ident)

    def put_first(self, ident: str) -> None:
        """A task that failed is tried again before all others, so that it is soon known whose fault it is."""
        task = self.states[ident]
        if task.state == "waiting":
            self.waiting[task.task.stage].put_first(ident)

    def commit(self, ident: str, result: Result, now: float) -> None:
        """The first result of a task: it wins, and the task's other attempts are not wanted any more."""
        task = self.states[ident]
        self._step(task, "commit")
        self.waiting[task.task.stage].remove(ident)
        self._less(task.task.stage, now)
        self.counters.count(task.task, result, 1)
        task.leases.clear()
        task.result = self.results[ident] = result
        task.committed = now
        self.by_output.setdefault(result.output, {})[ident] = None

    def _less(self, stage: int, now: float) -> None:
        """One task less to be done of a stage."""
        self.uncommitted[stage] -= 1
        if not self.uncommitted[stage]:
            self.times[stage][1] = now

    def skip_rest(self, now: float) -> None:
        """What is not committed by now is not wanted any more."""
        for ident, task in self.states.items():
            if task.state in ("waiting", "leased"):
                self._step(task, "skip")
                self.waiting[task.task.stage].remove(ident)
                self._less(task.task.stage, now)
                task.leases.clear()

    def lose(self, ident: str) -> None:
        """A committed output cannot be had any more: the task waits again."""
        task = self.states[ident]
        self._step(task, "lose")
        if task.result is not None:
            self.by_output[task.result.output].pop(ident)
            self.lost[task.result.output] = None
            self.counters.count(task.task, task.result, -1)
        task.result = None
        self.results.pop(ident, None)
        self.uncommitted[task.task.stage] += 1
        self.times[task.task.stage][1] = 0.0
        self.waiting[task.task.stage].append(ident)

    def maker(self, cid: str) -> str:
        """The id of a node that made a committed output; "" when none did."""
        ident = next(iter(self.by_output.get(cid, ())), None)
        return self.results[ident].node if ident is not None else ""

    def progress(self) -> dict[int, tuple[int, int]]:
        """{stage: (total, committed)}."""
        totals: dict[int, int] = {}
        for task in self.states.values():
            totals[task.task.stage] = totals.get(task.task.stage, 0) + 1
        return {stage: (total, total - self.uncommitted[stage]) for stage, total in totals.items()}

    def shuffle_done(self) -> int:
        """Bytes of intermediate content that later stages have read by now."""
        return self.counters.read + sum(
            max(lease.bytes_done for lease in task.leases.values())
            for task in self.states.values() if task.leases and task.task.stage
        )

    def bytes_done(self) -> int:
        """Bytes of input worked through: of committed tasks all, of leased ones what the best attempt said."""
        total = 0
        for task in self.states.values():
            if task.state == "committed":
                total += task.task.size
            elif task.leases:
                total += min(task.task.size, max(lease.bytes_done for lease in task.leases.values()))
        return total

    def check(self) -> None:
        """The invariants of the tasks."""
        uncommitted = dict.fromkeys(self.uncommitted, 0)
        for ident, task in self.states.items():
            stage = task.task.stage
            uncommitted[stage] += task.state not in ("committed", "skipped")
            if (ident in self.waiting[stage]) != (task.state == "waiting"):
                raise BrokenInvariant(f"task {ident} is {task.state} and in the queue, or waiting and not in it")
            if (task.result is not None) != (task.state == "committed") or self.results.get(ident) is not task.result:
                raise BrokenInvariant(f"task {ident} is {task.state} with result {task.result}")
            if bool(task.leases) != (task.state == "leased"):
                raise BrokenInvariant(f"task {ident} is {task.state} with leases {task.leases}")
            if len(task.leases) > MOST_ATTEMPTS:
                raise BrokenInvariant(f"task {ident} has {len(task.leases)} open attempts")
            if len({lease.node for lease in task.leases.values()}) < len(task.leases):
                raise BrokenInvariant(f"task {ident} is leased twice to one node: {task.leases}")
            if any(task.issued.get(attempt) != lease.node for attempt, lease in task.leases.items()):
                raise BrokenInvariant(f"task {ident}: a lease of {task.leases} was not issued to its holder")
        require(uncommitted == self.uncommitted, f"uncommitted tasks {self.uncommitted}, counted {uncommitted}")
