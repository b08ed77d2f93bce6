"""A job whose places last: one for each worker, none of them a slot, each handed on when its node is lost or drains."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.apps.tflite.serve_plan import Serve
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.serving import MOST_TOPICS, SERVES
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.failures import LASTED
from ipdc_edge.core.node import Node
from ipdc_edge.core.tasks import MOST_FAILURES
from ipdc_edge.core.values import Attempt, Failure, JobKey, JobSpec
from tests.core.scenario import VITALS, held_list, ident, member_list, record

NODES = ("w1", "w2", "w3")
CAN = ("serve", "tflite=ai_edge_litert 2.3.0", "tflite-operators=11111111111111111111")
OPTIONS: dict[str, Any] = {"model": "m.tflite", "topic": "flowers", "operators": [[9, 1]]}


def spec(workers: int = 2, code: str = "m.tflite", **options: object) -> JobSpec:
    body = {"version": 1, "app": "serve", "workers": workers, "memory": 1 << 20, "arguments": {}, "inputs": [],
            "options": OPTIONS | options, "code": {code: {"cid": raw_cid(b"x"), "size": 1}}}
    return spec_of(raw_cid(repr(body).encode()), body)


class Boss:
    """A master of a job with so many places, and three nodes that can take one."""

    def __init__(self, places: int = 2) -> None:
        self.node = Node(record("me", 1), held_list(member_list(5)), 7, Random(1), {"serve": Serve()})
        self.now, self.sent = 1000.0, []  # type: ignore[var-annotated]
        self.do(e.VitalsMeasured(VITALS))
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        for name in NODES:
            able = replace(record(name), capabilities=CAN, slots=4)
            self.do(e.MessageReceived(e.OWN, ident(name), 1, m.Present(able)))
        effects = self.do(e.JobSubmitted("20260101-000000", spec(places)))
        self.job = next(effect.key for effect in effects if isinstance(effect, fx.Save) and effect.kind == "job")

    def do(self, event: e.Event) -> list[fx.Effect]:
        effects = self.node.handle(event, self.now)
        self.node.check()
        self.sent += [(effect.node, effect.message) for effect in effects if isinstance(effect, fx.Send)]
        return effects

    def hears(self, name: str, message: m.Message) -> None:
        self.do(e.MessageReceived(e.OWN, ident(name), 1, message))

    def offered(self) -> set[str]:
        return {node for node, message in self.sent if isinstance(message, m.Download)}

    def orders(self) -> list[tuple[str, str]]:
        """(node, task) of each order."""
        return [(node, message.task) for node, message in self.sent if isinstance(message, m.Command)]

    def begin(self) -> list[str]:
        """The nodes that were offered it take it; who they are."""
        takers = [name for name in NODES if ident(name) in self.offered()]
        for name in takers:
            self.hears(name, m.Accept(self.job, 20, f"{name}:1", f"{name}:2"))
        return takers


def test_a_worker_gets_one_place_however_many_it_would_take() -> None:
    boss = Boss()
    takers = boss.begin()
    assert len(takers) == 2
    assert boss.orders() == [(ident(takers[0]), "serve-00"), (ident(takers[1]), "serve-01")]


def test_the_first_to_come_gets_none_of_those_that_others_will() -> None:
    boss = Boss(places=3)
    takers = boss.begin()
    assert boss.orders() == [(ident(name), f"serve-{number:02}") for number, name in enumerate(takers)]


def test_the_place_of_a_lost_node_goes_to_one_that_had_none() -> None:
    boss = Boss()
    first, second = boss.begin()
    third = next(name for name in NODES if name not in (first, second))
    for _ in range(20):
        boss.now += 5
        attempt = next(m_.attempt for n, m_ in boss.sent if isinstance(m_, m.Command) and n == ident(second))
        boss.hears(second, m.Renew(boss.job, (m.Held("serve-01", attempt, 0),)))
        boss.do(e.TimePassed())
    assert ident(third) in boss.offered()
    boss.hears(third, m.Accept(boss.job, 20, f"{third}:1", f"{third}:2"))
    assert boss.orders()[-1] == (ident(third), "serve-00")
    assert boss.node.masters[boss.job].state == "running"


@pytest.mark.parametrize("kind", ["dropped"])
def test_what_a_node_hands_back_goes_to_another(kind: str) -> None:
    boss = Boss()
    first, second = boss.begin()
    third = next(name for name in NODES if name not in (first, second))
    boss.hears(first, m.Accept(boss.job, 0, f"{first}:1", f"{first}:2"))
    attempt = next(m_.attempt for n, m_ in boss.sent if isinstance(m_, m.Command) and n == ident(first))
    boss.hears(first, m.Failed(boss.job, "serve-00", attempt, Failure(kind, "drains")))
    boss.now += 5
    boss.do(e.TimePassed())
    boss.hears(third, m.Accept(boss.job, 20, f"{third}:1", f"{third}:2"))
    assert boss.orders()[-1] == (ident(third), "serve-00")


def fails(boss: Boss, after: float) -> None:
    """The place is held for so long, and fails then; some node takes it again."""
    node, order = next((n, m_) for n, m_ in reversed(boss.sent) if isinstance(m_, m.Command))
    name = next(name for name in NODES if ident(name) == node)
    end = boss.now + after
    while boss.now < end:
        boss.hears(name, m.Renew(boss.job, (m.Held(order.task, order.attempt, 0),)))
        boss.do(e.TimePassed())
        boss.now += 5
    orders = len(boss.orders())
    boss.hears(name, m.Failed(boss.job, order.task, order.attempt, Failure("runner", "it has ended")))
    for name in NODES:  # who was offered it meanwhile
        if ident(name) in boss.offered():
            boss.hears(name, m.Accept(boss.job, 20, f"{name}:1", f"{name}:2"))
    assert boss.node.masters[boss.job].state != "running" or len(boss.orders()) == orders + 1


def test_a_place_that_fails_now_and_then_is_no_failure_of_the_job() -> None:
    boss = Boss(places=1)
    boss.begin()
    for _ in range(3 * MOST_FAILURES):
        fails(boss, LASTED)
    assert boss.node.masters[boss.job].state == "running"
    for _ in range(MOST_FAILURES - 1):  # the last one counts too
        assert boss.node.masters[boss.job].state == "running"
        fails(boss, 5)
    assert boss.node.masters[boss.job].state == "failed"


class Hand:
    """A worker with one slot, that holds a place and a map."""

    def __init__(self) -> None:
        apps = {"serve": Serve(), "mapreduce": MapReduce()}
        self.node = Node(replace(record("me", 1), capabilities=(*CAN, "mapreduce"), slots=1), held_list(member_list(5)),
                         7, Random(1), apps)
        self.do(e.VitalsMeasured(VITALS))

    def do(self, event: e.Event) -> list[fx.Effect]:
        effects = self.node.handle(event, 1000.0)
        self.node.check()
        return effects

    def takes(self, job: str, given: JobSpec) -> list[fx.Effect]:
        offer = m.Download(job, given.cid, given.app, given.memory, "boss:1", "boss:2")
        self.do(e.MessageReceived(e.OWN, ident("w1"), 1, offer))
        return self.do(e.JobFetched(JobKey(ident("w1"), job), given, ()))

    def ordered(self, job: str, task: str, number: int) -> list[fx.Effect]:
        command = m.Command(job, "do-serve", task, Attempt(9, number), "served", {})
        return self.do(e.MessageReceived(e.OWN, ident("w1"), 1, command))


def test_a_worker_takes_one_place_without_a_slot_and_gives_it_back_when_it_drains() -> None:
    hand = Hand()
    accepted = hand.takes("20260101-000000-aaaa", spec())
    assert [effect.message.slots for effect in accepted if isinstance(effect, fx.Send)] == [1]
    hand.takes("20260101-000000-bbbb", spec(topic="others"))
    for job in ("20260101-000000-aaaa", "20260101-000000-bbbb"):  # both run, though there is one slot
        assert any(isinstance(effect, fx.StartTask) for effect in hand.ordered(job, "serve-00", 1))
    effects = hand.do(e.DrainRequested())
    stopped = [effect.key.job for effect in effects if isinstance(effect, fx.StopTask)]
    assert sorted(stopped) == ["20260101-000000-aaaa", "20260101-000000-bbbb"]
    told = [effect.message.failure.kind for effect in effects
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Failed)]
    assert told == ["dropped", "dropped"] and hand.node.idle()


def test_a_worker_holds_one_place_of_a_job_whatever_its_master_orders() -> None:
    hand, job = Hand(), "20260101-000000-aaaa"
    hand.takes(job, spec())
    hand.ordered(job, "serve-00", 1)
    effects = hand.ordered(job, "serve-00", 3)
    acts = [(type(effect).__name__, effect.attempt.number) for effect in effects
            if isinstance(effect, (fx.StartTask, fx.StopTask))]
    assert acts == [("StopTask", 1), ("StartTask", 3)], "its lease had run out"
    for task, number in (("serve-01", 2), ("serve-00", 1)):  # they were on their way for long
        effects = hand.ordered(job, task, number)
        assert not any(isinstance(effect, (fx.StartTask, fx.StopTask)) for effect in effects)
        (told,) = [effect.message for effect in effects if isinstance(effect, fx.Send)]
        assert isinstance(told, m.Failed) and (told.failure.kind, told.attempt.number) == ("dropped", number)


@pytest.mark.parametrize(("change", "reason"), [
    ({"topic": "a/b"}, "topic 'a/b'"), ({"topic": "answer"}, "topic 'answer'"), ({"topic": "x" * 65}, "topic"),
    ({"topic": "#"}, "topic '#'"), ({"queue": 0}, "queue 0"), ({"queue": True}, "queue True"),
    ({"queue": 1001}, "queue 1001"),
    ({"patience": 26}, "patience 26"), ({"model": "n.tflite"}, "no file of the job"), ({"pre": "P.py"}, "pre program"),
    ({"post": 1}, "post program"), ({"images": 1}, "images"), ({"operators": []}, "operators"), ({"new": 1}, "unknown"),
])
def test_what_a_description_may_not_say(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadSpec, match=reason):
        Serve().check(spec(**change))


def test_a_node_serves_so_many_topics_only() -> None:
    full = replace(record("w1"), capabilities=(*CAN, *(f"{SERVES}t{number}" for number in range(MOST_TOPICS))))
    assert Serve().unfit(spec(), full) == (f"serves {MOST_TOPICS} topics already",)
    assert Serve().unfit(spec(), replace(full, capabilities=full.capabilities[:-1])) == ()
