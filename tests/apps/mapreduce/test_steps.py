"""Jobs of several steps, against plain Python; where failures are said to be."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_mapreduce import Job, program, scratch_files
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.task import make_task
from ipdc_edge.codec.runs import RunWriter
from ipdc_edge.runner.task_io import TaskIo


def words(key: int, line: str) -> Iterator[tuple[str, int]]:
    for word in line.split():
        yield word, 1


def total(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
    yield key, sum(values)


def swap(key: object, value: object) -> Iterator[tuple[object, object]]:
    yield value, key


def joined(key: object, values: Iterator[str]) -> Iterator[tuple[object, list[str]]]:
    yield key, sorted(values)


TEXT = "\n".join(" ".join(f"w{n * n % 97}" for n in range(at, at + 7)) for at in range(300)).encode()
COUNTS = Counter(TEXT.decode().split())


def result_of(parts: list[bytes]) -> dict[str, Any]:
    lines = [line.split("\t") for part in parts for line in part.decode().splitlines()]
    assert len({key for key, _ in lines}) == len(lines)
    return {key: json.loads(value) for key, value in lines}


@pytest.mark.parametrize("budget", [2000, 1 << 20])
@pytest.mark.parametrize("partitions", [1, 3])
def test_two_reduces_in_a_row(budget: int, partitions: int) -> None:
    marked = {"map": lambda key, value: [(f"{key}!", value)]}
    user = program({"map": words, "combine": total, "reduce": total}, {"map": swap, "reduce": joined}, marked)
    user.budget = budget
    job = Job(user)
    by_count: dict[str, list[str]] = {}
    for word, count in sorted(COUNTS.items()):
        by_count.setdefault(f"{count}!", []).append(word)
    assert result_of(job.run({"f": TEXT}, partitions=partitions)) == by_count
    middle = [counters for counters in job.counters if "pairs" in counters and "groups" in counters]
    assert len(middle) == partitions and sum(counters["groups"] for counters in middle) == len(COUNTS)


def test_types_go_from_step_to_step_as_they_are() -> None:
    seen = []

    def things(key: int, line: str) -> Iterator[tuple[object, object]]:
        for thing in (None, True, 7, 2.5, "s", b"\xff", ("t", 1)):
            yield thing, thing

    def first(key: object, values: Iterator[object]) -> Iterator[tuple[object, object]]:
        yield key, next(values)

    def again(key: object, value: object) -> Iterator[tuple[object, object]]:
        seen.append((key, value))
        yield key, value

    def last(key: object, values: Iterator[object]) -> None:
        seen.append((key, next(values)))

    job = Job(program({"map": things, "reduce": first}, {"map": again}, {"map": again, "reduce": last}))
    job.run({"f": b"x"}, partitions=1)
    pairs = [(thing, [*thing] if isinstance(thing, tuple) else thing) for thing in
             (None, True, 7, 2.5, "s", b"\xff", ("t", 1))]  # fmt: skip
    assert seen == [pair for pair in pairs for _ in (0, 1)] + pairs
    assert type(seen[2][0]) is bool


def test_maps_without_reduce_are_one_task_and_may_be_of_either_kind() -> None:
    def halves(pairs: Iterator[tuple[int, str]]) -> Iterator[tuple[str, int]]:
        for number, (_key, line) in enumerate(pairs):
            if not number % 2:
                yield line, number

    user = program({"map": lambda key, line: [(key, line)]}, {"map_lines": halves}, {"map": swap}, {})
    assert Job(user).run({"f": b"a\nb\nc\n"}) == [b"0\ta\n2\tc\n"]


def test_a_step_without_map_passes_pairs_on() -> None:
    assert Job(program({"reduce": joined})).run({"f": b"b\na\n"}, partitions=1) == [b'0\t["b"]\n2\t["a"]\n']
    user = program({"map": words, "reduce": total}, {"reduce": total}, {"map": swap})
    assert Job(user).run({"f": b"b a b"}, partitions=1) == [b"1\ta\n2\tb\n"]
    assert Job(program({})).run({"f": b"b\na\n"}) == [b"0\tb\n2\ta\n"]


@pytest.mark.parametrize("kind", ["runs", "files"])
@pytest.mark.parametrize("entries", [{"map": words}, {"map_lines": words}, {"mapper": ["cat"]}, {}], ids=str)
def test_a_node_without_files_of_its_own_has_nothing_to_map(kind: str, entries: dict[str, Any]) -> None:
    def write(stream: int, block: bytes) -> None:
        raise AssertionError("something was written")

    if "map_lines" in entries:
        entries = {"map_lines": lambda lines: ((line, 1) for line in lines)}
    params = {"stage": "map", "step": 0, "index": 0, "inputs": [], "outputs": {"kind": kind, "count": 1}}
    with scratch_files() as scratch:
        done = make_task(program(**entries), "t", params, TaskIo(lambda _: b"", write, scratch=scratch)).run()
    assert done["streams"] == [{"records": 0, "bytes": 0}] and done["counters"]["input_records"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=120), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3),
       st.sampled_from([300, 1 << 20]))  # fmt: skip
def test_combine_or_not_reduce_gets_the_same_sums(
    letters: list[str], split: int, partitions: int, together: int, budget: int
) -> None:
    data = "\n".join(letters).encode()
    expected = dict(Counter(letters))
    for combine in (None, total):
        first = {"map": words, "combine": combine, "reduce": total}
        user = program(first, {"map": swap}, {"map": swap, "reduce": total})
        user.budget = budget
        parts = Job(user).run({"f": data}, split=split, partitions=partitions, together=together, block=7)
        assert result_of(parts) == expected


# Failures


def failure_of(user: Any, data: bytes = b"one\ntwo\nthree\n") -> dict[str, object]:
    with pytest.raises(ZeroDivisionError) as caught:
        Job(user).run({"in.txt": data}, partitions=1, split=1000)
    return caught.value.position  # type: ignore[attr-defined, no-any-return]


def fails_on(word: str) -> Any:
    def function(key: object, value: object) -> Iterator[tuple[object, object]]:
        yield key, 1 // (word not in (key, value))

    return function


def test_a_failure_names_the_step_and_what_was_read() -> None:
    line = {"input": "in.txt", "offset": 4, "record": "two"}
    keep = {"map": swap}
    assert failure_of(program({"map": fails_on("two")}, keep)) == {"where": "map of step 1", **line}
    assert failure_of(program(keep, {"map": fails_on("two")})) == {"where": "map of step 2", **line}
    assert failure_of(program(keep, {"map": fails_on("two")}, {"reduce": joined})) == {"where": "map of step 2", **line}
    key = {"record": "key 'two'"}
    user = program({"map": swap, "reduce": lambda key, values: [(key, 1 // (key != "two"))]}, keep)
    assert failure_of(user) == {"where": "reduce of step 1", **key}
    user = program({"map": swap, "reduce": joined}, {"map": fails_on("two"), "reduce": joined})
    assert failure_of(user) == {"where": "map of step 2", **key}
    twice = {"map": lambda key, value: [(key, value)] * 2, "combine": fails_on("two"), "reduce": joined}
    user = program({"map": swap, "reduce": joined}, twice)
    assert failure_of(user) == {"where": "combine of step 2", **key}
    user = program({"map": swap, "reduce": joined, "partition": lambda key, count: 1 // (key != "two")})
    assert failure_of(user) == {"where": "partition", **key}


def test_a_map_over_lines_that_draws_from_a_failing_one_is_not_blamed() -> None:
    def through(pairs: Iterator[tuple[object, object]]) -> Iterator[tuple[object, object]]:
        yield from pairs

    where = failure_of(program({"map": fails_on("two")}, {"map_lines": through}))["where"]
    assert where == "map of step 1"


def test_a_merge_and_a_sorter_share_the_memory() -> None:
    """A reduce with another after it: 100 runs are merged while what comes of them is sorted."""
    budget = 2 << 20
    runs = []
    for number in range(100):
        blocks: list[bytes] = []
        writer = RunWriter(blocks.append)
        writer.feed_all([f"Sk{word:06}\x00{word * 7919 % 1000003}" for word in range(number, 200_000, 100)])
        writer.finish()
        runs.append(iter(blocks))

    def spread(key: str, values: Iterator[int]) -> Iterator[tuple[str, str]]:
        for value in values:
            yield f"{value:08}", key

    user = program({"map": words, "reduce": spread}, {"reduce": total}, sort_budget=budget)
    params = {"stage": "reduce", "step": 0, "inputs": [{}] * 100, "outputs": {"kind": "runs", "count": 2}}
    made = [0]

    def write(stream: int, block: bytes) -> None:
        made[0] += len(block)

    with scratch_files() as scratch:
        task = make_task(user, "t", params, TaskIo(lambda n: next(runs[n], b""), write, lambda *_: None, scratch))
        tracemalloc.start()
        try:
            done = task.run()
            assert tracemalloc.get_traced_memory()[1] < 1.1 * budget, tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert done["counters"]["groups"] == done["counters"]["pairs"] == 200_000 and done["counters"]["spills"] > 3
