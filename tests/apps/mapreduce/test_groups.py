"""Groups of a reduce, taken apart by windows: the same keys and values however long a window and a batch are."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce import reducer
from ipdc_edge.apps.mapreduce.reducer import Groups
from ipdc_edge.codec.keys import BadRecord, decode_key, encode_key
from ipdc_edge.codec.records import MOST_INTS, decode_ints, encode_lines

KEYS = st.one_of(st.text("abé\n", max_size=2), st.integers(-2, 2), st.booleans(), st.none(), st.binary(max_size=1))
VALUES = st.lists(st.one_of(st.integers(-2, 10**22), st.integers(0, 9), st.text("a,]1", max_size=3)), min_size=1,
                  max_size=4)  # fmt: skip
INTS = st.lists(st.integers(0, 10**22), min_size=1, max_size=4)


@settings(max_examples=300)
@given(st.one_of(st.lists(st.tuples(KEYS, VALUES)), st.lists(st.tuples(KEYS, INTS))), st.integers(1, 6),
       st.integers(1, 9))
def test_windows_and_batches_change_nothing(entries: list, window: int, step: int) -> None:
    lines = sorted(line for key, values in entries for line in encode_lines(encode_key(key), values))
    before, reducer.WINDOW = reducer.WINDOW, window
    try:
        groups = Groups([lines[at : at + step] for at in range(0, len(lines), step)], lambda *_: None)
        found = [(encode_key(key), list(values)) for key, values in groups]
    finally:
        reducer.WINDOW = before
    assert [name for name, _ in found] == [name for name, _ in groupby(lines, lambda one: one.partition("\0")[0])]
    by_key: dict[str, list[str]] = {}
    for key, values in entries:
        by_key.setdefault(encode_key(key), []).extend(map(repr, values))
    assert {name: sorted(map(repr, values)) for name, values in found} == {
        name: sorted(values) for name, values in by_key.items()}  # fmt: skip
    assert groups.groups == len(found) and groups.records == len(lines)


@pytest.mark.parametrize("text", ["", ",", "1,", ",1", "1,,2", "1],[2", "[1]", "1 ", "²", "1.5", "1e3", "0x1"])
def test_what_is_no_int_is_not_taken_for_ints(text: str) -> None:
    assert decode_ints(["1", text, "2"], [0, 1, 2], [1, 2, 3]) is None


@pytest.mark.parametrize("text", ["", ",", "1,", ",1", "1,,2", "1],[2"])
def test_a_broken_line_between_good_ones_is_a_bad_record(text: str) -> None:
    lines = ["Sa\x001", f"Sb\x00{text}", "Sc\x001", "Sd\x001"]
    with pytest.raises(BadRecord):
        for _, values in Groups([lines], lambda *_: None):
            list(values)


def test_very_many_values_are_not_made_at_once() -> None:
    text = "1," * (MOST_INTS // 2) + "1"
    assert decode_ints([text], [0], [1]) is None and decode_ints([text[:-2]], [0], [1]) is not None


def test_the_key_that_is_worked_on_is_known() -> None:
    lines = [line for key in "abcde" for line in encode_lines(encode_key(key), [1, 2])]
    groups = Groups([lines], lambda *_: None)
    for key, _ in groups:
        assert groups.key == key
    assert decode_key("Se") == "e"
