"""A master that orders without end takes no memory without end, and a worker cannot speak in another's name."""

from __future__ import annotations

from random import Random

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core import worker
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import Attempt, Failure, JobKey
from ipdc_edge.core.views import failure_view
from tests.core.scenario import held_list, ident, job_spec, member_list, record

JOB = "20260101-000000-held"


def test_attempts_that_are_ordered_and_dropped_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MOST_CLOSED", 100)
    node = Node(record("me", 2), held_list(member_list(5, ("me", "boss"), ("me",))), 7, Random(1),
                {"mapreduce": MapReduce()}, now=0.0)
    spec, boss = job_spec(1, 1), ident("boss")

    def say(message: m.Message) -> list[fx.Effect]:
        effects = node.handle(e.MessageReceived(e.OWN, boss, 1, message), 1.0)
        node.check()
        return effects

    say(m.Download(JOB, spec.cid, spec.app, spec.memory, "boss:1", "boss:2"))
    node.handle(e.JobFetched(JobKey(boss, JOB), spec), 1.0)
    for number in range(100):
        say(m.Command(JOB, "do-map", "map-00000", Attempt(1, number), "buffer", {}))
        say(m.Renewed(JOB, (Attempt(1, number),)))
    assert JobKey(boss, JOB) in node.workers
    effects = say(m.Command(JOB, "do-map", "map-00000", Attempt(1, 100), "buffer", {}))
    assert any(isinstance(effect, fx.Send) and isinstance(effect.message, m.Refuse) for effect in effects)
    assert JobKey(boss, JOB) not in node.workers


def test_details_of_a_failure_name_nobody_else() -> None:
    forged = {"node": "another", "name": "another", "task": "other", "type": "fetch", "message": "", "record": "r"}
    view, _ = failure_view("map-00000", "mallory", "node4", Failure("user", "m", "", forged))
    told = {"task": "map-00000", "node": "mallory", "name": "node4", "type": "user", "message": "m"}
    assert view == {**told, "record": "r"}
