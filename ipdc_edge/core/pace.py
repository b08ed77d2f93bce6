"""How long the tasks of a job take, on the whole and on each node, and so which of them lag.

Owns the durations of committed tasks and what is foretold from them. Gives out no leases; `leases.py` does, and it
alone knows who is idle. A task that is bigger than the mean of its stage may take longer in the same measure.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from .tasks import Lease, TaskState
from .timing import Timing
from .values import Task

LATE = 1.5  # times as long as is usual: nobody waits longer without a look for somebody idle
STUCK = 5.0  # times as long: however near its end it says it is
SLOW = 3.0  # times as slow as another node: where no task of a stage has ended yet, that is all there is to go by


class Pace:
    """The durations of one job's tasks, in seconds."""

    def __init__(self, tasks: Iterable[Task], timing: Timing) -> None:
        self.timing = timing
        self.ended: dict[int, list[float]] = {}  # of a stage: seconds of its committed tasks, in order
        self.nodes: dict[str, tuple[int, float]] = {}  # tasks that a node did, and the sum of how slow it was at each
        sums: dict[int, tuple[int, int]] = {}
        for task in tasks:
            count, size = sums.get(task.stage, (0, 0))
            sums[task.stage] = count + 1, size + task.size
        self.mean = {stage: size / count for stage, (count, size) in sums.items()}

    def _weight(self, task: Task) -> float:
        mean = self.mean[task.stage]
        return max(1.0, task.size / mean) if mean else 1.0

    def took(self, task: Task, node: str, seconds: float) -> None:
        """A node did a task."""
        ended = self.ended.setdefault(task.stage, [])
        seconds /= self._weight(task)
        insort(ended, seconds)
        usual = ended[(len(ended) - 1) // 2]
        self._count(node, seconds / usual if usual else 1.0)

    def outrun(self, task: Task, node: str, seconds: float) -> None:
        """Another node did a task that this one had for so long: if that was long, it is a slow one."""
        usual = self.usual(task)
        if usual and seconds > LATE * usual:
            self._count(node, seconds / usual)

    def _count(self, node: str, slow: float) -> None:
        count, before = self.nodes.get(node, (0, 0.0))
        self.nodes[node] = count + 1, before + slow

    def usual(self, task: Task) -> float | None:
        """Seconds that the task takes a usual node; None while none of its stage has ended."""
        ended = self.ended.get(task.stage)
        return ended[(len(ended) - 1) // 2] * self._weight(task) if ended else None

    def slowness(self, node: str) -> float:
        """How many times longer than is usual a node takes; 1 of one that has done nothing yet."""
        count, slow = self.nodes.get(node, (0, 0.0))
        return slow / count if count else 1.0

    def late_at(self, task: TaskState, lease: Lease) -> float:
        """When the task, if it is not done by then, is late, and may be worth a second attempt."""
        usual = self.usual(task.task) or 0.0
        return lease.from_when() + max(self.timing.double, LATE * usual)

    def left(self, task: TaskState, lease: Lease, now: float) -> float:
        """Seconds that an attempt will yet take: as fast as it read up to its last word; as long again, where it said
        nothing of use."""
        done, size, took = lease.bytes_done, task.task.size, lease.told - lease.began
        if 0 < done < size and took > 0:
            return max(0.0, took * (size - done) / done - (now - lease.told))
        return now - lease.from_when()

    def is_worth(self, task: TaskState, lease: Lease, node: str, now: float) -> bool:
        """Whether a node that is idle would be done with a late task sooner than its holder."""
        if now < self.late_at(task, lease):
            return False
        usual, slowness = self.usual(task.task), self.slowness(node)
        if usual is None:
            return self.slowness(lease.node) >= SLOW * slowness
        needed = usual * max(1.0, slowness)
        return self.left(task, lease, now) > needed or now - lease.from_when() > STUCK * needed
