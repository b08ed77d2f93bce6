"""A job's options in whole jobs: partition, skip_bad, output formats; and what is said of pairs that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_mapreduce import Job, blocks_of, program
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.mapper import NoPair
from ipdc_edge.apps.mapreduce.output import ResultWriter
from ipdc_edge.apps.mapreduce.partitioner import PartitionRefused
from ipdc_edge.codec.keys import BadRecord, ValueNotCarried
from ipdc_edge.codec.runs import BadRun
from ipdc_edge.runner.failure import describe


def letters(key: int, line: str) -> Iterator[tuple[str, int]]:
    for letter in line:
        yield letter, 1


def total(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
    yield key, sum(values)


def same(key: object, value: object) -> Iterator[tuple[object, object]]:
    yield key, value


# Partition


@pytest.mark.parametrize("budget", [500, 1 << 20])
@pytest.mark.parametrize("combine", [None, total])
def test_keys_go_where_the_user_says(budget: int, combine: Any) -> None:
    def partition(key: str, count: int) -> int:
        assert count == 3
        return ord(key) - ord("b")  # "a" is -1: the last one

    user = program(map=letters, combine=combine, reduce=total, partition=partition)
    user.budget = budget
    parts = Job(user).run({"f": b"abcde\nedcba\n" * 40}, partitions=3)
    assert parts == [b"b\t80\ne\t80\n", b"c\t80\n", b"a\t80\nd\t80\n"]


def test_partition_gets_keys_as_they_are_and_only_step_s_own() -> None:
    seen = []

    def partition(key: object, count: int) -> int:
        seen.append(key)
        return True

    keys = [1, 1.0, ("a", 2), None, "é"]
    user = program({"map": lambda key, line: [(key, 1) for key in keys], "reduce": total, "partition": partition},
                   {"reduce": total})  # fmt: skip
    job = Job(user)
    assert sorted(b"".join(job.run({"f": b"x"})).splitlines()) == sorted(
        [b"1\t1", b"1.0\t1", b'["a",2]\t1', b"null\t1", "é\t1".encode()])  # fmt: skip
    assert sorted(map(repr, seen)) == sorted(map(repr, keys))
    assert [counters["groups"] for counters in job.counters if "groups" in counters][:2] == [0, 5]


@pytest.mark.parametrize("value", [None, "1", 1.0, (1,)])
@pytest.mark.parametrize("partitions", [1, 2])
def test_a_partition_that_is_no_int_names_key_and_value(value: object, partitions: int) -> None:
    user = program(map=letters, reduce=total, partition=lambda key, count: value)
    with pytest.raises(PartitionRefused) as caught:
        Job(user).run({"f": b"k"}, partitions=partitions)
    assert str(caught.value) == (
        f"partition must return an int, and for the key 'k' returned {value!r} of type {type(value).__name__}")
    assert caught.value.position == {"where": "partition", "record": "key 'k'"}  # type: ignore[attr-defined]


# Bad records


def picky(key: int, line: str) -> Iterator[tuple[str, object]]:
    yield line, 1
    if line == "set":
        yield line, {1}
    elif line == "thing":
        yield line  # type: ignore[misc]
    elif line != "good":
        raise LookupError(f"what is {line}?")


LINES = b"good\nbad\ngood\nworse\nset\ngood\nthing\n"


@pytest.mark.parametrize("kind", ["runs", "files"])
def test_bad_records_are_set_aside_whole(kind: str) -> None:
    user = program(map=picky, reduce=total if kind == "runs" else None, skip_bad=4)
    job = Job(user)
    parts = job.run({"in.txt": LINES}, split=1000, partitions=1)
    assert parts == [b"good\t3\n" if kind == "runs" else b"good\t1\n" * 3]
    assert job.counters[0]["bad_records"] == 4 and job.counters[0]["pairs"] == 3
    assert [(aside["where"], aside["input"], aside["offset"], aside["record"]) for aside in job.aside] == [
        ("map", "in.txt", 5, "bad"), ("map", "in.txt", 14, "worse"), ("map", "in.txt", 20, "set"),
        ("map", "in.txt", 29, "thing")]  # fmt: skip
    errors = [str(aside["error"]) for aside in job.aside]
    assert errors[0] == "LookupError: what is bad?" and "type set" in errors[2] and "NoPair" in errors[3]


def test_one_bad_record_too_many_is_the_last_one_s_error() -> None:
    job = Job(program(map=picky, reduce=total, skip_bad=1))
    with pytest.raises(LookupError, match="worse") as caught:
        job.run({"in.txt": LINES}, split=1000)
    position = caught.value.position  # type: ignore[attr-defined]
    assert (position["offset"], position["record"]) == (14, "worse") and len(job.aside) == 1
    details = describe(caught.value, 1 << 24, position)
    assert details["message"] == "what is worse? (bad record number 2 of this task, and skip_bad allows 1)"
    assert "note" not in details and "picky" in str(details["traceback"])


def test_what_cannot_be_parsed_is_set_aside_in_any_kind_of_map() -> None:
    data = b'{"a": 1}\nnothing\n[2]\n'
    for entries in ({"map": same}, {"map_lines": lambda values: ((None, value) for value in values)}, {}):
        job = Job(program(**entries, input_format="json", skip_bad=1))
        [part] = job.run({"in.json": data}, split=1000)
        assert [line.partition(b"\t")[2] for line in part.splitlines()] == [b'{"a":1}', b"[2]"]
        assert [(aside["where"], aside["offset"], aside["record"]) for aside in job.aside] == [("input", 9, "nothing")]


def test_later_maps_and_reduces_set_aside_a_pair_and_a_key() -> None:
    def odd(key: str, value: object) -> Iterator[tuple[str, object]]:
        yield key, value
        if key == "b":
            raise ValueError("b")

    def fails(key: str, values: Iterator[int]) -> Iterator[tuple[str, int]]:
        yield key, next(values)  # leaves some unread
        if key == "c":
            raise ValueError("c")

    job = Job(program({"map": letters}, {"map": odd, "reduce": fails}, {"map": odd}, skip_bad=10))
    assert job.run({"f": b"abcabcd" * 3}, partitions=1, split=1000) == [b"a\t1\nd\t1\n"]
    assert [(aside["where"], aside["record"]) for aside in job.aside] == [("map of step 2", "key 'b'")] * 6 + [
        ("reduce of step 2", "key 'c'")]  # fmt: skip
    assert [counters["bad_records"] for counters in job.counters] == [6, 1]


def test_what_is_not_the_record_s_fault_is_not_hidden() -> None:
    def hungry(key: int, line: str) -> None:
        raise MemoryError

    job = Job(program(map=hungry, skip_bad=10))
    with pytest.raises(MemoryError):
        job.run({"f": b"a"})
    from ipdc_edge.apps.mapreduce.task import make_task
    from ipdc_edge.runner.task_io import TaskIo

    for run, kind in ((b"no zlib", BadRun), (None, BadRecord)):
        if run is None:
            from ipdc_edge.codec.runs import RunWriter

            blocks: list[bytes] = []
            writer = RunWriter(blocks.append)
            writer.feed(["Sa\x00["])
            writer.finish()
            run = b"".join(blocks)
        read = blocks_of(run, 0, 1000)
        user = program(map=same, reduce=lambda key, values: [(key, list(values))], skip_bad=10)
        params = {"stage": "reduce", "step": 0, "inputs": [{}], "outputs": {"kind": "files", "count": 1}}
        with pytest.raises(kind):
            make_task(user, "t", params, TaskIo(lambda _: read(), lambda *_: None)).run()  # noqa: B023


def test_skipping_changes_nothing_where_all_is_good() -> None:
    data = b"abc\nbca\n\xff\n" * 100
    for entries in ({"map": letters, "combine": total, "reduce": total}, {"map": letters}, {"reduce": total}):
        if "map" not in entries:
            entries["map"] = letters
        parts = [Job(program(**entries, skip_bad=skip)).run({"f": data}) for skip in (0, 5)]
        assert parts[0] == parts[1]


# Output formats


def written(pairs: list[tuple[object, object]], form: str, chunk: int = 1 << 20) -> bytes:
    chunks: list[bytes] = []
    writer = ResultWriter(chunks.append, form, chunk)
    writer.write(iter(pairs))
    writer.finish()
    assert writer.records == len(pairs) and {len(one) for one in chunks[:-1]} <= {chunk}
    return b"".join(chunks)


def test_json_lines() -> None:
    pairs: list[tuple[object, object]] = [("é\n", {"a": [b"x", (1, None)]}), (b"\xff", 1.5), (("t", b""), "a\udcff")]
    assert written(pairs, "json") == (
        '["é\\n",{"a":[{"/":{"bytes":"eA"}},[1,null]]}]\n'.encode()
        + b'[{"/":{"bytes":"/w"}},1.5]\n[["t",{"/":{"bytes":""}}],"a\\udcff"]\n')  # fmt: skip
    with pytest.raises(ValueNotCarried, match="type set"):
        written([("a", {1})], "json")


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
RAW = st.binary(max_size=20)
RAW_TEXT = RAW.map(lambda data: data.decode("utf-8", "surrogateescape"))


@given(st.lists(st.tuples(VALUES, VALUES), max_size=20), st.integers(1, 50))
def test_json_results_are_read_back_by_anybody(pairs: list[tuple[object, object]], chunk: int) -> None:
    lines = written(pairs, "json", chunk).decode("utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [[key, value] for key, value in pairs] and not lines[-1]


@given(st.lists(st.one_of(RAW, RAW_TEXT), max_size=12), st.integers(1, 50))
def test_raw_results_are_the_values_and_nothing_else(values: list[Any], chunk: int) -> None:
    data = b"".join(one if isinstance(one, bytes) else one.encode("utf-8", "surrogateescape") for one in values)
    assert written([("key", value) for value in values], "raw", chunk) == data


@pytest.mark.parametrize("value", [1, None, ["x"], "\ud800"])
def test_raw_results_are_text_or_bytes(value: object) -> None:
    with pytest.raises(ValueNotCarried, match="a result of type"):
        written([("key", value)], "raw")


@pytest.mark.parametrize(("form", "result"), [("text", b"a\t2\n"), ("json", b'["a",2]\n'), ("raw", b"2")])
def test_a_job_writes_in_its_format(form: str, result: bytes) -> None:
    def reducer(key: str, values: Iterator[int]) -> Iterator[tuple[str, object]]:
        yield key, str(sum(values)) if form == "raw" else sum(values)

    assert Job(program(map=letters, reduce=reducer, output_format=form)).run({"f": b"aa"}, partitions=1) == [result]


# Pairs that are none, and keys that are too long


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize("thing", ["word", 5, None, (1, 2, 3)])
def test_what_is_no_pair_is_shown(thing: object, before: int) -> None:
    def mapper(key: int, line: str) -> Iterator[Any]:
        yield from [("a", 1)] * before
        yield thing

    for keys in ([], [(1, 1)]):
        user = program(map=lambda key, line: [*keys, *mapper(key, line)], reduce=total)  # noqa: B023
        with pytest.raises(NoPair) as caught:
            Job(user).run({"in.txt": b"x"})
        assert f"gave {thing!r} of type {type(thing).__name__}" in str(caught.value)
        assert caught.value.position == {"where": "map", "input": "in.txt"}  # type: ignore[attr-defined]


def test_a_value_of_the_user_s_own_error_type_is_not_taken_for_no_pair() -> None:
    def mapper(key: int, line: str) -> Iterator[Any]:
        yield "a", 1
        raise ValueError("not enough of my own")

    with pytest.raises(ValueError, match="my own"):
        Job(program(map=mapper, reduce=total)).run({"f": b"x"})


def test_a_key_of_1_mb_is_refused_with_advice() -> None:
    for kind in (lambda key, line: [(line, 1)], lambda key, line: [(line, 1)] * 2):
        with pytest.raises(ValueNotCarried, match="at most 65536; make a key of its hash") as caught:
            Job(program(map=kind, reduce=total)).run({"f": b"x" * (1 << 20)}, block=1 << 18)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("function", [lambda line: [], lambda key, line, more: []])
def test_a_function_with_other_parameters_is_told_how_it_is_called(function: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Job(program(map=function, reduce=total)).run({"f": b"x"})
    error = caught.value
    error.__traceback__ = None
    assert "map(key, value)" in str(describe(error, 1, {})["message"])


def test_what_a_reduce_gives_waits_in_scratch_when_it_is_much() -> None:
    """With skip_bad nothing of a key may get out before its reduce has come to its end."""
    import tracemalloc

    odd = [("t", (1, b"x")), (b"k", {"a": [None]}), ("s\udcff", 1.5)]

    def spread(key: str, values: Iterator[int]) -> Iterator[tuple[object, object]]:
        for value in values:
            for number in range(20_000):
                yield f"{value}-{number:06}", number
            yield from odd
            if key == "bad":
                raise ValueError(key)

    seen = []

    def look(key: object, value: object) -> Iterator[tuple[object, object]]:
        if (key, value) in odd:
            seen.append((key, value))
        yield key, value

    job = Job(program({"map": lambda key, line: [(line, 1)], "reduce": spread}, {"map": look}, skip_bad=1))
    tracemalloc.start()
    try:
        [part] = job.run({"f": b"bad\ngood\ngood\n"}, split=1000, partitions=1)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert part.count(b"\n") == 2 * 20_003 and seen == odd * 2
    assert [aside["record"] for aside in job.aside] == ["key 'bad'"] and job.counters[1]["spilled_bytes"] > 500_000
