"""Whole jobs by the pieces, against plain Python programs; results as text; positions of failures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from helpers_mapreduce import blocks_of, program, run_job, scratch_files
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.output import ResultWriter
from ipdc_edge.apps.mapreduce.reducer import Groups, reduced_pairs
from ipdc_edge.apps.mapreduce.task import make_task
from ipdc_edge.codec.keys import BadRecord, ValueNotCarried, decode_key, encode_key
from ipdc_edge.codec.records import encode_lines
from ipdc_edge.runner.task_io import TaskIo


def words(key: int, line: str) -> Iterator[tuple[str, int]]:
    for word in line.split():
        yield word, 1


def words_of_all(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        for word in line.split():
            yield word, 1


def total(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
    yield key, sum(values)


def text_of(size: int) -> bytes:
    generator = random.Random(1)
    vocabulary = [
        generator.choice(["a", "the", "naïve", "日", "x\udcff", "end."]) + str(number) for number in range(500)
    ]
    lines = [" ".join(generator.choices(vocabulary, k=generator.randrange(12))) for _ in range(size // 40)]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("combine", [None, total])
@pytest.mark.parametrize("mapper", [{"map": words}, {"map_lines": words_of_all}])
@pytest.mark.parametrize("budget", [3000, 1 << 20])
def test_word_count_is_that_of_a_plain_program(combine: object, mapper: dict, budget: int) -> None:
    data = text_of(60_000)
    expected = Counter(data.decode("utf-8", "surrogateescape").split())
    plain = sorted(f"{word}\t{count}\n".encode("utf-8", "surrogateescape") for word, count in expected.items())
    user = program(**mapper, reduce=total, combine=combine, sort_budget=1)
    user.budget = budget
    parts, counters = run_job(user, data, split=9973, block=1000, partitions=3)
    assert sorted(b"".join(parts).splitlines(keepends=True)) == plain
    # each part is sorted by key, as `LC_ALL=C sort` would have it
    assert all(
        keys == sorted(keys) for keys in ([line.split(b"\t")[0] for line in part.splitlines()] for part in parts)
    )
    maps = [entry for entry in counters if "pairs" in entry]
    assert sum(entry["pairs"] for entry in maps) == sum(expected.values())
    assert sum(entry["input_bytes"] for entry in maps) == len(data)
    assert (sum(entry["spills"] for entry in maps) > 0) == (budget == 3000)


def test_more_maps_than_the_fan_in() -> None:
    data = text_of(30_000)
    parts, counters = run_job(program(map=words, reduce=total), data, split=300, partitions=1)
    assert len(counters) > 65 and counters[-1]["spilled_bytes"] > 0
    assert parts[0].count(b"\n") == len(set(data.decode("utf-8", "surrogateescape").split()))


def test_an_empty_input_gives_empty_parts() -> None:
    assert run_job(program(map=words, reduce=total, combine=total), b"")[0] == [b"", b""]


def test_a_function_may_return_none_or_a_list() -> None:
    def mapper(key: int, line: str) -> list | None:
        return [(line, key)] if line != "no" else None

    def reducer(key: str, values: Iterator[int]) -> list | None:
        return [(key, list(values))] if key != "b" else None

    assert run_job(program(map=mapper, reduce=reducer), b"a\nno\nb\na\n", partitions=1)[0] == [b"a\t[0,7]\n"]


def test_types_reach_reduce_as_they_were() -> None:
    seen = []

    def mapper(key: int, line: str) -> Iterator[tuple[object, object]]:
        for thing in (None, True, 7, 2.5, "s", b"\xff", ("t", 1)):
            yield thing, thing

    def reducer(key: object, values: Iterator[object]) -> None:
        seen.append((key, list(values)))

    run_job(program(map=mapper, reduce=reducer), b"x", partitions=1)
    assert seen == [
        (None, [None]),
        (True, [True]),
        (7, [7]),
        (2.5, [2.5]),
        ("s", ["s"]),
        (b"\xff", [b"\xff"]),
        (("t", 1), [["t", 1]]),
    ]
    assert type(seen[1][0]) is bool


# Groups


def batches_of(pairs: list[tuple[object, list[int]]], step: int) -> list[list[str]]:
    lines = [line for key, values in pairs for value in values for line in encode_lines(encode_key(key), [value])]
    lines.sort()
    return [lines[at : at + step] for at in range(0, len(lines), step)]


@given(
    st.dictionaries(st.text("ab", max_size=3), st.lists(st.integers(0, 20), min_size=1, max_size=6)),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_groups_however_batches_are_cut_and_values_used(pairs: dict, step: int, use: int) -> None:
    groups = Groups(batches_of(list(pairs.items()), step), lambda *_: None)
    seen = {}
    for key, values in groups:
        taken = [value for _, value in zip(range(use), values)]
        seen[key] = taken if use < 3 else taken + list(values)
        if use == 3:
            assert sorted(seen[key]) == sorted(pairs[key])
    assert list(seen) == sorted(pairs) and groups.groups == len(pairs)


def test_values_of_one_key_are_never_held() -> None:
    alive = []

    def batches() -> Iterator[list[str]]:
        for number in range(1000):
            alive.append(number)
            yield ["Sk\x001"] * 100

    groups = Groups(batches(), lambda *_: None)
    _key, values = next(iter(groups))
    assert [next(values) for _ in range(150)] == [1] * 150
    assert len(alive) <= 3


@pytest.mark.parametrize("line", ["no nul", "Q\x001", "Sa\x00[", "Sa\x00"])
def test_hostile_lines_are_bad_records(line: str) -> None:
    with pytest.raises(BadRecord):
        for _key, values in Groups([[line]], lambda *_: None):
            list(values)


# Results


def test_results_are_chunks_of_an_exact_size() -> None:
    chunks: list[bytes] = []
    writer = ResultWriter(chunks.append, "text", 100)
    writer.write(("k", number) for number in range(5000))
    writer.finish()
    assert {len(chunk) for chunk in chunks[:-1]} == {100} and writer.bytes == sum(map(len, chunks))
    assert b"".join(chunks) == b"".join(b"k\t%d\n" % number for number in range(5000))


def test_text_of_results() -> None:
    chunks: list[bytes] = []
    writer = ResultWriter(chunks.append)
    pairs: list[tuple[object, object]] = [
        ("é", "a\udcff"),
        (1, 1.5),
        (None, True),
        (("a", 1), {"b": [b"x"]}),
        ("n", "ü"),
    ]
    writer.write(iter(pairs))
    writer.finish()
    assert (
        b"".join(chunks)
        == "é\ta".encode() + b'\xff\n1\t1.5\nnull\ttrue\n["a",1]\t{"b":[{"/":{"bytes":"eA"}}]}\n' + "n\tü\n".encode()
    )
    with pytest.raises(ValueNotCarried, match="a result"):
        ResultWriter(chunks.append).write(iter([("a", "\ud800")]))
    with pytest.raises(ValueNotCarried, match="type set"):
        ResultWriter(chunks.append).write(iter([("a", {1})]))


def test_a_map_only_job_writes_text() -> None:
    written: list[tuple[int, bytes]] = []
    read = blocks_of(b"b\na\n", 0, 10)
    params = {
        "stage": "map",
        "inputs": [{"range": {"name": "f", "start": 0, "end": 4}}],
        "outputs": {"kind": "files", "count": 1},
    }
    with scratch_files() as scratch:
        io = TaskIo(lambda _: read(), lambda *write: written.append(write), lambda *_: None, scratch)
        done = make_task(program(map=lambda key, line: [(line, key)]), "map-00000", params, io).run()
    assert written == [(0, b"b\t0\na\t2\n")]
    assert done["streams"] == [{"records": 2, "bytes": 8}]


# Failures


def failing_task(user: object, params: dict, blocks: list[bytes]) -> dict[str, object]:
    waiting = iter(blocks)
    with scratch_files() as scratch:
        io = TaskIo(lambda _: next(waiting, b""), lambda *_: None, lambda *_: None, scratch)
        task = make_task(user, "task", params, io)  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            task.run()
        return task.position()


@pytest.mark.parametrize("kind", ["runs", "files"])
def test_a_failure_in_map_names_input_offset_and_line(kind: str) -> None:
    def mapper(key: int, line: str) -> Iterator[tuple[str, int]]:
        yield line, 1
        yield line, 1 // (line != "bäd")

    data = "one\ntwo ü\nbäd\nfour\n".encode()
    params = {
        "stage": "map",
        "inputs": [{"range": {"name": "in.txt", "start": 0, "end": len(data)}}],
        "outputs": {"kind": kind, "count": 1},
    }
    position = failing_task(program(map=mapper), params, [data])
    assert position == {
        "where": "map",
        "input": "in.txt",
        "offset": data.index("bäd".encode()),
        "record": "bäd",
    }


def test_a_failure_in_reduce_names_the_key() -> None:
    from ipdc_edge.codec.runs import RunWriter

    blocks: list[bytes] = []
    writer = RunWriter(blocks.append)
    writer.feed(["Sa\x001", "Sb\x001", "Sc\x001"])
    writer.finish()
    user = program(reduce=lambda key, values: [(key, 1 // (key != "b"))])
    params = {"stage": "reduce", "inputs": [{}], "outputs": {"kind": "files", "count": 1}}
    assert failing_task(user, params, blocks) == {"where": "reduce", "record": "key 'b'"}


def test_reduced_pairs_are_lazy() -> None:
    pairs = reduced_pairs(total, Groups(batches_of([("a", [1, 2]), ("b", [3])], 2), lambda *_: None))
    assert list(pairs) == [("a", 3), ("b", 3)]
    assert decode_key("Sa") == "a"
