"""The tasks of one job as its master keeps them: which wait, which are leased to whom, which are committed.

Owns the task machine and the order of work: a task is ready when every task of an earlier stage is committed.
Never talks to anybody; `master.py` does. Every attempt ever issued stays known, so that a worker that was
thought lost can still deliver: the first committed result of a task wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .machine import BrokenInvariant, Transitions, follow, require
from .values import Attempt, Result, Task

TASK: Transitions = {
    ("waiting", "lease"): "leased",
    ("leased", "lease"): "leased",  # a second attempt beside the first
    ("leased", "release"): "waiting",  # its last open attempt failed or ran out
    ("leased", "commit"): "committed",
    ("waiting", "commit"): "committed",  # late, from a worker thought lost
    ("committed", "lose"): "waiting",  # the node that held the output is gone
}


@dataclass(slots=True)
class Lease:
    """One open attempt: who works on it, since when, and how far it said it is."""

    node: str
    since: float
    sent: float
    seen: bool = False  # whether the worker has said that it holds it
    bytes_done: int = 0


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
    fetch_failures: int = 0
    failed_on: dict[str, int] = field(default_factory=dict)


class Tasks:
    """All tasks of a job."""

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self.states = {task.id: TaskState(task) for task in tasks}
        self.results: dict[str, Result] = {}  # of committed tasks
        self.by_output: dict[str, dict[str, None]] = {}  # CID of a committed output -> tasks; empty outputs are alike
        self.waiting: dict[int, dict[str, None]] = {}  # by stage, in the order of leasing
        self.uncommitted: dict[int, int] = {}
        for task in sorted(tasks, key=lambda t: t.stage):
            self.waiting.setdefault(task.stage, {})[task.id] = None
            self.uncommitted[task.stage] = self.uncommitted.get(task.stage, 0) + 1

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

    def first_ready(self) -> TaskState | None:
        """The next task to lease."""
        stage = self.stage()
        if stage is None or not self.waiting[stage]:
            return None
        return self.states[next(iter(self.waiting[stage]))]

    def lease(self, ident: str, attempt: Attempt, node: str, now: float) -> None:
        """Issue an attempt to a node."""
        task = self.states[ident]
        self._step(task, "lease")
        self.waiting[task.task.stage].pop(ident, None)
        task.leases[attempt] = Lease(node, now, now)
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
            self.waiting[task.task.stage][ident] = None

    def commit(self, ident: str, result: Result, now: float) -> None:
        """The first result of a task: it wins, and the task's other attempts are not wanted any more."""
        task = self.states[ident]
        self._step(task, "commit")
        self.waiting[task.task.stage].pop(ident, None)
        self.uncommitted[task.task.stage] -= 1
        task.leases.clear()
        task.result = self.results[ident] = result
        task.committed = now
        self.by_output.setdefault(result.output, {})[ident] = None

    def lose(self, ident: str) -> None:
        """A committed output cannot be had any more: the task waits again."""
        task = self.states[ident]
        self._step(task, "lose")
        if task.result is not None:
            self.by_output[task.result.output].pop(ident)
        task.result = None
        self.results.pop(ident, None)
        self.uncommitted[task.task.stage] += 1
        self.waiting[task.task.stage][ident] = None

    def progress(self) -> dict[int, tuple[int, int]]:
        """{stage: (total, committed)}."""
        totals: dict[int, int] = {}
        for task in self.states.values():
            totals[task.task.stage] = totals.get(task.task.stage, 0) + 1
        return {stage: (total, total - self.uncommitted[stage]) for stage, total in totals.items()}

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
            uncommitted[stage] += task.state != "committed"
            if (ident in self.waiting[stage]) != (task.state == "waiting"):
                raise BrokenInvariant(f"task {ident} is {task.state} and in the queue, or waiting and not in it")
            if (task.result is not None) != (task.state == "committed") or self.results.get(ident) is not task.result:
                raise BrokenInvariant(f"task {ident} is {task.state} with result {task.result}")
            if bool(task.leases) != (task.state == "leased"):
                raise BrokenInvariant(f"task {ident} is {task.state} with leases {task.leases}")
            if any(task.issued.get(attempt) != lease.node for attempt, lease in task.leases.items()):
                raise BrokenInvariant(f"task {ident}: a lease of {task.leases} was not issued to its holder")
        require(uncommitted == self.uncommitted, f"uncommitted tasks {self.uncommitted}, counted {uncommitted}")
