"""Placement: who is asked first, who never, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.placement import hash_distance, judge, rank, usual_memory
from ipdc_edge.core.values import Member, NodeRecord
from tests.core.scenario import MB, VITALS, ident, job_spec, record

SPEC = job_spec(1, 1)


def with_vitals(name: str, **changes: object) -> NodeRecord:
    return record(name, vitals=replace(VITALS, **changes))  # type: ignore[arg-type]


def test_idle_cores_and_speed_decide() -> None:
    idle, busy, slow = with_vitals("a"), with_vitals("b", cpu_idle=0.2), with_vitals("c", speed=0.1)
    assert [verdict.name for verdict in rank([slow, busy, idle], SPEC, "job", "")] == ["a", "b", "c"]


def test_throttled_and_hot_nodes_count_half() -> None:
    score = judge(with_vitals("a"), SPEC, "").score
    assert judge(with_vitals("a", throttled=True), SPEC, "").score == score / 2
    hot = judge(with_vitals("a", temperature=85.0), SPEC, "")
    assert hot.score == score / 2 and "85 degrees: halved" in hot.reasons
    assert judge(with_vitals("a", temperature=60.0), SPEC, "").score == score


def test_who_works_for_other_jobs_of_this_node_comes_later() -> None:
    """Its vitals tell of that only seconds later; three jobs in a row would all go to the same node."""
    records = [record(name, slots=2) for name in "ab"]
    first, second = rank(records, SPEC, "job", "")
    later, now_first = rank(records, SPEC, "job", "", {first.node: 1})[::-1]
    assert (later.node, now_first.node) == (first.node, second.node) and later.score == round(first.score / 1.5, 2)
    assert "has 1 task of other jobs of this node" in later.reasons


def test_who_holds_the_input_is_a_little_better() -> None:
    verdict = judge(with_vitals("a"), SPEC, ident("a"))
    assert verdict.score > judge(with_vitals("a"), SPEC, "").score and "holds the input" in verdict.reasons


def test_who_holds_some_of_it_is_better_by_how_much_that_is() -> None:
    spec = replace(SPEC, held={ident("a"): 100, ident("b"): 40})
    scores = [judge(with_vitals(name), spec, "").score for name in "abc"]
    assert scores == [round(scores[2] * 1.5, 2), round(scores[2] * 1.2, 2), scores[2]]
    assert "holds 40 % of the input" in judge(with_vitals("b"), spec, "").reasons
    assert judge(with_vitals("a"), spec, ident("a")).score == round(scores[2] * 1.1, 2), "the master is as it was"


@pytest.mark.parametrize(
    "nodes, spared",  # of each (memory, available, slots) in MB
    [
        ([(128, 80, 1)], 24),  # a small board: no less
        ([(1024, 800, 4)], 32),
        ([(4096, 3000, 4)], 128),
        ([(65536, 60000, 2)], 128),  # no more
        ([(4096, 400, 4)], 50),  # busy with other things
        ([(4096, 10, 4)], 24),
        ([(4096, 3000, 4), (1536, 1200, 4)], 48),  # the least that any of them spares
        ([(4096, 3000, 4), (128, 80, 1)], 24),
        ([(1234, 1000, 2)], 77),  # whole MB
        ([(0, 0, 0)], 24),  # nothing measured yet
    ],
)
def test_a_job_without_a_memory_gets_what_all_nodes_spare(nodes: list[tuple[int, int, int]], spared: int) -> None:
    records = []
    for total, left, slots in nodes:
        vitals = replace(VITALS, memory_total=total * MB, memory_available=left * MB)
        records.append(record(str(len(records)), slots=slots, vitals=vitals))
    assert usual_memory(records, []) == spared * MB


@pytest.mark.parametrize(
    "away, spared", [([], 128), ([4096], 128), ([512, 4096], 64), ([500], 62), ([128], 24), ([0], 24)])
def test_a_member_that_may_come_later_is_not_shut_out(away: list[int], spared: int) -> None:
    """An eighth of the memory that it joined with, in MB, for one runner."""
    there = [with_vitals("a", memory_total=4096 * MB, memory_available=3000 * MB)]
    members = [Member(ident(str(memory)), "away", memory * MB, False, "1") for memory in away]
    assert usual_memory(there, members) == usual_memory([], members) == spared * MB


def test_a_job_without_a_memory_gets_some_where_nobody_is_known() -> None:
    assert usual_memory([], []) == 128 * MB


@pytest.mark.parametrize(
    "held", [1, [], {"a": 101}, {"a": -1}, {"a": True}, {"a": "1"}, {str(n): 1 for n in range(65)}])
def test_what_a_description_says_nodes_hold_is_checked(held: object) -> None:
    with pytest.raises(BadSpec, match="held"):
        spec_of(SPEC.cid, {**SPEC.body, "held": held})
    assert spec_of(SPEC.cid, {**SPEC.body, "held": {"a": 100}}).held == {"a": 100}


def test_unsuitable_nodes_come_last_with_every_reason() -> None:
    poor = replace(with_vitals("poor", memory_available=MB), state="draining", capabilities=())
    good, last = rank([poor, with_vitals("good", speed=0.001)], SPEC, "job", "")
    assert good.suitable and not last.suitable and last.score == 0
    assert last.reasons == (
        "is draining",
        "cannot do mapreduce (can do nothing)",
        "memory: 1 MB available, the job needs 24 MB",
    )


def test_equal_scores_go_by_hash_distance_so_that_jobs_spread() -> None:
    records = [with_vitals(name) for name in "abcdefgh"]
    first = [rank(records, SPEC, f"job{n}", "")[0].name for n in range(40)]
    assert len(set(first)) > 4, "other jobs begin with other nodes"
    order = rank(records, SPEC, "job", "")
    distances = [hash_distance(verdict.node, "job") for verdict in order]
    assert distances == sorted(distances)
    assert order == rank(records[::-1], SPEC, "job", ""), "the order of meeting says nothing"


def test_what_an_architecture_has_against_a_node_counts_and_is_told() -> None:
    def unfit(spec: object, node: NodeRecord) -> tuple[str, ...]:
        return ("has no Pillow",) if node.name == "bare" else ()

    good, last = rank([with_vitals("bare"), with_vitals("good", speed=0.001)], SPEC, "job", "", unfit=unfit)
    assert good.suitable and good.name == "good" and (last.suitable, last.reasons) == (False, ("has no Pillow",))
    unable = replace(with_vitals("a"), capabilities=("x=1",), unable=("other: no", "mapreduce: it is broken"))
    assert judge(unable, SPEC, "").reasons == ("cannot do mapreduce: it is broken",)
