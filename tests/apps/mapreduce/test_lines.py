"""Lines of splits: every line of any bytes is read exactly once, with its offset, however the file is cut."""

from __future__ import annotations

import pytest
from helpers_mapreduce import blocks_of
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce import lines as module
from ipdc_edge.apps.mapreduce.lines import spans
from ipdc_edge.apps.mapreduce.source import Source

FILES = st.lists(st.sampled_from([b"\n", b"a", b"bc", "é".encode(), b"\xff", b"\r\n", b"\n\n", b"long line " * 5])).map(
    b"".join
)


def lines_of(data: bytes, start: int, end: int, block: int) -> list[tuple[int, str]]:
    read = blocks_of(data, start, block)
    source = Source([{"name": "f", "start": start, "end": end}], lambda _: read(), lambda *_: None)
    found: list[tuple[int, str]] = []
    for offsets, lines in source.chunks():
        for offset, line in zip(offsets, lines):
            found.append((offset, line))
            assert source.position() == {"input": "f", "offset": offset, "record": line}
    assert source.records == len(found)
    return found


def whole(data: bytes) -> list[tuple[int, str]]:
    found = []
    offset = 0
    for line in data.split(b"\n"):
        found.append((offset, line.decode("utf-8", "surrogateescape")))
        offset += len(line) + 1
    return found[:-1] if not found[-1][1] else found


@given(FILES, st.lists(st.integers(1, 200), max_size=6), st.integers(1, 60), st.integers(1, 70))
def test_every_line_once(data: bytes, cuts: list[int], block: int, chunk: int) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    before = module.CHUNK
    module.CHUNK = chunk
    try:
        found = [line for start, end in zip(edges, edges[1:]) for line in lines_of(data, start, end, block)]
    finally:
        module.CHUNK = before
    assert found == whole(data)


@given(FILES, st.integers(0, 100), st.integers(0, 100), st.integers(1, 30))
def test_a_line_belongs_to_the_split_that_the_rule_names(data: bytes, start: int, length: int, block: int) -> None:
    start = min(start, len(data))
    end = min(len(data), start + length)
    expected = [line for line in whole(data) if start < line[0] <= end or line[0] == start == 0]
    assert lines_of(data, start, end, block) == expected


def test_every_small_split_of_a_small_file() -> None:
    data = b"a\nbc\n\nd"
    for start in range(len(data)):
        for end in range(start + 1, len(data) + 1):
            expected = [line for line in whole(data) if start < line[0] <= end or line[0] == start == 0]
            for block in range(1, 9):
                assert lines_of(data, start, end, block) == expected


def test_nothing_is_read_past_the_newline_after_the_end() -> None:
    data = b"aaaa\n" * 20
    asked = []

    def read() -> bytes:
        asked.append(1)
        at = (len(asked) - 1) * 10
        return data[at : at + 10]

    assert b"".join(span for _, span in spans(read, 0, 11)) == b"aaaa\n" * 3
    assert len(asked) == 2


def test_a_long_line_is_not_read_by_those_it_runs_through() -> None:
    data = b"x" * 1000 + b"\nlast"
    asked: list[int] = []

    def read() -> bytes:
        asked.append(1)
        return data[100 + 50 * (len(asked) - 1) :][:50]

    assert list(spans(read, 100, 200)) == []
    assert len(asked) <= 3


def test_several_inputs_in_one_task_and_progress() -> None:
    reads = [blocks_of(b"a\nb", 0, 2), blocks_of(b"c\n", 0, 2), blocks_of(b"", 0, 2)]
    told: list[tuple[int, int]] = []
    inputs: list[dict[str, object]] = [
        {"name": name, "start": 0, "end": end} for name, end in (("x", 3), ("y", 2), ("z", 0))
    ]
    source = Source(inputs, lambda n: reads[n](), lambda *counts: told.append(counts))
    assert [list(zip(*chunk)) for chunk in source.chunks()] == [[(0, "a")], [(2, "b")], [(0, "c")]]
    assert told == [(1, 2), (2, 3), (3, 5)]


def test_before_the_first_line_there_is_no_position() -> None:
    assert Source([], lambda _: b"", lambda *_: None).position() == {}


@pytest.mark.parametrize("text", ["äöü\nß", "日本\n語\n", "a\udcffb\nc"])
def test_offsets_are_bytes(text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    assert lines_of(data, 0, len(data), 1000) == whole(data)
