"""Keys that hardly repeat wait as text in memory: the same comes out, in less memory, and less of it is spilled."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from helpers_mapreduce import scratch_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sorter import sort, total

from ipdc_edge.apps.mapreduce.packed import MOST_RUNS, Packed
from ipdc_edge.apps.mapreduce.sorter import Sorter
from ipdc_edge.codec.keys import encode_key

BUDGET = 1 << 20
NAMES = [f"key{number * 7919 % 100_003:06}{'.' * 60}" for number in range(100_003)]


@pytest.mark.parametrize("value", [1, 2, "text"])
def test_what_fits_as_text_is_not_spilled(value: object) -> None:
    """7,000 keys of 70 bytes: 500 kB of text, and as a table twice the budget."""
    names = NAMES[:7000]
    found, sorter = sort([(name, value) for name in names], BUDGET, 3)
    assert sorter.spills == 0 and sorter.pairs == len(names)
    assert sorted(line for lines in found for line in lines) == [(encode_key(name), [value]) for name in sorted(names)]
    assert all(lines == sorted(lines) for lines in found)


@pytest.mark.parametrize("value", [1, "text"])
def test_what_does_not_fit_is_spilled_as_text(value: object) -> None:
    names = NAMES[:60_000]
    tracemalloc.start()
    try:
        with scratch_files() as scratch:
            sorter = Sorter(BUDGET, 2, None, scratch)
            sorter.add((name, value) for name in names)
            sorter.finish(lambda *_: None)
            held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 3 < sorter.spills <= 80 * len(names) / (BUDGET / 2), "each spill has half of the budget as text"
    assert held < 1.5 * BUDGET, f"{held} bytes"


@pytest.mark.parametrize("value", [1, 2])
def test_keys_that_begin_to_repeat(value: int) -> None:
    """Text in memory, then a table that takes what is left, then both."""
    often = [f"word{number % 300}" for number in range(100_000)]
    names = [*NAMES[:7000], *often, *NAMES[7000:14_000], *often]
    found, sorter = sort([(name, value) for name in names], BUDGET, 2)
    values = Counter(key for lines in found for key, several in lines for _ in several)
    assert values == Counter(map(encode_key, names)) and sorter.pairs == len(names)
    assert all([key for key, _ in lines] == sorted(key for key, _ in lines) for lines in found)


def test_with_combine_a_key_waits_for_its_values() -> None:
    _, sorter = sort([(name, 1) for name in NAMES[:7000]], BUDGET, 1, total)
    assert sorter.spills == 1


@settings(max_examples=50)
@given(st.lists(st.lists(st.text("ab\x00é", max_size=3), max_size=50), max_size=5), st.sampled_from([1, 1 << 30]))
def test_lines_come_back_in_order(runs: list[list[str]], budget: int) -> None:
    packed = Packed(2, budget)
    for run in runs:
        packed.add([sorted(run), []])
    assert packed.bytes == sum(len("\n".join(run)) for run in runs), "each is one piece"
    given_back = []
    for lines in packed.take(0):
        one: list[str] = []
        while more := lines():
            one += more
        given_back.append(one)
    assert given_back == [sorted(run) for run in runs if run]
    assert not packed.take(1) and packed.bytes == packed.runs == 0


def test_there_are_never_more_runs_than_a_merge_may_open() -> None:
    """Keys of one character each take little text: their runs are many before it is much."""
    pairs = [(chr(0x4E00 + number * 7919 % 20_011), number * 31) for number in range(20_000)]
    with scratch_files() as scratch:
        sorter = Sorter(1 << 17, 1, None, scratch)
        sorter.add(iter(pairs))
        assert sorter.spills > 0 and sorter._packed.runs < MOST_RUNS
        written = sorter.finish(lambda *_: None)
    assert written[0]["records"] == 20_000
