"""Jobs that wait for a node get one as soon as one of the same master's has ended: by priority, then as they came."""

from __future__ import annotations

from dataclasses import replace

from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from tests.core.scenario import Play, ident, job_spec


class Queue:
    """A master whose only worker takes one job at a time."""

    def __init__(self) -> None:
        self.play = Play()
        for line in ("step-aside", "meet w1"):
            self.play.step(line.split())
        self.play.node.membership.watch(self.play.now + 1000, self.play.now)
        self.play.node.membership.listed = True
        self.offered: list[str] = []

    def do(self, event: e.Event) -> None:
        effects = self.play.node.handle(event, self.play.now)
        self.play.node.check()
        self.offered += [effect.message.job for effect in effects
                         if isinstance(effect, fx.Send) and isinstance(effect.message, m.Download)]

    def submit(self, priority: int, taken: bool) -> str:
        self.do(e.JobSubmitted("20260101-000000", replace(job_spec(1, 1), priority=priority)))
        job = self.offered[-1]
        answer = m.Accept(job, 1, "w1:1", "w1:2") if taken else m.Refuse(job, "busy: holds a job of yours")
        self.do(e.MessageReceived(e.OWN, ident("w1"), 1, answer))
        return job


def test_the_next_job_is_the_one_of_the_highest_priority_then_the_first() -> None:
    queue = Queue()
    runs = queue.submit(0, True)
    low, first, second = (queue.submit(priority, False) for priority in (-1, 3, 3))
    order = []
    for _ in range(3):
        queue.offered.clear()
        queue.do(e.CancelRequested(runs))
        (runs,) = queue.offered  # one place, one offer
        order.append(runs)
        queue.do(e.MessageReceived(e.OWN, ident("w1"), 1, m.Accept(runs, 1, "w1:1", "w1:2")))
    assert order == [first, second, low]
