"""What a master takes up from its ledger after a restart: also what another version has written."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import Attempt, Failure
from tests.core.hunt import ARCHITECTURES
from tests.core.scenario import VITALS, held_list, ident, job_spec, member_list, record

JOB = "20260101-000000-abcd"
SPEC = job_spec(2, 1)


def started(body: Any, *more: fx.Save) -> tuple[Node, list[fx.Effect]]:
    """The node after its start with this job in its ledger, and what it does first."""
    job = fx.Save("job", JOB, {"cid": SPEC.cid, "body": body, "submitted": 1.0, "utc": ""})
    node = Node(record("me"), held_list(member_list(5)), 8, Random(1), ARCHITECTURES, saved=(job, *more), now=5.0)
    effects = node.handle(e.VitalsMeasured(VITALS), 6.0)
    node.check()
    return node, effects


@pytest.mark.parametrize(("changed", "named"), [
    ({"options": {"map": "Map.py", "reduce": "Map.py"}}, "steps"), ({"priority": 11}, "priority"),
])
def test_a_job_of_another_version_is_left_alone_and_named(changed: dict[str, Any], named: str) -> None:
    """A node that could not start for one job in its ledger would be lost for all others."""
    node, effects = started({**SPEC.body, **changed})
    assert not node.masters
    assert any(JOB in effect.text and named in effect.text for effect in effects if isinstance(effect, fx.Note))


def test_records_that_were_set_aside_are_fetched_again() -> None:
    """They may have been on their way here when the node went down."""
    bad = raw_cid(b"bad")
    details = {"counters": {"bad_records": 2}, "user_counters": {}, "read": 3, "aside": bad}
    result = {"node": ident("w1"), "output": raw_cid(b"out"), "size": 5, "details": details}
    node, effects = started(SPEC.body, fx.Save("worker", f"{JOB}/{ident('w1')}", {"name": "w1", "slots": 1}),
                            fx.Save("task", f"{JOB}/map-00000", result))
    assert node.masters[JOB].view()["bad_records"] == 2
    kept = [effect for effect in effects if isinstance(effect, fx.KeepLog)]
    assert [(log.task, log.cid, log.node, log.aside) for log in kept] == [("map-00000", bad, ident("w1"), True)]


def in_time(submitted: float, timeout: int = 60) -> list[tuple[float, str]]:
    """When a job of that time, submitted then, ends after a start at 5.0; "" where it has not by then."""
    body = {**SPEC.body, "timeout": timeout}
    job = fx.Save("job", JOB, {"cid": SPEC.cid, "body": body, "submitted": submitted, "utc": ""})
    node = Node(record("me"), held_list(member_list(5)), 8, Random(1), ARCHITECTURES, saved=(job,), now=5.0)
    node.handle(e.VitalsMeasured(VITALS), 5.0)
    told, now = [], 5.0
    while now < 100.0:
        now = max(node.next_wakeup(now), now + 0.01)
        told += [(now, str(effect.value["error"])) for effect in node.handle(e.TimePassed(), now)
                 if isinstance(effect, fx.Save) and effect.kind == "ended"]
    return told


def test_a_jobs_time_goes_on_while_its_master_is_away() -> None:
    (told,) = in_time(-35.0)
    assert told == (25.0, "not done within 60 s of its submission, as --timeout demands")


def test_a_clock_that_went_back_gives_a_job_its_time_again_and_no_more() -> None:
    assert [when for when, _ in in_time(2000.0)] == [65.0]


@pytest.mark.parametrize("changed", [{"priority": 11}, {"priority": "1"}, {"priority": True}, {"timeout": -1},
                                     {"timeout": 1.5}, {"timeout": 1 << 40}])
def test_priority_and_timeout_of_a_description_are_bounded(changed: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match=next(iter(changed))):
        spec_of(SPEC.cid, SPEC.body | changed)


def test_a_drained_node_is_drained_after_a_restart_until_its_owner_says_otherwise() -> None:
    drained, resumed = (fx.Save("node", "node", {"draining": draining}) for draining in (True, False))
    node, effects = started(SPEC.body, drained)
    (published,) = [effect.record for effect in effects if isinstance(effect, fx.PublishRecord)]
    assert (node.membership.own.state, published.state) == ("draining", "draining")
    assert node.masters, "its own jobs go on"
    assert started(SPEC.body, drained, resumed)[0].membership.own.state == "ready"


def test_a_stop_drains_for_this_life_only() -> None:
    node, _ = started(SPEC.body)
    saved = [effect for effect in node.handle(e.DrainRequested(), 7.0) if isinstance(effect, fx.Save)]
    assert node.membership.own.state == "draining" and not saved


@pytest.mark.parametrize(("start", "state"), [(3, "committed"), (4, "waiting")])
def test_a_worker_that_began_anew_while_we_were_away_has_lost_what_it_made(start: int, state: str) -> None:
    """Its first word tells by its birth; without that each of its outputs would cost a reduce that misses it."""
    result = {"node": ident("w1"), "output": raw_cid(b"out"), "size": 5, "details": {}}
    known = {"name": "w1", "slots": 1, "start": 3}
    node, _ = started(SPEC.body, fx.Save("worker", f"{JOB}/{ident('w1')}", known),
                      fx.Save("task", f"{JOB}/map-00000", result))
    asked = m.Ask("w1:1", "w1:2")
    node.handle(e.MessageReceived(e.OWN, ident("w1"), start * CONNECTIONS + 7, asked), 7.0)
    node.check()
    assert node.masters[JOB].tasks.states["map-00000"].state == state


def test_the_start_of_a_worker_that_was_offered_the_job_anew_is_kept() -> None:
    """Else the next restart would take what it makes from now on for lost."""
    known = {"name": "w1", "slots": 1, "start": 3}
    node, _ = started(SPEC.body, fx.Save("worker", f"{JOB}/{ident('w1')}", known),
                      fx.Save("node", "node", {"draining": True}))  # it works not itself
    node.membership.watch(1000.0, 7.0)
    node.membership.listed = True
    node.handle(e.MessageReceived(ident("portal"), ident("w1"), 4 * CONNECTIONS, m.Present(record("w1"))), 7.0)
    node.handle(e.TimePassed(), 12.0)
    assert [participant.state for participant in node.masters[JOB].participants] == ["offered"]
    accept = m.Accept(JOB, 1, "w1:1", "w1:2")
    effects = node.handle(e.MessageReceived(e.OWN, ident("w1"), 4 * CONNECTIONS + 7, accept), 13.0)
    node.check()
    (kept,) = [effect.value for effect in effects if isinstance(effect, fx.Save) and effect.kind == "worker"]
    assert kept == {"name": "w1", "slots": 1, "start": 4, "mqtt": "w1:1", "gateway": "w1:2"}


W1, W2, OTHER = ident("w1"), ident("w2"), "20260101-000000-efgh"
OLD = 7  # the birth number of the master before its restart


def worker(name: str, job: str = JOB, start: int = 3) -> fx.Save:
    return fx.Save("worker", f"{job}/{ident(name)}", {"name": name, "slots": 2, "start": start})


def said(node: Node, name: str, message: m.Message, now: float, start: int = 3) -> list[m.Message]:
    """What the node answers to a member."""
    effects = node.handle(e.MessageReceived(e.OWN, ident(name), start * CONNECTIONS + 7, message), now)
    node.check()
    return [effect.message for effect in effects if isinstance(effect, fx.Send)]


def alone_with(*names: str) -> Node:
    """The job after the master's restart, with these workers, and the master's node works not itself."""
    saves = [worker(name) for name in names]
    peers = [fx.Save("peer", ident(name), {"mqtt": f"{name}:1", "gateway": f"{name}:2"}) for name in names]
    node, _ = started(SPEC.body, *saves, *peers, fx.Save("node", "node", {"draining": True}))
    return node


def claims(*numbers: int, task: str = "map-00000") -> m.Renew:
    return m.Renew(JOB, tuple(m.Held(task, Attempt(OLD, number), 0) for number in numbers))


def test_a_node_is_believed_one_attempt_of_a_task_from_before_a_restart() -> None:
    """Both places of a task for one node would shut out everybody else."""
    node = alone_with("w1", "w2")
    (answer,) = [one for one in said(node, "w1", claims(1, 2), 7.0) if isinstance(one, m.Renewed)]
    leases = node.masters[JOB].tasks.states["map-00000"].leases
    assert answer.drop == (Attempt(OLD, 2),) and [lease.node for lease in leases.values()] == [W1]
    said(node, "w2", claims(3), 8.0)
    assert [lease.node for lease in leases.values()] == [W1, W2], "the other place is free for the other"


def test_a_node_cannot_fail_a_task_with_attempts_that_it_claims() -> None:
    node = alone_with("w1")
    for number in range(1, 10):
        said(node, "w1", claims(number), 7.0 + number)
        said(node, "w1", m.Failed(JOB, "map-00000", Attempt(OLD, number), Failure("user", "no")), 7.5 + number)
    assert node.masters[JOB].tasks.states["map-00000"].failures == 1


def test_a_node_that_misses_what_is_long_lost_does_not_do_so_for_ever() -> None:
    """Each time that it fails so, its task waits again for what is there already: the job would never end."""
    node = alone_with("w1")
    said(node, "w1", m.Renew(JOB, ()), 7.0)
    master, gone = node.masters[JOB], raw_cid(b"gone")
    master.tasks.lost[gone] = None
    for number in range(1, 100):
        held = master.participants.by_node[W1].held
        if master.state != "running":
            break
        attempt, task = next(iter(held.items()))
        said(node, "w1", m.Failed(JOB, task, attempt, Failure("fetch", "it is gone", gone)), 7.0 + number)
    assert master.state == "failed" and "it is gone" in str(master.life.error)
    assert 12 < number < 40, "others may have found it out before, so that some such misses say nothing"


DONE = tuple(fx.Save("task", f"{JOB}/{task}", {"node": W1, "output": raw_cid(task.encode()), "size": 5, "details": {}})
             for task in ("map-00000", "map-00001", "reduce-00000"))


def test_a_job_that_was_put_into_place_at_a_crash_is_not_ended_by_its_time() -> None:
    """People may have seen its result; what ends it is that the result is there, or cannot be had."""
    node, effects = started({**SPEC.body, "timeout": 1}, worker("w1"), *DONE)
    (fetch,) = [effect for effect in effects if isinstance(effect, fx.FetchPart)]
    told = [effect for now in range(10, 100, 10) for effect in node.handle(e.TimePassed(), float(now))]
    assert not [effect for effect in told if isinstance(effect, fx.DiscardResult)]
    told = node.handle(e.PartFetched(JOB, fetch.task, fetch.cid), 101.0)
    assert [effect for effect in told if isinstance(effect, fx.PublishResult)]
    told = node.handle(e.ResultPublished(JOB), 102.0)
    assert [effect.value["state"] for effect in told if isinstance(effect, fx.Save)] == ["succeeded"]


def test_a_job_that_was_done_at_a_crash_and_has_to_be_done_again_has_its_time_again() -> None:
    node, effects = started({**SPEC.body, "timeout": 1}, worker("w1"), *DONE)
    (fetch,) = [effect for effect in effects if isinstance(effect, fx.FetchPart)]
    node.handle(e.PartFetchFailed(JOB, fetch.task, fetch.cid, "gone"), 7.0)
    told = node.handle(e.TimePassed(), 8.0)
    assert [effect.value["state"] for effect in told if isinstance(effect, fx.Save)] == ["failed"]


@pytest.mark.parametrize(("start", "mine", "others"), [(3, "committed", "committed"), (4, "waiting", "committed"),
                                                       (5, "waiting", "waiting")])
def test_each_job_knows_since_which_start_its_worker_has_what_it_made(start: int, mine: str, others: str) -> None:
    """A worker that began anew between two jobs has lost what it made for the first, and has what it made since."""
    other = fx.Save("job", OTHER, {"cid": SPEC.cid, "body": SPEC.body, "submitted": 1.0, "utc": ""})
    result = {"node": W1, "output": raw_cid(b"out"), "size": 5, "details": {}}
    node, _ = started(SPEC.body, worker("w1"), fx.Save("task", f"{JOB}/map-00000", result), other,
                      worker("w1", OTHER, 4), fx.Save("task", f"{OTHER}/map-00000", result))
    said(node, "w1", m.Ask("w1:1", "w1:2"), 7.0, start)
    states = [node.masters[job].tasks.states["map-00000"].state for job in (JOB, OTHER)]
    assert states == [mine, others]
