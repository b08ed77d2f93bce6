"""Input formats: every line once in any of them; what cannot be parsed says where it is; how much fits."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_mapreduce import Job, blocks_of, program
from hypothesis import given, settings
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.formats import source_of
from ipdc_edge.apps.mapreduce.lines import LineTooLong, spans
from ipdc_edge.apps.mapreduce.source import FileRefused, InputUnreadable, LineRefused, Source

MEGABYTE = 1 << 20


def read(kind: str, files: dict[str, bytes], cuts: list[int], block: int, together: int) -> list[tuple[str, Any, Any]]:
    """(input, key, record) of all records, by sources of `together` ranges each."""
    ranges = []
    for name, data in files.items():
        edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        if kind == "whole-file":
            edges = [0, len(data)]
        ranges += [{"name": name, "start": start, "end": end} for start, end in zip(edges, edges[1:] or edges)]
    found = []
    for at in range(0, len(ranges), together):
        own = ranges[at : at + together]
        reads = [blocks_of(files[str(entry["name"])], int(str(entry["start"])), block) for entry in own]
        source = source_of(kind)(own, lambda n: reads[n](), lambda *_: None)  # noqa: B023
        for keys, records in source.chunks():
            for key, record in zip(keys, records):
                found.append((str(source.name), key, record))
                if kind != "whole-file":
                    assert source.position()["offset"] == key and source.position()["input"] == source.name
    return found


PIECES = st.sampled_from(["\n", "a", ",b", "é", "\udcff", "\r\n", "\n\n", "long line " * 5, "x\0y"])
TEXTS = st.lists(PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode("utf-8", "surrogateescape"))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)
ROWS = st.lists(st.lists(st.text("a,\"; é'", max_size=4), min_size=1, max_size=3), max_size=8)
ENDS = st.sampled_from(["\n", "\r\n"])
CUTS, BLOCKS, TOGETHER = st.lists(st.integers(1, 200), max_size=6), st.integers(1, 60), st.integers(1, 4)


def offsets_of(lines: list[bytes]) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in lines:
        yield offset, line
        offset += len(line)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), CUTS, BLOCKS, TOGETHER)
def test_lines_are_read_once(texts: list[bytes], cuts: list[int], block: int, together: int) -> None:
    files = {f"f{number}": text for number, text in enumerate(texts)}
    expected = []
    for name, text in files.items():
        lines = [line + b"\n" for line in text.split(b"\n")]
        lines[-1] = lines[-1][:-1]
        expected += [(name, at, line.removesuffix(b"\n").decode("utf-8", "surrogateescape"))
                     for at, line in offsets_of(lines) if line]  # fmt: skip
    assert read("lines", files, cuts, block, together) == expected


@settings(deadline=None)
@given(st.lists(VALUES, max_size=8), ENDS, st.booleans(), st.booleans(), CUTS, BLOCKS, TOGETHER, st.booleans())
def test_json_values_are_read_once(
    values: list[Any], end: str, last: bool, blank: bool, cuts: list[int], block: int, together: int, wide: bool
) -> None:
    lines = [json.dumps(value, ensure_ascii=not wide).encode() + end.encode() for value in values]
    if blank:  # lines of white space hold no value
        lines = [piece for line in lines for piece in (line, f"  {end}".encode())]
    if lines and not last:
        lines[-1] = lines[-1].removesuffix(end.encode())
    expected = [("f", at, json.loads(line)) for at, line in offsets_of(lines) if line.strip()]
    assert read("json", {"f": b"".join(lines)}, cuts, block, together) == expected


@settings(deadline=None)
@given(ROWS, ENDS, st.booleans(), CUTS, BLOCKS, TOGETHER)
def test_csv_rows_are_read_once(
    rows: list[list[str]], end: str, last: bool, cuts: list[int], block: int, together: int
) -> None:
    lines = []
    for row in rows:
        lines.append((",".join('"' + field.replace('"', '""') + '"' for field in row) + end).encode())
    if lines and not last:
        lines[-1] = lines[-1].removesuffix(end.encode())
    data = b"".join(lines)
    found = read("csv", {"f": data}, cuts, block, together)
    assert found == [("f", at, row) for (at, _), row in zip(offsets_of(lines), rows)]
    assert [row for _, _, row in found] == list(csv.reader(data.decode().splitlines(), strict=True))


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), BLOCKS, TOGETHER)
def test_whole_files_are_read_once(texts: list[bytes], block: int, together: int) -> None:
    files = {f"f{number}": text for number, text in enumerate(texts)}
    assert read("whole-file", files, [], block, together) == [(name, name, text) for name, text in files.items()]


def test_a_carriage_return_stays_in_lines_and_goes_from_rows_and_values() -> None:
    for kind, data, records in (("lines", b"a\r\nb", ["a\r", "b"]), ("csv", b"a,\r\n\r\nb", [["a", ""], [], ["b"]]),
                                ("json", b"1\r\n\r\n2", [1, 2])):  # fmt: skip
        assert [record for _, _, record in read(kind, {"f": data}, [], 3, 1)] == records


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(
    ("kind", "bad", "words"),
    [
        ("json", b"{nothing}", r"in\.txt, byte offset 9: a record that is no JSON: .*, at its character 2"),
        ("json", b"[" * 500_000, "byte offset 9.*nested too deeply"),
        ("csv", b'b,"c', r"byte offset 9.*goes over the end of its line.*whole-file"),
        ("csv", b'b,"c"d', "byte offset 9: a record that is no CSV row: '?,'? expected"),
    ],
)
def test_what_cannot_be_parsed_says_where_it_is(kind: str, bad: bytes, words: str, lines: bool) -> None:
    good = b'"one"   \n' if kind == "json" else b"one,two,\n"
    entries = {"map_lines" if lines else "map": (lambda all: [(one, 1) for one in all]) if lines
               else lambda key, record: [(key, record)]}  # fmt: skip
    with pytest.raises(InputUnreadable, match=words) as caught:
        Job(program(**entries, input_format=kind)).run({"in.txt": good + bad + b"\n" + good}, split=1 << 20)
    position = caught.value.position  # type: ignore[attr-defined]
    assert position == {"where": "input", "input": "in.txt", "offset": 9, "record": bad.decode()[:500]}


def test_maps_get_records_of_each_format() -> None:
    def record(key: object, value: object) -> list[tuple[object, object]]:
        return [(key, value)]

    def records(values: Iterator[object]) -> list[tuple[object, object]]:
        return [(None, value) for value in values]

    for kind, data, expected in (("json", b'{"a": 1}\n[2]\n', b'0\t{"a":1}\n9\t[2]\n'),
                                 ("csv", b"a,b\n", b'0\t["a","b"]\n'),
                                 ("whole-file", b"\xff\n", b'f\t{"/":{"bytes":"/wo"}}\n')):  # fmt: skip
        assert Job(program(map=record, input_format=kind)).run({"f": data}, split=1 << 20) == [expected]
        values = b"".join(b"null" + line[line.index(b"\t") :] for line in expected.splitlines(True))
        assert Job(program(map_lines=records, input_format=kind)).run({"f": data}, split=1 << 20) == [values]


def test_an_empty_file_is_a_whole_file() -> None:
    job = Job(program(map=lambda name, data: [(name, data)], input_format="whole-file"))
    assert job.run({"one": b"", "two": b"x"}, together=2) == [b'one\t{"/":{"bytes":""}}\ntwo\t{"/":{"bytes":"eA"}}\n']


# How long a line may be


def endless(size: int, block: int = 256 * 1024) -> Iterator[bytes]:
    yield b"short\n"
    for _ in range(0, size, block):
        yield b"x" * block


@pytest.mark.parametrize("kind", ["lines", "json", "csv", "raw"])
def test_a_line_of_200_mb_is_refused_while_it_is_read(kind: str) -> None:
    blocks = endless(200 * MEGABYTE)
    source = (Source if kind == "raw" else source_of(kind))(
        [{"name": "in.txt", "start": 0, "end": 200 * MEGABYTE + 6}], lambda _: next(blocks, b""), lambda *_: None,
        24 * MEGABYTE)  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(LineRefused, match=r"in\.txt, byte offset 6: a line of more than 3145728 .* 24 MB"):
            if kind == "raw":
                for _, chunks in source.files():
                    list(chunks)
            else:
                for _, records in source.chunks():
                    try:
                        list(records)
                    except InputUnreadable:
                        assert kind == "json"  # "short" is none
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert source.position() == {"input": "in.txt", "offset": 6, "record": ""}


def test_a_line_of_the_limit_s_length_is_read_without_a_second_copy() -> None:
    length = 3 * MEGABYTE
    blocks = iter([b"x" * 256 * 1024] * (length // (256 * 1024)) + [b"\nlast"])
    inputs = [{"name": "f", "start": 0, "end": length + 5}]
    source = Source(inputs, lambda _: next(blocks, b""), lambda *_: None, 24 * MEGABYTE)
    tracemalloc.start()
    try:
        assert [(offset, len(line)) for keys, lines in source.chunks() for offset, line in zip(keys, lines)] == [
            (0, length), (length + 1, 4)]  # fmt: skip
        assert tracemalloc.get_traced_memory()[1] < 2.2 * length
    finally:
        tracemalloc.stop()


def test_a_long_line_is_passed_over_by_other_splits() -> None:
    blocks = endless(20 * MEGABYTE)
    next(blocks)
    assert list(spans(lambda: next(blocks, b""), MEGABYTE, 2 * MEGABYTE, 1000)) == []
    with pytest.raises(LineTooLong):
        list(spans(blocks_of(b"a\n" + b"x" * 5000, 0, 100), 0, 10, 1000))


def test_a_whole_file_beyond_the_memory_is_refused_while_it_is_read() -> None:
    blocks = endless(200 * MEGABYTE)
    source = source_of("whole-file")(
        [{"name": "in.bin", "start": 0, "end": 200 * MEGABYTE}], lambda _: next(blocks, b""), lambda *_: None,
        24 * MEGABYTE)  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(FileRefused, match=r"in\.bin: a whole file of more than 6291456 bytes.* 24 MB"):
            list(source.chunks())
        assert tracemalloc.get_traced_memory()[1] < 9 * MEGABYTE
    finally:
        tracemalloc.stop()
