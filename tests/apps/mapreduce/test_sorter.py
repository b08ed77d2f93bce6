"""The sorter: the same pairs come out as went in (combined or not), in order, whatever the budget."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import repeat

import pytest
from helpers_mapreduce import scratch_files
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.recombine import CombineChangedKey
from ipdc_edge.apps.mapreduce.sorter import Sorter
from ipdc_edge.apps.mapreduce.weights import OutputTooBig
from ipdc_edge.codec.keys import ValueNotCarried, decode_key, encode_key, partition_of
from ipdc_edge.codec.records import decode_values
from ipdc_edge.codec.runs import RunReader
from ipdc_edge.runner.scratch import ScratchFull

KEYS = st.one_of(
    st.sampled_from(["a", "b", "é", "tab\t", 1, 1.0, True, b"a", None, ("a", 1), ("a", 1.0), ("a", "b"), -0.0, 0.0]),
    st.text(max_size=2).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text)),
)
PAIRS = st.lists(st.tuples(KEYS, st.integers(-3, 3)), max_size=300)


def total(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
    yield key, sum(values)


def sort(pairs: list, budget: int, partitions: int = 1, combine: object = None) -> tuple[list, Sorter]:
    """([(encoded key, values) of each line] of each partition, the sorter)."""
    blocks: list[list[bytes]] = [[] for _ in range(partitions)]
    with scratch_files() as scratch:
        sorter = Sorter(budget, partitions, combine, scratch)  # type: ignore[arg-type]
        sorter.add(iter(pairs))
        written = sorter.finish(lambda partition, block: blocks[partition].append(block))
    found = []
    for partition, entry in zip(blocks, written):
        waiting = iter(partition)
        reader = RunReader(lambda: next(waiting, b""))  # noqa: B023
        lines = []
        while more := reader.lines():
            lines += more
        assert (len(lines), sum(map(len, partition))) == (entry["records"], entry["bytes"])
        found.append([(line.partition("\x00")[0], decode_values(line.partition("\x00")[2])) for line in lines])
    return found, sorter


@settings(max_examples=200)
@given(PAIRS, st.sampled_from([1, 2000, 1 << 20]), st.integers(1, 3))
def test_nothing_is_lost_or_doubled(pairs: list, budget: int, partitions: int) -> None:
    found, sorter = sort(pairs, budget, partitions)
    expected = Counter((encode_key(key), value) for key, value in pairs)
    assert Counter((key, value) for lines in found for key, values in lines for value in values) == expected
    assert all(partition_of(key, partitions) == number for number, lines in enumerate(found) for key, _ in lines)
    assert sorter.pairs == len(pairs)


@pytest.mark.parametrize("period", [2, 3, 5, 64])
@pytest.mark.parametrize("first", [True, False])
def test_a_pattern_of_big_and_small_values_does_not_hide_the_big_ones(period: int, first: bool) -> None:
    """A map that yields one big value among small ones for each line: memory is what is held, not what is seen last."""
    budget = 1 << 20

    def pairs() -> Iterator[tuple[str, object]]:
        for number in range(12_000):
            big = number % period == (0 if first else period - 1)
            yield f"k{number % 900}", str(number) * 500 if big else 1

    tracemalloc.start()
    try:
        with scratch_files() as scratch:
            sorter = Sorter(budget, 2, None, scratch)
            sorter.add(pairs())
            held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 3 * budget, f"{held} bytes with {sorter.spills} spills"


def test_a_key_that_is_only_like_text_is_not_counted_twice() -> None:
    """A str subclass that equals a key of the table stands before the first key of another type."""

    class Text(str):
        pass

    found, sorter = sort([("a", 1), (Text("a"), 2), ("b", 3), (7, 4), ("a", 5)], 1 << 20)
    values = sorted(value for lines in found for _, held in lines for value in held)
    assert values == [1, 2, 3, 4, 5] and sorter.pairs == 5


@settings(max_examples=200)
@given(PAIRS, st.sampled_from([1, 2000, 1 << 20]), st.integers(1, 3))
def test_combining_gives_one_value_a_key(pairs: list, budget: int, partitions: int) -> None:
    expected: Counter = Counter()
    for key, value in pairs:
        expected[encode_key(key)] += value
    found, sorter = sort(pairs, budget, partitions, total)
    assert [(key, [expected[key]]) for lines in found for key, _ in lines] == [
        line for lines in found for line in lines
    ]
    assert {key for lines in found for key, _ in lines} == set(expected)
    assert sorter.pairs == len(pairs)


def test_a_small_budget_spills_and_a_large_one_does_not() -> None:
    pairs = [(f"word{number}", 1) for number in range(20_000)] * 2
    assert sort(pairs, 100 << 20, 2, total)[1].spills == 0
    found, sorter = sort(pairs, 1 << 20, 2, total)
    assert 2 < sorter.spills < 20
    assert sum(map(len, found)) == 20_000 and all(values == [2] for lines in found for _, values in lines)


def test_a_hot_key_is_folded_without_spilling() -> None:
    found, sorter = sort([("the", 1)] * 300_000, 1 << 20, 1, total)
    assert found == [[("Sthe", [300_000])]]
    assert sorter.spills == 0 and sorter.pairs == 300_000


def test_big_values_are_weighed() -> None:
    _, sorter = sort([(str(number), "x" * 10_000) for number in range(2000)], 2 << 20)
    assert 8 < sorter.spills < 30


def test_combine_may_give_several_values_or_none() -> None:
    def two_largest(key: object, values: Iterator[int]) -> list:
        return [] if key == "gone" else [(key, value) for value in sorted(values)[-2:]]

    pairs = [(key, number % 50) for number in range(30_000) for key in ("a", "gone", f"w{number % 3000}")]
    for budget in (1 << 18, 100 << 20):
        found, _ = sort(pairs, budget, 1, two_largest)
        assert dict(found[0])["Sa"] == [49, 49]
        assert "Sgone" not in dict(found[0])
        assert len(found[0]) == 3001


def test_a_key_with_very_many_lines_keeps_its_order_when_combine_does_not_shrink() -> None:
    def keep(key: object, values: Iterator[str]) -> list:
        return [(key, value) for value in sorted(values, reverse=True)]

    pairs = [("k" if number % 2 else f"k{number}", f"{number * 7919 % 100_000:05}" * 400) for number in range(4000)]
    found, sorter = sort(pairs, 1 << 20, 1, keep)
    assert sorter.spills > 3
    assert sum(len(values) for key, values in found[0]) == 4000


def test_what_combine_lets_grow_is_weighed() -> None:
    def join(key: object, values: Iterator[list]) -> list:
        return [(key, [item for value in values for item in value])]

    # An inverted index: one value a key, and all of the input in it.
    pairs = [(f"w{number % 50}", [f"{number:0100}"]) for number in range(20_000)]
    found, sorter = sort(pairs, 1 << 19, 1, join)
    assert 3 < sorter.spills < 30
    assert sum(len(value) for _, values in found[0] for value in values) == 20_000


def test_combine_must_keep_the_key() -> None:
    with pytest.raises(CombineChangedKey, match=r"'a'.*'other'"):
        sort([("a", 1)] * 9, 1 << 20, 1, lambda key, values: [("other", sum(values))])


def test_the_failing_key_of_combine_is_known() -> None:
    def fails(key: str, values: Iterator[int]) -> Iterator[tuple[str, int]]:
        yield key, 1 // (key != "b")

    with scratch_files() as scratch:
        sorter = Sorter(1 << 20, 1, fails, scratch)  # type: ignore[arg-type]
        assert sorter.calling() is None
        sorter.add(iter([(key, 1) for key in "abcabc"]))
        with pytest.raises(ZeroDivisionError):
            sorter.finish(lambda *_: None)
        assert sorter.calling() == ("combine", "b")


@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_runs_are_the_same_bytes_every_time(budget: int) -> None:
    pairs = [(f"w{number * number % 1009}", number % 5) for number in range(9000)]
    assert sort(pairs, budget)[0] == sort(pairs, budget)[0]


@pytest.mark.parametrize("key", [[1], {}, ("a", []), float("nan"), 1j, {1}])
def test_keys_that_have_no_place_are_refused(key: object) -> None:
    for before in ([], [(1, 1)], [("a", 1)]):
        with pytest.raises(ValueNotCarried, match="a key of type"):
            sort([*before, (key, 1)], 1 << 20)


def test_values_that_do_not_travel_name_their_key() -> None:
    with pytest.raises(ValueNotCarried, match=r"type set .*'word'"):
        sort([("word", {1})], 1 << 20)


def test_scratch_has_an_end() -> None:
    with scratch_files(1, 1000) as scratch:
        sorter = Sorter(1000, 1, None, scratch)
        with pytest.raises(ScratchFull, match="bytes"):
            sorter.add((f"{number * 7919:x}", number * 31) for number in range(100_000))


def test_decoded_keys_reach_combine() -> None:
    seen = []

    def watch(key: object, values: Iterator[int]) -> Iterator[tuple[object, int]]:
        seen.append(key)
        yield key, sum(values)

    keys = [1, 1.5, True, None, b"x", ("a", 2), ("a", "b"), "é", "plain"]
    sort([(key, 1) for key in keys] * 2, 1 << 20, 1, watch)
    assert sorted(map(repr, seen)) == sorted(map(repr, keys))
    assert [decode_key(encode_key(key)) for key in keys] == keys


def test_what_a_map_gives_has_a_bound() -> None:
    """A map that never ends is ended, although the table folds its pairs into nothing."""
    with scratch_files() as scratch:
        sorter = Sorter(1 << 20, 1, total, scratch, most=lambda: 1 << 20)  # type: ignore[arg-type]
        with pytest.raises(OutputTooBig, match="more than 1 MB of pairs, and may give 1 MB.*--output-limit"):
            sorter.add(repeat(("word", 1)))
