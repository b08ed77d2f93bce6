"""How a job becomes tasks: every byte in one split, splits at block boundaries, bounds before memory is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.plan import BLOCK, LARGEST_SPLIT, MOST_SPLITS, MapReduce, cut, split_size
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.architecture import BadSpec, spec_of
from ipdc_edge.core.values import JobSpec, Result


def spec(sizes: list[Any], workers: int = 3, reduce: object = "Map.py", **changes: Any) -> JobSpec:
    body = {
        "version": 1, "app": "mapreduce", "workers": workers, "memory": 1 << 24, "code": {"Map.py": {}},
        "inputs": [{"name": f"f{n}", "cid": raw_cid(b"%d" % n), "size": size} for n, size in enumerate(sizes)],
        "options": {"steps": [{"map": "Map.py", "reduce": reduce}]}, **changes,
    }  # fmt: skip
    return spec_of(raw_cid(b"spec"), body)


@given(st.lists(st.integers(0, 200 << 20), min_size=1, max_size=20), st.integers(1, 50))
def test_splits_cover_every_byte_once_at_block_boundaries(sizes: list[int], workers: int) -> None:
    step = split_size(sum(sizes), workers)
    assert step % BLOCK == 0 and BLOCK <= step <= LARGEST_SPLIT
    splits = list(cut([{"size": size} for size in sizes], step))
    assert all(sum(end - start for _, start, end in split) <= step for split in splits)
    splits = [part for split in splits for part in split]
    for number, size in enumerate(sizes):
        own = [(start, end) for found, start, end in splits if found == number]
        assert sum(end - start for start, end in own) == size
        assert [start for start, _ in own] == list(range(0, size, step)) or (not size and own in ([], [(0, 0)]))


@pytest.mark.parametrize("change", [{"compression": "gz"}, {}])
def test_small_files_go_together_and_what_cannot_be_cut_stays_whole(change: dict[str, str]) -> None:
    sizes = [10, 0, 20, 90, 5, 250, 1, 1]
    splits = list(cut([{"size": size, **(change if size == 250 else {})} for size in sizes], 100))
    whole = [[(5, 0, 250)], [(6, 0, 1), (7, 0, 1)]]
    pieces = [[(5, 0, 100)], [(5, 100, 200)], [(5, 200, 250)], [(6, 0, 1), (7, 0, 1)]]
    assert splits == [[(0, 0, 10), (2, 0, 20)], [(3, 0, 90), (4, 0, 5)], *(whole if change else pieces)]
    assert list(cut([{"size": 0}, {"size": 300}], 100, whole=True)) == [[(0, 0, 0)], [(1, 0, 300)]]
    assert len(list(cut([{"size": 1}] * 1000, 1 << 20))) == 4


def test_steps_become_stages() -> None:
    steps = [{"map": "Map.py", "reduce": "Map.py"}, {"map": "Map.py"}, {"mapper": ["cat"], "reducer": ["uniq", "-c"]}]
    job, plan = spec([BLOCK], 2, options={"steps": steps}), MapReduce()
    plan.check(job)
    tasks = plan.plan(job)
    told = [(task.id, task.stage, task.report, task.final) for task in tasks]
    assert told == [
        ("map-00000", 0, "buffer", False), ("reduce-00000", 1, "buffer", False), ("reduce-00001", 1, "buffer", False),
        ("reduce-2-00000", 2, "get-result", True), ("reduce-2-00001", 2, "get-result", True)]
    results = {task.id: Result("n", raw_cid(task.id.encode()), 1, {}) for task in reversed(tasks)}
    params = [plan.params(job, task, results, "holder") for task in tasks]
    assert [(one["stage"], one["step"]) for one in params] == [("map", 0)] + [("reduce", 0)] * 2 + [("reduce", 2)] * 2
    assert [one["outputs"]["kind"] for one in params] == ["runs"] * 3 + ["files"] * 2
    runs = [run["run"]["manifest"] for run in params[4]["inputs"]]
    assert runs == [raw_cid(b"reduce-00000"), raw_cid(b"reduce-00001")] and params[4]["inputs"][0]["run"]["index"] == 1
    view = plan.view(job, {0: (1, 1), 1: (2, 1), 2: (2, 0)})
    assert view["maps"] == {"total": 1, "done": 1} and view["reduces"] == {"total": 4, "done": 1}


def test_local_input_is_one_map_on_each_chosen_node() -> None:
    nodes = ["Qm" + letter * 44 for letter in "ab"]
    job = spec([], 2, inputs=[], local={"pattern": "/var/log/*.csv"}, nodes=nodes)
    plan = MapReduce()
    plan.check(job)
    tasks = plan.plan(job)
    assert [(task.id, task.node) for task in tasks if not task.final] == list(zip(["map-00000", "map-00001"], nodes))
    params = plan.params(job, tasks[1], {}, "holder")
    assert params["inputs"] == [{"local": {"pattern": "/var/log/*.csv"}}] and params["providers"] == []


def test_more_bad_records_than_allowed_are_hopeless() -> None:
    job = spec([1], options={"steps": [{"map": "Map.py"}], "skip_bad": 2})
    assert MapReduce().hopeless(job, {"bad_records": 2}) == ""
    assert MapReduce().hopeless(job, {"bad_records": 3}) == "3 records are bad, and --skip-bad allows 2"


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
        (spec([LARGEST_SPLIT] * (MOST_SPLITS + 1)), "splits"),
        (spec([(1 << 50) - 1]), "splits"),
        (spec([1], reduce="Other.py"), "Other.py"),
        (spec([1], reduce=["Map.py"]), "not a name"),
        (spec([1], options=None), "objects"),
        (spec([1], options={}), "steps"),
        (spec([1], options={"steps": []}), "steps"),
        (spec([1], options={"steps": ["Map.py"]}), "step 1 has neither"),
        (spec([1], options={"steps": [{"combine": "Map.py"}]}), "step 1 has neither"),
        (spec([1], options={"steps": [{"map": "Map.py", "reducer": ["cat"]}]}), "functions and programs"),
        (spec([1], options={"steps": [{"mapper": "cat"}]}), "mapper of step 1"),
        (spec([1], options={"steps": [{"mapper": ["cat\0"]}]}), "mapper of step 1"),
        (spec([1], options={"steps": [{"mapper": ["x" * 9000]}]}), "mapper of step 1"),
        (spec([1], options={"steps": [{"map": "Map.py"}], "input_format": "xml"}), "input_format 'xml' is none of"),
        (spec([1], options={"steps": [{"map": "Map.py"}], "skip_bad": -1}), "skip_bad -1"),
        (spec([1], options={"steps": [{"map": "Map.py"}], "sort_values": 1}), "sort_values 1"),
        (spec([1], options={"steps": [{"map": "Map.py"}], "sort_budget": 10 << 20}), "of 16 MB beside.*--memory 32M"),
        (spec([1], local={"pattern": "/x"}), "at least one input"),
        (spec([], local={"pattern": "x"}), "does not begin with /"),
        (spec([], local={"pattern": "/x"}), "without nodes"),
        (spec([], inputs=[{"name": "a", "cid": "x y", "size": 1}]), "no name and CID"),
        (spec([], inputs=[{"name": "a", "cid": raw_cid(b""), "size": 1, "compression": "rar"}]), "compression 'rar'"),
        (spec([], inputs=[{"name": "a", "cid": raw_cid(b""), "size": 1, "holders": ["me"]}]), "holders"),
    ],
)
def test_what_cannot_be_is_refused_with_a_word_and_at_once(job: JobSpec, words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        MapReduce().check(job)


@pytest.mark.parametrize("change", [{"compression": "gz"}, {}])
def test_what_is_not_split_is_one_split_whatever_its_size(change: dict[str, str]) -> None:
    """A job over 1000 archives of a gigabyte has 1000 maps, and is no job of too many."""
    job = spec([1 << 30] * 1000)
    for item in job.body["inputs"]:
        item |= change
    if not change:
        job.body["options"]["input_format"] = "whole-file"
    MapReduce().check(job)
    assert sum(task.id.startswith("map-") for task in MapReduce().plan(job)) == 1000
