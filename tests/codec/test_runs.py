"""Runs and manifests: round trips, bounds, and every way in which a peer's run can be wrong."""

from __future__ import annotations

import json
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import runs
from ipdc_edge.codec.runs import BadRun, RunReader, RunWriter, encode_manifest, parse_manifest

LINES = st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20), max_size=60).map(sorted)


def packed(text: bytes, level: int = 1) -> bytes:
    """A run's bytes made by hand, right or wrong."""
    return zlib.compress(text, level, wbits=runs.WINDOW_BITS)


def written(lines: list[str], step: int = 7, block: int = runs.MAX_BLOCK) -> list[bytes]:
    blocks: list[bytes] = []
    writer = RunWriter(blocks.append, block)
    writer.feed_all(lines, step)
    writer.finish()
    assert (writer.records, writer.bytes) == (len(lines), sum(map(len, blocks)))
    return blocks


def read(blocks: list[bytes], text: int = runs.TEXT_TARGET) -> list[str]:
    waiting = iter(blocks)
    reader = RunReader(lambda: next(waiting, b""), text)
    lines: list[str] = []
    while more := reader.lines():
        lines += more
    assert reader.lines() == []
    return lines


@given(LINES, st.integers(1, 10), st.integers(1, 40), st.integers(1, 200))
def test_a_run_comes_back_however_it_is_cut(lines: list[str], step: int, block: int, text: int) -> None:
    blocks = written(lines, step, block)
    assert all(len(data) == block for data in blocks[:-1])
    assert read(blocks, text) == lines


def test_an_empty_run_has_no_blocks() -> None:
    assert written([]) == [] and read([]) == []


def test_blocks_are_full_but_the_last() -> None:
    blocks = written(sorted(os.urandom(50).hex() for _ in range(10_000)))
    assert len(blocks) > 3 and {len(block) for block in blocks[:-1]} == {runs.MAX_BLOCK}


def test_a_bomb_is_read_in_small_pieces() -> None:
    bomb = packed(b"a\n" * 50_000_000, 9)
    waiting = iter([bomb[start : start + 65536] for start in range(0, len(bomb), 65536)])
    assert len(RunReader(lambda: next(waiting, b""), 1000).lines()) == 500


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(BadRun, match="more than 1048576"):
        read([packed(b"a" * 3_000_000)])


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([b"rubbish"], "damaged"),
        ([packed(b"a\nb\n")[:-3]], "cut off"),
        ([packed(b"a\nb")], "within a line"),
        ([packed(b"b\na\n")], "not sorted"),
        ([packed(b"a\n") + b"x"], "after the end"),
        ([packed(b"a\n"), b"x"], "after the end"),
        ([packed(b"a\n")[:-1] + b"x"], "damaged"),
    ],
)
def test_a_wrong_run_is_refused(blocks: list[bytes], words: str) -> None:
    with pytest.raises(BadRun, match=words):
        read(blocks)


def test_order_is_checked_between_pieces_too() -> None:
    with pytest.raises(BadRun, match="not sorted"):
        read([packed(b"b\n" * 10 + b"a\n")], text=20)


def test_manifest_round_trip() -> None:
    entries: list[runs.RunEntry] = [
        {"blocks": ["bafka", "bafkb"], "bytes": 32772, "records": 9},
        {"blocks": [], "bytes": 0, "records": 0},
    ]
    assert parse_manifest(encode_manifest(entries)) == entries


ENTRY = {"blocks": ["b"], "bytes": 1, "records": 1}


@pytest.mark.parametrize(
    "manifest",
    [[], {"version": 2, "runs": []}, {"version": True, "runs": []}, {"version": 1},
     {"version": 1, "runs": [1]},
     *({"version": 1, "runs": [{**ENTRY, **change}]} for change in (
         {"blocks": "b"}, {"blocks": [1]}, {"blocks": ["b" * 200]}, {"blocks": [""]}, {"bytes": -1},
         {"bytes": 70_000},
         {"bytes": 0}, {"bytes": True}, {"records": 1.0}, {"records": -1})),
     {"version": 1, "runs": [{}] * 10_001}],
)  # fmt: skip
def test_a_wrong_manifest_is_refused(manifest: object) -> None:
    with pytest.raises(BadRun):
        parse_manifest(json.dumps(manifest).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b" " * (runs.MAX_MANIFEST + 1)])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(BadRun):
        parse_manifest(data)
