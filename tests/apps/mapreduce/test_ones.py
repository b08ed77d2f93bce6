"""Counting ones: it gives what lists of ones give, and ends at the first pair that is another."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from helpers_mapreduce import scratch_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sorter import sort, total

from ipdc_edge.apps.mapreduce.ones import MOST
from ipdc_edge.apps.mapreduce.sorter import Sorter
from ipdc_edge.codec.keys import decode_key, encode_key

KEYS = st.one_of(st.sampled_from(["a", "b", "c", "é", "\udcc3\udca9", "tab\t"]), st.text("xyzé\n", max_size=3))
ONES = st.lists(st.tuples(KEYS, st.just(1)), max_size=200)
OTHERS = st.sampled_from([("a", 2), ("a", True), ("é", 1.0), (1, 1), (True, 1), (None, 1), (("a", "b"), 1), ("b", "1")])
BUDGETS = st.sampled_from([1, 3000, 1 << 20])


def exact(key: object, value: object) -> tuple[str, str]:
    """1, 1.0 and True are not the same."""
    return encode_key(key), repr(value)


@settings(max_examples=200)
@given(ONES, st.lists(OTHERS, max_size=2), ONES, BUDGETS, st.integers(1, 3))
def test_ones_are_all_there_whatever_comes_between(before: list, other: list, after: list, budget: int,
                                                   partitions: int) -> None:  # fmt: skip
    pairs = [*before, *other, *after]
    found, sorter = sort(pairs, budget, partitions)
    values = Counter((key, repr(value)) for lines in found for key, values in lines for value in values)
    assert values == Counter(exact(key, value) for key, value in pairs)
    assert all([key for key, _ in lines] == sorted(key for key, _ in lines) for lines in found)
    assert sorter.pairs == len(pairs)


@settings(max_examples=200)
@given(ONES, st.lists(OTHERS.filter(lambda pair: type(pair[1]) is int), max_size=2), ONES, BUDGETS, st.integers(1, 3))
def test_ones_are_combined(before: list, other: list, after: list, budget: int, partitions: int) -> None:
    pairs = [*before, *other, *after]
    expected: Counter = Counter()
    for key, value in pairs:
        expected[encode_key(key)] += value
    found, sorter = sort(pairs, budget, partitions, total)
    assert [(key, values) for lines in found for key, values in lines] == [
        (key, [expected[key]]) for lines in found for key, _ in lines]  # fmt: skip
    assert {key for lines in found for key, _ in lines} == set(expected)
    assert sorter.pairs == len(pairs)


@pytest.mark.parametrize("budget, ones", [(3000, 60), (1 << 20, 20_000), (6 << 20, 120_000)])
def test_frequent_ones_outlast_the_first_other_value(budget: int, ones: int) -> None:
    pairs = [(f"w{number}", 1) for number in range(5)] + [("the", 1)] * ones + [("the", 2)]
    found, sorter = sort(pairs, budget, 1, total)
    assert dict(found[0]) == {"Sthe": [ones + 2], **{f"Sw{number}": [1] for number in range(5)}}
    assert sorter.spills == 1


def test_values_after_ones_keep_their_order() -> None:
    for many in (5, 200_000):  # as lists, or spilled
        found, sorter = sort([("a", 1)] * many + [("a", 3), ("a", 1), ("a", 2)], 1 << 20)
        assert [value for _, values in found[0] for value in values][many - 1 :] == [1, 3, 1, 2]
        assert sorter.spills == (many > 5)


@pytest.mark.parametrize("count", [1, 2, MOST - 1, MOST, MOST + 1, 2 * MOST, 3 * MOST + 5])
def test_a_line_has_a_bound(count: int) -> None:
    found, _ = sort([("a", 1)] * count + [("b", 1)], 1 << 30)
    assert [len(values) for key, values in found[0] if key == "Sa"].count(MOST) >= count // MOST
    assert all(len(values) <= MOST and set(values) == {1} for _, values in found[0])
    assert sum(len(values) for key, values in found[0] if key == "Sa") == count and found[0][-1] == ("Sb", [1])


def test_a_frequent_key_is_not_in_every_spill() -> None:
    pairs = [pair for number in range(60_000) for pair in (("the", 1), (f"rare{number}", 1))]
    seen = []

    def combine(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
        seen.append((key, len(list(values))))
        yield seen[-1]

    found, sorter = sort(pairs, 1 << 20, 1, combine)
    assert sorter.spills > 3
    assert [entry for entry in seen if entry[0] == "the"] == [("the", 60_000)]
    assert dict(found[0])["Sthe"] == [60_000]


def test_partition_and_combine_get_real_keys() -> None:
    keys = ["é", "plain", "tab\t", "\udcff"]
    asked = []

    def partition(key: str, count: int) -> int:
        asked.append(key)
        return keys.index(key)

    for combine in (None, total):
        blocks: list[list[bytes]] = [[] for _ in keys]
        with scratch_files() as scratch:
            sorter = Sorter(1 << 20, 4, combine, scratch, partition)  # type: ignore[arg-type]
            sorter.add((key, 1) for key in keys * 3)
            written = sorter.finish(lambda number, block: blocks[number].append(block))  # noqa: B023
        assert [entry["records"] for entry in written] == [1, 1, 1, 1]
    assert sorted(asked) == sorted(keys * 2)


@pytest.mark.parametrize("combine", [None, total])
def test_memory_is_what_the_budget_says(combine: object) -> None:
    budget = 2 << 20
    tracemalloc.start()
    try:
        with scratch_files() as scratch:
            sorter = Sorter(budget, 2, combine, scratch)  # type: ignore[arg-type]
            sorter.add((f"key{number * 7919 % 100_003}", 1) for number in range(500_000))
            held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorter.spills > 2 and held < 2 * budget, f"{held} bytes with {sorter.spills} spills"


def test_a_hot_key_alone_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        found, sorter = sort([], 1)  # imports
        tracemalloc.reset_peak()
        with scratch_files() as scratch:
            sorter = Sorter(1 << 20, 1, total, scratch)  # type: ignore[arg-type]
            sorter.add((("the"), 1) for _ in range(500_000))
            held = tracemalloc.get_traced_memory()[1]
            sorter.finish(lambda *_: None)
    finally:
        tracemalloc.stop()
    assert held < 200_000 and sorter.spills == 0 and sorter.pairs == 500_000
    assert decode_key("Sthe") == "the"


def test_spills_are_combined_once_more_only_where_that_removes_much() -> None:
    rare = [(f"rare{number * 7919 % 200_003}", 1) for number in range(150_000)]
    often = [(f"word{number % 12_000}", 1) for number in range(150_000)]
    for pairs, once_more in (rare + rare[:20_000], False), (often, True):
        expected = Counter(encode_key(key) for key, _ in pairs)
        found, sorter = sort(pairs, 1 << 20, 1, total)
        counted: Counter = Counter()
        for key, values in found[0]:
            counted[key] += sum(values)
        assert counted == expected and sorter.spills > 2
        assert [key for key, _ in found[0]] == sorted(key for key, _ in found[0])
        assert (len(found[0]) == len(expected)) == once_more
