"""How a job becomes tasks: every byte in one split, splits at block boundaries, bounds before memory is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.plan import BLOCK, LARGEST_SPLIT, MOST_SPLITS, MapReduce, cut, split_size
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.architecture import BadSpec
from ipdc_edge.core.node import spec_of
from ipdc_edge.core.values import JobSpec, Result


def spec(sizes: list[Any], workers: int = 3, reduce: object = "Map.py", **changes: Any) -> JobSpec:
    body = {
        "version": 1, "app": "mapreduce", "workers": workers, "memory": 1 << 24, "code": {"Map.py": {}},
        "inputs": [{"name": f"f{n}", "cid": raw_cid(b"%d" % n), "size": size} for n, size in enumerate(sizes)],
        "options": {"map": "Map.py", "reduce": reduce}, **changes,
    }  # fmt: skip
    return spec_of(raw_cid(b"spec"), body)


@given(st.lists(st.integers(0, 200 << 20), min_size=1, max_size=20), st.integers(1, 50))
def test_splits_cover_every_byte_once_at_block_boundaries(sizes: list[int], workers: int) -> None:
    step = split_size(sum(sizes), workers)
    assert step % BLOCK == 0 and BLOCK <= step <= LARGEST_SPLIT
    splits = cut([{"size": size} for size in sizes], step)
    for number, size in enumerate(sizes):
        own = [(start, end) for found, start, end in splits if found == number]
        assert sum(end - start for start, end in own) == size
        assert [start for start, _ in own] == list(range(0, size, step)) or (not size and own in ([], [(0, 0)]))


def test_a_job_without_a_byte_has_one_map() -> None:
    assert [task.id for task in MapReduce().plan(spec([0, 0], 1))] == ["map-00000", "reduce-00000"]


def test_map_only_maps_are_final_and_answer_with_results() -> None:
    tasks = MapReduce().plan(spec([5 * BLOCK], reduce=None))
    assert all(task.final and task.report == "get-result" for task in tasks)
    params = MapReduce().params(spec([5 * BLOCK], reduce=None), tasks[0], {}, "holder")
    assert params["outputs"] == {"kind": "files", "count": 1} and params["providers"] == ["holder"]


def test_a_reduce_is_told_of_every_map_in_order_whatever_the_order_of_their_ends() -> None:
    job, plan = spec([40 * BLOCK], 2), MapReduce()
    tasks = plan.plan(job)
    maps = [task for task in tasks if task.stage == 0]
    results = {task.id: Result(f"n{task.index % 3}", raw_cid(task.id.encode()), 1, {}) for task in reversed(maps)}
    params = plan.params(job, tasks[-1], results, "holder")
    assert [run["run"]["manifest"] for run in params["inputs"]] == [raw_cid(task.id.encode()) for task in maps]
    assert {run["run"]["index"] for run in params["inputs"]} == {1} and set(params["providers"]) == {"n0", "n1", "n2"}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (spec([]), "at least one input"),
        (spec(["5"]), "size '5'"),
        (spec([-1]), "size -1"),
        (spec([1 << 50]), "size"),
        (spec([1] * (MOST_SPLITS + 1)), "splits"),
        (spec([(1 << 50) - 1]), "splits"),
        (spec([1], reduce="Other.py"), "Other.py"),
        (spec([1], reduce=["Map.py"]), "not a name"),
        (spec([1], options=None), "objects"),
    ],
)
def test_what_cannot_be_is_refused_with_a_word_and_at_once(job: JobSpec, words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        MapReduce().check(job)
