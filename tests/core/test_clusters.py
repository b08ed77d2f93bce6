"""Jobs whose tasks last and speak with each other: they take no slots, and without one of them the job is over."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.apps.tensorflow.cluster import Cluster, Place, Role
from ipdc_edge.apps.tensorflow.plan import Roles, arguments_of, started
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core import worker
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import Attempt, Failure, JobKey, JobSpec, Result
from tests.core.scenario import VITALS, held_list, ident, job_spec, member_list, record
from tests.core.test_turns import Worker

WORKERS = ("w1", "w2")
CLUSTER = Cluster(tuple(Place(Role("local", number), ident(name), name, 2222 + number)
                        for number, name in enumerate(WORKERS)), "2.21.0", 256 << 20)


def spec(**more: object) -> JobSpec:
    body = {"version": 1, "app": "tensorflow", "workers": 2, "memory": 1 << 20, "nodes": [ident(n) for n in WORKERS],
            "arguments": arguments_of(CLUSTER, "create_worker.py", [], **more), "options": {}, "inputs": [],
            "code": {"create_worker.py": {"cid": raw_cid(b"x"), "size": 1}}}
    return spec_of(raw_cid(repr(body).encode()), body)


class Boss:
    """A master whose cluster has begun on two nodes."""

    def __init__(self, **more: object) -> None:
        self.node = Node(record("me", 1), held_list(member_list(5)), 7, Random(1), {"tensorflow": Roles()})
        self.now = 1000.0
        self.do(e.VitalsMeasured(VITALS))
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        for name in WORKERS:
            able = replace(record(name), capabilities=("tensorflow",))
            self.do(e.MessageReceived(e.OWN, ident(name), 1, m.Present(able)))
        effects = self.do(e.JobSubmitted("20260101-000000", spec(**more)))
        self.job = next(effect.key for effect in effects if isinstance(effect, fx.Save) and effect.kind == "job")
        self.orders = [effect.message for name in WORKERS for effect in self.do(e.MessageReceived(
            e.OWN, ident(name), 1, m.Accept(self.job, 20, f"{name}:1", f"{name}:2")))
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Command)]

    def do(self, event: e.Event) -> list[fx.Effect]:
        effects = self.node.handle(event, self.now)
        self.node.check()
        return effects

    def view(self) -> dict[str, object]:
        return self.node.masters[self.job].view()

    def fails(self, kind: str) -> None:
        order = self.orders[1]
        failure = Failure(kind, "the program ended with exit status 3")
        self.do(e.MessageReceived(e.OWN, ident("w2"), 1, m.Failed(self.job, order.task, order.attempt, failure)))


def test_each_role_is_ordered_at_its_node_and_told_where_the_others_are() -> None:
    boss = Boss()
    assert [(order.task, order.channel, order.params["role"]) for order in boss.orders] == [
        ("local-0", "run-cluster", "local:0"), ("local-1", "run-cluster", "local:1")]
    assert set(boss.orders[0].params["gateways"]) >= {ident(name) for name in WORKERS}
    assert boss.view()["cluster"] == spec().body["arguments"]["cluster"]


@pytest.mark.parametrize("kind", ["user", "runner", "node", "fetch", "dropped"])
def test_a_role_that_fails_ends_the_cluster_at_once(kind: str) -> None:
    boss = Boss()
    boss.fails(kind)
    assert boss.view()["state"] == "failed" and "local-1" in str(boss.view()["error"])


def test_a_node_that_is_lost_ends_it_too() -> None:
    boss = Boss()
    boss.now += 60
    boss.do(e.TimePassed())
    assert boss.view()["state"] == "failed" and ", which is lost" in str(boss.view()["error"])


def test_with_restart_the_role_is_ordered_again() -> None:
    boss = Boss(restart=True)
    boss.fails("user")
    assert boss.view()["state"] == "running"
    assert [task["task"] for task in boss.view()["running"]] == ["local-0", "local-1"]  # type: ignore[attr-defined]


def ends_well(boss: Boss, number: int) -> None:
    order = boss.orders[number]
    result = Result(ident(WORKERS[number]), raw_cid(b"output"), 10, {})
    boss.do(e.MessageReceived(e.OWN, ident(WORKERS[number]), 1, m.Report(
        boss.job, "cluster-ended", order.task, order.attempt, result)))


@pytest.mark.parametrize("kind", ["user", "runner", "node", "fetch", "dropped"])
def test_nobody_is_started_again_to_wait_for_one_that_has_ended(kind: str) -> None:
    boss = Boss(restart=True)
    ends_well(boss, 0)
    assert boss.view()["state"] == "running"
    boss.fails(kind)
    assert boss.view()["state"] == "failed" and "local-1" in str(boss.view()["error"])


def test_who_was_started_again_does_not_wait_for_one_that_ends_without_it() -> None:
    boss = Boss(restart=True)
    boss.fails("runner")
    ends_well(boss, 0)
    until = boss.now + 600
    for left in (*range(590, 0, -10), 1, 0):
        assert boss.view()["state"] == "running"
        if not left:  # nothing else comes before
            assert boss.node.masters[boss.job].next_wakeup() == until
        boss.now = until - left
        boss.do(e.MessageReceived(e.OWN, ident("w1"), 1, m.Renew(boss.job, ())))
        boss.do(e.MessageReceived(e.OWN, ident("w2"), 1, m.Renew(boss.job, ())))
        boss.do(e.TimePassed())
    assert boss.view()["state"] == "failed" and "local-1 was begun again" in str(boss.view()["error"])


@pytest.mark.parametrize("first", [0, 1])
def test_all_that_were_started_again_may_end_well_one_after_the_other(first: int) -> None:
    boss = Boss(restart=True)
    for number, name in enumerate(WORKERS):
        order = boss.orders[number]
        boss.orders += [effect.message for effect in boss.do(e.MessageReceived(e.OWN, ident(name), 1, m.Failed(
            boss.job, order.task, order.attempt, Failure("user", "Connection reset by peer"))))
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Command)]
    boss.orders = boss.orders[2:]
    ends_well(boss, first)
    assert boss.view()["state"] == "running"
    ends_well(boss, 1 - first)
    assert boss.view()["phase"] == "collecting"


def test_what_a_role_wrote_and_nobody_can_fetch_is_not_made_by_it_alone() -> None:
    boss = Boss(restart=True)
    ends_well(boss, 0)
    ends_well(boss, 1)
    boss.do(e.PartFetchFailed(boss.job, "local-0", raw_cid(b"output"), "gone"))
    assert boss.view()["state"] == "failed" and "what local-0 wrote" in str(boss.view()["error"])


def test_only_a_role_that_is_to_be_restarted_finds_what_it_had_written() -> None:
    assert Roles().resumes(spec(restart=True)) and not Roles().resumes(spec())
    assert not MapReduce().resumes(job_spec(1, 1))


def test_roles_take_no_slots_and_wait_for_none() -> None:
    """A node of one slot has a map that runs, and begins its role beside it, then takes the next map as ever."""
    here = Worker()
    here.node.architectures = {"mapreduce": MapReduce(), "tensorflow": Roles()}
    own = here.node.membership.own
    here.node.membership.own = replace(own, capabilities=("mapreduce", "tensorflow"))
    here.job("boss", "a", 2)
    assert here.begun == "a"
    key, wanted = JobKey(ident("boss"), "20260101-000000-jobx"), spec()
    offer = m.Download(key.job, wanted.cid, wanted.app, wanted.memory, "host:1", "host:2", 0)
    here.do(e.MessageReceived(e.OWN, key.master, 1, offer))
    here.do(e.JobFetched(key, wanted))
    for number in (101, 102):
        order = m.Command(key.job, "run-cluster", f"local-{number - 101}", Attempt(1, number), "cluster-ended", {})
        here.do(e.MessageReceived(e.OWN, key.master, 1, order))
    assert here.begun == "axx"
    here.finish("a")
    assert here.begun == "axxa"


class Host(Worker):
    """A node that was offered a cluster's job of so much memory; `slots` are those that it told of."""

    def __init__(self, memory: int) -> None:
        self.slots: list[int] = []
        super().__init__()
        self.node.architectures = {"tensorflow": Roles()}
        own = self.node.membership.own
        self.node.membership.own = replace(own, capabilities=("tensorflow",))
        self.key = JobKey(ident("boss"), "20260101-000000-jobx")
        self.wanted = replace(spec(), memory=memory)
        self.offer()
        self.do(e.JobFetched(self.key, self.wanted))

    def offer(self) -> None:
        self.do(e.MessageReceived(e.OWN, self.key.master, 1, m.Download(
            self.key.job, self.wanted.cid, "tensorflow", self.wanted.memory, "host:1", "host:2", 0)))

    def do(self, event: e.Event) -> None:
        effects = self.node.handle(event, 1.0)
        self.node.check()
        self.running += [effect for effect in effects if isinstance(effect, fx.StartTask)]
        self.slots += [effect.message.slots for effect in effects
                       if isinstance(effect, fx.Send) and isinstance(effect.message, m.Accept)]

    def order(self, number: int) -> None:
        order = m.Command(self.key.job, "run-cluster", f"local-{number}", Attempt(1, number), "cluster-ended", {})
        self.do(e.MessageReceived(e.OWN, self.key.master, 1, order))


def test_a_node_tells_of_as_many_roles_as_it_has_memory_for() -> None:
    host = Host(VITALS.memory_available // 3)
    assert host.slots == [3]
    host.order(0)
    host.do(e.VitalsMeasured(replace(VITALS, memory_available=VITALS.memory_available // 2)))
    host.offer()
    assert host.slots == [3, 2]  # the one that runs, and one more
    assert Host(1).slots == [worker.MOST_BESIDE] == [20]
    full = Host(VITALS.memory_available)
    full.do(e.VitalsMeasured(replace(VITALS, memory_available=0)))
    full.offer()
    assert full.slots == [1, 1]


def test_a_master_that_orders_more_than_any_node_takes_has_them_wait() -> None:
    host = Host(1)
    for number in range(25):
        host.order(number)
    assert len(host.running) == 20
    done = host.running[0]
    host.do(e.TaskFailed(done.key, done.attempt, Failure("user", "x")))
    assert len(host.running) == 21


@pytest.mark.parametrize("change, words", [
    ({"cluster": {}}, "no plan of a cluster"), ({"program": "../x.py"}, "no name of a Python file"),
    ({"program": "other.py"}, "is not among the job's files"), ({"words": [5]}, "words"),
    ({"words": ["x"] * 101}, "words"), ({"of": "x"}, "no job's id"), ({"restart": 1}, "true or false"),
    ({"roles": [[]]}, "are none of"), ({"roles": [{}]}, "are none of"),
    ({"roles": ["local:7"]}, "are none of local:0"), ({"roles": []}, "starts nothing"),
    ({"client": True}, "wants one node"), ({"more": 1}, "unknown arguments"), ({"roles": 5}, "are none of"),
])
def test_what_a_master_may_not_ask_for(change: dict[str, object], words: str) -> None:
    wanted = spec()
    body = {**wanted.body, "arguments": {**wanted.body["arguments"], **change}}
    with pytest.raises(BadSpec, match=words):
        Roles().check(spec_of("", body))


def test_some_roles_only_or_a_program_beside_them() -> None:
    wanted = spec(roles=["local:1"])
    Roles().check(wanted)
    assert [place.name for place in started(wanted)] == ["w2"]
    arguments = {**wanted.body["arguments"], "roles": [], "client": True}
    body = {**wanted.body, "nodes": [ident("me")], "arguments": arguments}
    (task,) = Roles().plan(spec_of("", body))
    assert (task.id, task.node, task.single) == ("client", ident("me"), True)


def test_the_job_spec_of_map_reduce_is_none_of_this() -> None:
    assert not MapReduce().brittle(job_spec(1, 1)) and not MapReduce.cluster
