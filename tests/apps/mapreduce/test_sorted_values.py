"""sort_values: the encoding's order and round trip, and jobs whose reduce gets values in order."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_mapreduce import Job, program
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce import merge
from ipdc_edge.codec.keys import BadRecord, ValueNotCarried, encode_key
from ipdc_edge.codec.sorted_values import SORTED, decode_value, encode_value

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=6)
RAW_TEXT = st.binary(max_size=6).map(lambda data: data.decode("utf-8", "surrogateescape"))
NUMBERS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False))
ITEMS = st.one_of(st.none(), NUMBERS, TEXT, RAW_TEXT, st.binary(max_size=6))
VALUES = st.recursive(ITEMS, lambda inner: st.lists(inner, max_size=3).map(lambda one: [*one]), max_leaves=6)
KEYS = st.sampled_from(["a", "ab", "b", 1, 1.0, True, None, b"a", ("a", 1)])
RANK = {type(None): 0, bool: 1, int: 2, float: 3, str: 4, bytes: 5, list: 6}


def documented(first: Any, second: Any) -> int:
    """The documented order, written once more: -1, 0, 1."""
    if type(first) is not type(second):
        return RANK[type(first)] - RANK[type(second)]
    if isinstance(first, list):
        for one, other in zip(first, second):
            if documented(one, other):
                return documented(one, other)
        return len(first) - len(second)
    if isinstance(first, str):
        first, second = (text.encode("utf-8", "surrogateescape") for text in (first, second))
    if isinstance(first, float) and first == second == 0:
        first, second = math.copysign(1, first), math.copysign(1, second)
    if first is None or first == second:
        return 0
    return -1 if first < second else 1


def same(first: Any, second: Any) -> bool:
    return documented(first, second) == 0


@given(st.lists(VALUES, max_size=12))
def test_sorting_the_text_sorts_the_values(values: list[Any]) -> None:
    found = [decode_value(text) for text in sorted(map(encode_value, values))]
    expected = sorted(values, key=functools.cmp_to_key(documented))
    assert len(found) == len(values) and all(map(same, found, expected))


@given(VALUES)
def test_values_come_back_and_keep_within_their_line(value: Any) -> None:
    text = encode_value(value)
    assert same(decode_value(text), value) and not set(text) & {"\0", "\n"}


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_hostile_values_are_bad_records_or_canonical(text: str) -> None:
    for tag in ("", "A", "B", "I", "R", "S", "X", "Z", "ZZ"):
        try:
            value = decode_value(tag + text)
        except BadRecord:
            continue
        assert encode_value(value) == tag + text


def test_tuples_come_back_as_lists_as_elsewhere() -> None:
    assert decode_value(encode_value((1, (2, [3]), bytearray(b"x")))) == [1, [2, [3]], b"x"]


@pytest.mark.parametrize(
    ("value", "words"),
    [({"a": 1}, "a value of type dict .*'k'.*tuples and lists of these"), ([{}], "type dict"), ({1}, "type set"),
     (math.nan, "NaN"), ([math.nan], "NaN"), ("\ud800", "surrogate"), ("x" * 1_100_000, "1048576"),
     (functools.reduce(lambda inner, _: [inner], range(60), []), "deep")],
)  # fmt: skip
def test_what_has_no_place_in_an_order_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueNotCarried, match=words):
        SORTED.many("", [encode_key("k")], [[1, value]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=120), st.sampled_from([1, 2000, 1 << 20]), st.integers(1, 3),
       st.integers(2, 6))  # fmt: skip
def test_reduce_gets_values_in_order(pairs: list[tuple[Any, Any]], budget: int, partitions: int, fan_in: int) -> None:
    seen: dict[str, list[Any]] = {}

    def mapper(key: int, line: str) -> list[tuple[Any, Any]]:
        return pairs[int(line) : int(line) + 7]

    def reducer(key: Any, values: Iterator[Any]) -> None:
        assert encode_key(key) not in seen
        seen[encode_key(key)] = list(values)

    data = "".join(f"{number}\n" for number in range(0, len(pairs), 7)).encode()
    user = program(map=mapper, reduce=reducer, sort_values=True)
    user.budget = budget
    before, merge.FAN_IN = merge.FAN_IN, fan_in
    try:
        Job(user).run({"f": data}, split=10, partitions=partitions)
    finally:
        merge.FAN_IN = before
    expected: dict[str, list[Any]] = {}
    for key, value in pairs:
        expected.setdefault(encode_key(key), []).append(value)
    assert seen.keys() == expected.keys()
    for key, values in expected.items():
        values.sort(key=functools.cmp_to_key(documented))
        assert len(seen[key]) == len(values) and all(map(same, seen[key], values))


@pytest.mark.parametrize("budget", [3000, 1 << 20])
def test_combine_works_on_them_and_steps_do(budget: int) -> None:
    def mapper(key: int, line: str) -> Iterator[tuple[str, int]]:
        for word in line.split():
            yield word, key + 1

    def total(key: str, values: Iterator[int]) -> Iterator[tuple[str, int]]:
        yield key, sum(values)

    def spread(key: str, values: Iterator[int]) -> Iterator[tuple[str, Any]]:
        found = sum(values)
        yield from ((key, [found, item]) for item in ("z", 1, b"", None))

    def listed(key: str, values: Iterator[Any]) -> Iterator[tuple[str, Any]]:
        yield key, list(values)

    data = "".join(f"w{number % 90} w{number % 7}\n" for number in range(600)).encode()
    expected: dict[str, int] = {}
    offset = 0
    for line in data.decode().splitlines():
        for word in line.split():
            expected[word] = expected.get(word, 0) + offset + 1
        offset += len(line) + 1
    first = {"map": mapper, "combine": total, "reduce": spread}
    user = program(first, {"reduce": listed}, sort_values=True)
    user.budget = budget
    job = Job(user)
    parts = job.run({"f": data}, split=len(data), partitions=1)
    assert (job.counters[0]["spills"] > 3) == (budget == 3000)
    assert {key: json.loads(value) for key, value in (line.split("\t") for line in parts[0].decode().splitlines())} == {
        word: [[sum, None], [sum, 1], [sum, "z"], [sum, {"/": {"bytes": ""}}]] for word, sum in expected.items()}


def test_memory_counts_the_lines_that_values_become() -> None:
    """One key, many small values: each becomes a line, which is what takes the memory."""
    import tracemalloc

    budget = 1 << 20

    def mapper(key: int, line: str) -> Iterator[tuple[str, int]]:
        for number in range(60_000):
            yield "key", number % 200

    user = program(map=mapper, reduce=lambda key, values: [(key, sum(values))], sort_values=True)
    user.budget = budget
    tracemalloc.start()
    try:
        assert Job(user).run({"f": b"x"}, partitions=1) == [b"key\t%d\n" % (sum(range(200)) * 300)]
        assert tracemalloc.get_traced_memory()[1] < 3 * budget
    finally:
        tracemalloc.stop()
