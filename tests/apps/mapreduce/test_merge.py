"""Merging: equals sorting, with any number of runs, any fan-in and little text in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers_mapreduce import scratch_files
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce import merge as module
from ipdc_edge.apps.mapreduce.merge import group_end, key_of, merge, merge_runs, text_share
from ipdc_edge.codec.keys import BadRecord
from ipdc_edge.codec.runs import BadRun, RunWriter
from ipdc_edge.codec.value_lines import plain_values

LINES = st.lists(
    st.sampled_from([f"S{word}\x00{number}" for word in ("a", "ab", "b", "é") for number in (1, 2, 10)])
).map(sorted)


def run_of(lines: list[str]) -> Callable[[], bytes]:
    blocks: list[bytes] = []
    writer = RunWriter(blocks.append, 20)
    writer.feed_all(lines)
    writer.finish()
    waiting = iter(blocks)
    return lambda: next(waiting, b"")


def pieces_of(lines: list[str], step: int) -> Callable[[], list[str]]:
    waiting = iter([lines[at : at + step] for at in range(0, len(lines), step)])
    return lambda: next(waiting, [])


@given(st.lists(st.tuples(LINES, st.integers(1, 5)), max_size=6))
def test_merging_is_sorting(runs: list[tuple[list[str], int]]) -> None:
    batches = list(merge([pieces_of(lines, step) for lines, step in runs]))
    assert all(batches)
    assert [line for batch in batches for line in batch] == sorted(line for lines, _ in runs for line in lines)


@given(st.lists(LINES, max_size=12), st.integers(2, 5), LINES)
def test_more_runs_than_the_fan_in_are_merged_in_rounds(runs: list[list[str]], fan_in: int, extra: list[str]) -> None:
    before = module.FAN_IN
    module.FAN_IN = fan_in
    try:
        with scratch_files() as scratch:
            batches = list(merge_runs([run_of(lines) for lines in runs], scratch, 1000, [pieces_of(extra, 3)]))
            rounds = len(runs) + 1 > fan_in
            assert rounds or not scratch.written
            assert scratch.written or not (rounds and all(runs))
    finally:
        module.FAN_IN = before
    assert [line for batch in batches for line in batch] == sorted([*extra, *(line for run in runs for line in run)])


def test_at_most_fan_in_runs_are_open_at_once() -> None:
    unfinished: set[int] = set()
    most = 0

    def watched(number: int) -> Callable[[], bytes]:
        read = run_of([f"S{word:03}\x001" for word in range(number, 300, 3)])

        def pull() -> bytes:
            nonlocal most
            block = read()
            unfinished.add(number) if block else unfinished.discard(number)
            most = max(most, len(unfinished))
            return block

        return pull

    with scratch_files() as scratch:
        count = sum(len(batch) for batch in merge_runs([watched(number) for number in range(200)], scratch, 1 << 20))
    assert count == sum(len(range(number, 300, 3)) for number in range(200))
    assert most == module.FAN_IN


@pytest.mark.parametrize("budget, open_runs", [(1 << 20, 48), (6 << 20, 48), (32 << 20, 64), (1 << 30, 64)])
def test_a_bigger_budget_opens_as_many_runs_as_a_gigabyte_has(budget: int, open_runs: int) -> None:
    """What is rewritten costs flash and time."""
    for number in (open_runs, open_runs + 1):
        with scratch_files() as scratch:
            runs = [run_of([f"S{word}\x001"]) for word in range(number)]
            assert sum(map(len, merge_runs(runs, scratch, budget))) == number
            assert bool(scratch.written) == (number > open_runs)


def test_what_is_held_of_a_run_shrinks_with_their_number() -> None:
    shares = [text_share(6 << 20, runs) for runs in (1, 16, 64, 1000)]
    assert shares == sorted(shares, reverse=True) and shares[0] == 65536 and shares[-1] == 2048
    assert all(share * runs * 10 <= 6 << 20 for share, runs in zip(shares[:3], (1, 16, 64)))


def test_a_run_that_is_not_sorted_is_refused() -> None:
    with scratch_files() as scratch, pytest.raises(BadRun, match="not sorted"):
        list(merge_runs([run_of(["Sb\x001", "Sa\x001"]), run_of([])], scratch, 1000))


def test_groups() -> None:
    lines = sorted(["Sa\x001", "Sa\x002", "Sab\x001", "Sa\x03Jx\x001", "Zx\x02\x01\x001", "Zx\x02y\x02\x01\x001"])
    starts = [0]
    while starts[-1] < len(lines):
        starts.append(group_end(lines, starts[-1], key_of(lines[starts[-1]])))
    assert starts == [0, 2, 3, 4, 5, 6]
    assert plain_values(lines, 0, 2, "Sa") == [1, 2]
    with pytest.raises(BadRecord):
        key_of("no nul")
