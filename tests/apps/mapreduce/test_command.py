"""User programs over lines: what goes in, what comes out, pairs and text, and what a program is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_command import Programs
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce import command
from ipdc_edge.apps.mapreduce.command import input_environment, pairs, task_environment, text
from ipdc_edge.codec.keys import ValueNotCarried

pytestmark = pytest.mark.outside("runs real programs")

ROOT = Path(__file__).parents[3]
WORDS = b"""import sys
for line in sys.stdin:
    for word in line.split():
        print(word, 1, sep="\\t")
"""


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_a_mapper_gets_lines_and_gives_pairs(programs: Programs) -> None:
    found = programs.command("mapper.py", mapper_py=WORDS).run([b"a b\nc\n", b"d a\n"])
    assert list(pairs(found)) == [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("a", "1")]


def test_a_last_line_without_newline_gets_one_in_either_direction(programs: Programs) -> None:
    assert programs.run("cat", lines=[b"end of one file", b"begin\nend of the other"]) == (
        b"end of one file\nbegin\nend of the other\n"
    )
    assert programs.shell("printf 'a\\nb'") == b"a\nb\n"


def test_nothing_in_and_nothing_out(programs: Programs) -> None:
    assert programs.run("cat", lines=[]) == programs.run("cat", lines=[b"", b""]) == b""


def test_bytes_are_neither_read_nor_changed(programs: Programs) -> None:
    data = bytes(range(256)).replace(b"\n", b"") + b"\r\n\n\xff\xfe\0\n"
    assert programs.run("cat", lines=[data]) == data


def test_output_comes_as_chunks_of_whole_lines(programs: Programs) -> None:
    chunks = list(programs.command("seq", "300000").run([]))
    assert len(chunks) > 10
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    assert all(command.CHUNK <= len(chunk) < command.CHUNK + command.READ + len(b"300000\n") for chunk in chunks[:-1])
    assert b"".join(chunks).split() == [str(number).encode() for number in range(1, 300001)]


def test_a_line_of_some_megabytes_passes(programs: Programs) -> None:
    line = b"x" * (command.MOST_LINE - 10) + b"\n"
    assert programs.run("cat", lines=[line, line]) == line + line


def test_a_gigabyte_would_pass_through_little_memory(tmp_path: Path) -> None:
    """96 MB here, in and out, where 8 MB are to be had: and the memory that the program has is its own."""
    script = """if True:
        import sys
        from ipdc_edge.apps.mapreduce.command import Command
        from ipdc_edge.runner.limits import apply_limits
        from ipdc_edge.runner.task_io import TaskIo
        apply_limits(8 << 20, 1 << 30)
        io = TaskIo(None, None, directory=sys.argv[1])
        chunks = (b"some line of text\\n" * 4096 for _ in range(96 * 1024 * 1024 // (18 * 4096)))
        print(sum(map(len, Command(["tee", "/dev/stderr"], {}, {}, io, None).run(chunks))))
    """
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True)
    expected = 96 * 1024 * 1024 // (18 * 4096) * 18 * 4096
    assert ran.stdout == b"%d\n" % expected, ran.stderr[-2000:]
    assert len(ran.stderr) == expected


def test_the_modules_cost_the_runner_little() -> None:
    """In a runner, no module of weight comes with programs."""
    script = """if True:
        import sys, json
        import ipdc_edge.runner.__main__, ipdc_edge.apps.mapreduce.output
        before = set(sys.modules)
        import ipdc_edge.apps.mapreduce.command
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    found = json.loads(subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE).stdout)
    assert {name for name in found if not name.startswith("ipdc_edge.")} <= {"fcntl", "select", "signal"}


# Lines and pairs


def plain_pairs(data: bytes) -> Iterator[tuple[str, str]]:
    for line in data.split(b"\n")[:-1]:
        key, _, value = line.partition(b"\t")
        yield os.fsdecode(key), os.fsdecode(value)


@given(st.lists(st.sampled_from([b"a", b"\t", b"\n", b"\r", b"\0", b"\xff", "日".encode(), b"\x0b\x0c\x1c\x85"])))
def test_pairs_are_those_of_a_plain_program(pieces: list[bytes]) -> None:
    data = b"".join(pieces) + b"\n"
    assert list(pairs(iter([data, data]))) == list(plain_pairs(data + data))


def test_a_pair_is_divided_at_the_first_tab() -> None:
    lines = b"a\tb\tc\nno tab\n\tonly value\nonly key\t\n\n"
    assert list(pairs([lines])) == [
        ("a", "b\tc"), ("no tab", ""), ("", "only value"), ("only key", ""), ("", ""),
    ]  # fmt: skip
    assert list(pairs([b"a last line"])) == [("a last line", "")]


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20))))
def test_text_is_what_pairs_reads(found: list[tuple[bytes, bytes]]) -> None:
    clean = [
        (os.fsdecode(key.replace(b"\t", b"").replace(b"\n", b"")), os.fsdecode(value.replace(b"\n", b"")))
        for key, value in found
    ]
    assert list(pairs(text(clean))) == clean


def test_text_of_other_types_is_json() -> None:
    found = [(1, 2.5), ("word", 3), (None, True), (("a", 1), [1, "é"]), (b"\xff", {"k": b"v"}), ("x", "")]
    found += [("x", 1.5), ("x", None)]
    assert b"".join(text(found)).decode() == (
        '1\t2.5\nword\t3\nnull\ttrue\n["a",1]\t[1,"é"]\n{"/":{"bytes":"/w"}}\t{"k":{"/":{"bytes":"dg"}}}\nx\t\n'
        "x\t1.5\nx\tnull\n"
    )


def test_text_comes_in_chunks_and_takes_no_more_pairs_than_that() -> None:
    taken = 0

    def counted() -> Iterator[tuple[str, str]]:
        nonlocal taken
        for taken in range(1, 100_000):
            yield "key", "v" * (1_000_000 if taken > 1000 else 1)

    chunks = text(counted())
    assert command.CHUNK <= len(next(chunks)) < command.CHUNK + 1_000_010
    assert taken <= 1001


@pytest.mark.parametrize("pair", [("\ud800", ""), ("", "\ud800"), (object(), 1)])
def test_what_has_no_text_is_refused(pair: tuple[object, object]) -> None:
    with pytest.raises(ValueNotCarried):
        list(text([pair]))


# What a program is told


def test_a_map_is_told_hadoops_variables(programs: Programs) -> None:
    spec = {"workers": 3, "arguments": {"least": 2}, "options": {"steps": [{"mapper": ["m"], "reducer": ["r"]}]}}
    params = {"stage": "map", "step": 0, "index": 7, "inputs": [{}], "outputs": {"kind": "runs", "count": 3},
              "node": "pi-4"}
    environment = {
        **task_environment(spec, "20240101-abc", "map-00007", params),
        **input_environment({"name": "logs/é.csv", "start": 100, "end": 350}),
    }
    assert dict(line.split(b"=", 1) for line in programs.run("env", environment=environment).splitlines()) == {
        b"mapreduce_job_id": b"20240101-abc", b"mapred_job_id": b"20240101-abc",
        b"mapreduce_task_id": b"map-00007", b"mapred_tip_id": b"map-00007",
        b"mapreduce_task_attempt_id": b"map-00007_0", b"mapred_task_id": b"map-00007_0",
        b"mapreduce_task_partition": b"7", b"mapred_task_partition": b"7",
        b"mapreduce_task_ismap": b"true", b"mapred_task_is_map": b"true",
        b"mapreduce_job_reduces": b"3", b"mapred_reduce_tasks": b"3",
        b"mapreduce_map_input_file": "logs/é.csv".encode(), b"map_input_file": "logs/é.csv".encode(),
        b"mapreduce_map_input_start": b"100", b"map_input_start": b"100",
        b"mapreduce_map_input_length": b"250", b"map_input_length": b"250",
        b"ipdc_arguments": b'{"least": 2}', b"ipdc_node": b"pi-4", b"PYTHONHASHSEED": b"0",
        b"PATH": b"/usr/local/bin:/usr/bin:/bin", b"LANG": b"C.UTF-8",
        b"HOME": os.fsencode(programs.directory), b"TMPDIR": os.fsencode(programs.directory),
        b"PWD": os.fsencode(programs.directory),
    }  # fmt: skip


@pytest.mark.parametrize(("step", "maps"), [(0, "2"), (1, None)])
def test_a_reduce_is_told_how_many_there_are_where_that_is_known(step: int, maps: str | None) -> None:
    spec = {"workers": 4, "options": {"steps": [{"mapper": ["m"], "reducer": ["r"]}, {"reducer": ["r"]}]}}
    outputs = {"kind": "files", "count": 1}
    params = {"stage": "reduce", "step": step, "index": 1, "inputs": [{}, {}], "outputs": outputs}
    found = task_environment(spec, "job", "reduce-00001", params)
    assert found["mapreduce_task_ismap"] == found["mapred_task_is_map"] == "false"
    assert found["mapreduce_job_reduces"] == "4" and found.get("mapreduce_job_maps") == maps


def test_a_job_without_a_reduce_says_so() -> None:
    spec = {"workers": 4, "options": {"steps": [{"mapper": ["m"]}]}}
    params = {"stage": "map", "step": 0, "index": 1, "inputs": [{}], "outputs": {"kind": "files", "count": 1}}
    assert task_environment(spec, "job", "map-00001", params)["mapreduce_job_reduces"] == "0"


def test_any_name_of_an_input_can_be_told(programs: Programs) -> None:
    for name, told in (("a\0b", b"ab"), (os.fsdecode(b"\xff"), b"\xff"), ("\ud800", b"\\ud800")):
        environment = input_environment({"name": name, "start": 0, "end": 1})
        found = programs.run("sh", "-c", 'printf "%s\\n" "$map_input_file"', environment=environment)
        assert found == told + b"\n"
