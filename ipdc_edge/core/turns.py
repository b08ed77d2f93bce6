"""Whose task a worker begins next, among those that wait for a slot here.

Owns the order and nothing else. Masters take turns: who has the fewest tasks running here is first, then who was served
longest ago, so nobody gets more for many jobs or a high priority. Priority orders the jobs of one master.
"""

from __future__ import annotations

from collections.abc import Iterable

from .values import JobKey
from .worker import HeldTask, Worker


class Turns:
    """Who was served when, in numbers that rise."""

    def __init__(self) -> None:
        self.begun = 0
        self.masters: dict[str, int] = {}  # members all, so they are few; one that frees its jobs does not begin anew
        self.jobs: dict[JobKey, int] = {}

    def next(self, workers: Iterable[Worker]) -> tuple[Worker, HeldTask] | None:
        """The job whose turn it is, and its task; None when nothing waits."""
        held = list(workers)
        running: dict[str, int] = {}
        for worker in held:
            running[worker.key.master] = running.get(worker.key.master, 0) + worker.running

        def turn(worker: Worker) -> tuple[int, ...]:
            key = worker.key
            served = self.masters.get(key.master, 0), self.jobs.get(key, 0)
            return running[key.master], served[0], -worker.offer.priority, worker.running, served[1]

        chosen = min((worker for worker in held if worker.queued), key=turn, default=None)
        task = chosen.next_queued() if chosen is not None else None
        if chosen is None or task is None:
            return None
        self.begun += 1
        self.masters[chosen.key.master] = self.jobs[chosen.key] = self.begun
        return chosen, task

    def forget(self, key: JobKey) -> None:
        """The job is held here no more."""
        self.jobs.pop(key, None)
