"""Whose task a worker begins: masters take turns, and priority orders the jobs of one master only."""

from __future__ import annotations

from random import Random

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import Attempt, JobKey, Result
from tests.core.scenario import VITALS, held_list, ident, job_spec, member_list, record

SPEC = job_spec(9, 1)


class Worker:
    """A node that works for others; `begun` are the letters of the jobs whose tasks it began."""

    def __init__(self, slots: int = 1) -> None:
        self.node = Node(record("me", slots), held_list(member_list(5)), 7, Random(1), {"mapreduce": MapReduce()})
        self.begun = ""
        self.running: list[fx.StartTask] = []
        self.number = 0
        self.do(e.VitalsMeasured(VITALS))

    def do(self, event: e.Event) -> None:
        effects = self.node.handle(event, 1.0)
        self.node.check()
        for effect in effects:
            if isinstance(effect, fx.StartTask):
                self.running.append(effect)
                self.begun += effect.key.job[-1]

    def job(self, master: str, letter: str, tasks: int, priority: int = 0) -> None:
        """A master's job with so many tasks, all ordered at once."""
        key = JobKey(ident(master), "20260101-000000-job" + letter)
        offer = m.Download(key.job, SPEC.cid, SPEC.app, SPEC.memory, "host:1", "host:2", priority)
        self.do(e.MessageReceived(e.OWN, key.master, 1, offer))
        self.do(e.JobFetched(key, SPEC))
        for number in range(tasks):
            self.number += 1
            order = m.Command(key.job, "do-map", f"map-{number:05d}", Attempt(1, self.number), "buffer", {})
            self.do(e.MessageReceived(e.OWN, key.master, 1, order))

    def finish(self, job: str = "") -> None:
        """The oldest task that runs ends, or the oldest of one job."""
        done = next(task for task in self.running if task.key.job.endswith(job))
        self.running.remove(done)
        self.do(e.TaskFinished(done.key, done.attempt, Result(ident("me"), raw_cid(b"out"), 1, {})))

    def all(self) -> str:
        while self.running:
            self.finish()
        return self.begun


def test_the_jobs_of_one_master_take_turns() -> None:
    worker = Worker()
    worker.job("boss", "a", 3)
    worker.job("boss", "b", 3)
    assert worker.all() == "ababab"


def test_a_job_of_a_higher_priority_comes_first_but_breaks_nothing_off() -> None:
    worker = Worker()
    worker.job("boss", "a", 3)
    worker.job("boss", "b", 3, priority=1)
    worker.job("boss", "c", 1, priority=-1)
    assert worker.all() == "abbbaac"


def test_no_master_gains_by_a_high_priority_nor_by_many_jobs() -> None:
    worker = Worker()
    worker.job("boss", "a", 3, priority=10)
    worker.job("boss", "b", 3, priority=10)
    worker.job("other", "x", 4, priority=-10)
    assert worker.all() == "axbxaxbxab"


def test_a_master_that_begins_anew_with_each_task_gains_nothing() -> None:
    worker = Worker()
    worker.job("other", "x", 9)
    for _ in range(4):
        worker.job("boss", "a", 1)
        worker.finish()
        worker.do(e.MessageReceived(e.OWN, ident("boss"), 1, m.CleanUp("20260101-000000-joba")))
        worker.running = [task for task in worker.running if task.key.job[-1] != "a"] or worker.running
    assert worker.begun.count("a") <= worker.begun.count("x") + 1


def test_a_master_with_long_tasks_does_not_keep_every_slot() -> None:
    worker = Worker(slots=4)
    worker.job("boss", "a", 9)
    worker.job("other", "x", 9)
    assert worker.begun == "aaaa"
    worker.finish("a")
    worker.finish("a")
    assert worker.begun == "aaaaxx"
    worker.finish("x")
    assert worker.begun == "aaaaxxx"
