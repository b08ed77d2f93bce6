"""run-inline: the same results as a plain program, real tracebacks with a note, clear words for bad
arguments."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands import run_inline
from ipdc_edge.commands.program import FileUnreadable
from ipdc_edge.commands.run_inline import NotHere, TaskFailed
from ipdc_edge.errors import WrongUsage

WORDS = """
import sibling
def map(key, line):
    for word in line.split():
        yield sibling.change(word), 1
"""
TOTAL = "def reduce(key, values):\n    yield key, sum(values)\n"
STEPS = """
def words(key, line):
    for word in line.split():
        yield word, 1
def total(key, values):
    yield key, sum(values)
def swap(word, count):
    yield count, word
def gather(count, words):
    yield count, list(words)
"""


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.path[:] = path


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    run_inline.configure(parser)
    return run_inline.run(parser.parse_args([str(word) for word in words]))


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    (directory / "a.txt").write_text("b a\nc\n" * 100)
    (directory / "b.txt").write_text("a ü")
    (directory / "empty.txt").write_text("")
    return directory


def test_word_count_over_several_files(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_inline, "SPLIT", 100)
    here = write(tmp_path, Map=WORDS, Reduce=TOTAL, sibling="def change(word): return word.upper()\n")
    assert run(here / "Map.py", here / "Reduce.py", "--input", here / "a.txt", here / "b.txt", here / "empty.txt") == 0
    counts = Counter(((here / "a.txt").read_text() + (here / "b.txt").read_text()).upper().split())
    assert capfdbinary.readouterr().out.decode() == "".join(f"{word}\t{counts[word]}\n" for word in sorted(counts))


def test_map_only_and_arguments(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(
        tmp_path,
        Only="def setup(args):\n    global add\n    add = args['add']\n"
        "def map(key, line):\n    yield line, key + add\n",
    )
    assert run(here / "Only.py", "--input", here / "b.txt", "--args", '{"add": 5}') == 0
    assert capfdbinary.readouterr().out == "a ü\t5\n".encode()


@pytest.mark.parametrize("words", [["Both.py"], ["Both.py", "Both.py"], ["Both.py:map", "Both.py:reduce"]])
def test_one_file_may_hold_both(words: list[str], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Both="def map(key, line):\n    yield 'lines', 1\n" + TOTAL)
    assert run(*(here / word for word in words), "--input", here / "a.txt") == 0
    assert capfdbinary.readouterr().out == b"lines\t200\n"


@pytest.mark.parametrize("listed", [True, False])
def test_several_steps_with_partitions(
    listed: bool, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_inline, "SPLIT", 100)
    here = write(tmp_path, Steps=STEPS + ("steps = [(words, total), (swap, gather)]\n" if listed else ""))
    words = ["Steps.py"] if listed else ["Steps.py:words", "Steps.py:total"]
    more = [] if listed else ["--step", here / "Steps.py:swap", here / "Steps.py:gather"]
    for count in (1, 3):
        assert run(*(here / word for word in words), *more, "--sort-values", "--output-format", "json", "-k", count,
                   "--input", here / "?.txt") == 0
        lines = sorted(capfdbinary.readouterr().out.decode().splitlines())
        assert [json.loads(line) for line in lines] == [[1, ["ü"]], [100, ["b", "c"]], [101, ["a"]]]


def test_partition_by_the_users_function(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Part=WORDS.replace("sibling.change(word)", "word").replace("import sibling\n", "") + TOTAL
                 + "def backwards(key, count):\n    return count - 1 - 'abcü'.index(key) % count\n")
    assert run(here / "Part.py", "--partition", "backwards", "-k", "4", "--input", here / "a.txt", here / "b.txt") == 0
    assert capfdbinary.readouterr().out.decode() == "ü\t1\nc\t100\nb\t100\na\t101\n"


@pytest.mark.outside("starts the user's programs")
@pytest.mark.parametrize("more", [[], ["--combiner", "python3 total.py"]])
def test_commands(
    more: list[str], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write(tmp_path)
    (here / "total.py").write_text(
        "import sys, helper\ncounts = {}\nfor line in sys.stdin:\n    word, number = line.rstrip('\\n').split('\\t')\n"
        "    counts[word] = counts.get(word, 0) + int(number)\n"
        "for word in sorted(counts): helper.put(word, counts[word])\n"
        "print('reporter:counter:g,words,%d' % len(counts), file=sys.stderr)\n")
    (here / "helper.py").write_text("def put(word, count): print(word, count, sep='\\t')\n")
    (here / "split.awk").write_text("#!/usr/bin/awk -f\n{ for (i = 1; i <= NF; i++) print $i \"\\t\" 1 }\n")
    monkeypatch.chdir(here)
    assert run("--mapper", "./split.awk", "--reducer", "python3 total.py", *more, "--input", "a.txt", "b.txt") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.decode() == "a\t101\nb\t100\nc\t100\nü\t1\n"
    assert b"g: words" in captured.err
    assert run("--mapper", "tr a-z A-Z", "--step", "-", "uniq -c", "--input", "b.txt") == 0
    assert capfdbinary.readouterr().out.decode().split() == ["1", "A", "ü"]


def test_a_python_program_finds_what_was_shipped_by_its_name(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write(tmp_path, Look="def setup(args):\n    global known\n"
                 "    known = open('tables/known.txt').read().split()\n"
                 "def map(key, line):\n    yield line, line[0] in known\n")
    (here / "data" / "tables").mkdir(parents=True)
    (here / "data" / "tables" / "known.txt").write_text("a")
    monkeypatch.chdir(here)
    assert run("Look.py", "--file", "data/tables", "--input", "b.txt") == 0
    assert capfdbinary.readouterr().out.decode() == "a ü\ttrue\n"
    assert Path.cwd() == here


def test_formats_and_compressed_inputs(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Pass="def map(key, record):\n    yield str(key), repr(record)\n")
    (here / "rows.csv.gz").write_bytes(gzip.compress(b'a,"b,c"\n1,2\n'))
    assert run(here / "Pass.py", "--input-format", "csv", "--input", here / "rows.csv.gz") == 0
    assert capfdbinary.readouterr().out.decode() == "0\t['a', 'b,c']\n8\t['1', '2']\n"
    assert run(here / "Pass.py", "--input-format", "whole-file", "--input", here / "b.txt", here / "empty.txt") == 0
    assert capfdbinary.readouterr().out.decode() == "b.txt\tb'a \\xc3\\xbc'\nempty.txt\tb''\n"
    assert run(here / "Pass.py", "--output-format", "raw", "--input", here / "b.txt") == 0
    assert "a ü" in capfdbinary.readouterr().out.decode()


def test_bad_records_are_left_out_and_told(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Int="def map(key, line):\n    yield 'sum', int(line)\n" + TOTAL)
    (here / "numbers").write_text("1\nx\n2\ny\n")
    assert run(here / "Int.py", "--skip-bad", "2", "--input", here / "numbers") == 0
    captured = capfdbinary.readouterr()
    assert captured.out == b"sum\t3\n" and b"2 bad records left out:" in captured.err and b"'y'" in captured.err
    with pytest.raises((TaskFailed, ValueError), match="2 records are bad, and --skip-bad allows 1|invalid literal"):
        run(here / "Int.py", "--skip-bad", "1", "--input", here / "numbers")


def test_counters_and_status_go_to_standard_error(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Told="def map(key, line, context):\n    context.count('lines', 2)\n"
                 "    context.status(f'in {context.input}')\n    yield line, context.task\n")
    assert run(here / "Told.py", "--input", here / "b.txt") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.decode() == "a ü\tmap-00000\n"
    assert captured.err.decode().splitlines() == ["status: in b.txt", "2  lines"]


def test_an_exception_passes_with_its_traceback_and_the_line(tmp_path: Path) -> None:
    here = write(tmp_path, Bad="def map(key, line):\n    yield line, 1 // (line != 'c')\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run(here / "Bad.py", "--input", here / "a.txt")
    assert str(here / "Bad.py") in [str(entry.path) for entry in caught.traceback]
    assert caught.value.__notes__ == [f"in map of {here / 'a.txt'}, byte offset 4, line 'c'"]


def test_an_exception_in_reduce_names_the_key(tmp_path: Path) -> None:
    here = write(
        tmp_path,
        Sum="def map(key, line):\n    yield line, 1\ndef reduce(key, values):\n    yield key, 1 // (key != 'c')\n",
    )
    with pytest.raises(ZeroDivisionError) as caught:
        run(here / "Sum.py", here / "Sum.py", "--input", here / "a.txt")
    assert caught.value.__notes__ == ["in reduce, key 'c'"]


@pytest.mark.outside("starts the user's programs")
def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    here = write(tmp_path)
    with pytest.raises(TaskFailed, match=rf"(?s)exit status 3.*no such luck.*in mapper of {here / 'b.txt'}"):
        run("--mapper", "sh -c 'echo no such luck >&2; exit 3'", "--input", here / "b.txt")


def test_bad_arguments(tmp_path: Path) -> None:
    here = write(tmp_path, Map="def map(key, line): pass\n")
    with pytest.raises(FileUnreadable, match=r"none.txt: No such file"):
        run(here / "Map.py", "--input", here / "none.txt")
    for text, words in (("{", "not JSON"), ("[1]", "not an object")):
        with pytest.raises(WrongUsage, match=words):
            run(here / "Map.py", "--input", here / "a.txt", "--args", text)
    with pytest.raises(WrongUsage, match="give 1 to 1000 partitions"):
        run(here / "Map.py", "--input", here / "a.txt", "-k", "0")
    with pytest.raises(NotHere, match="Get it first: ipdc-edge cat"):
        run(here / "Map.py", "--input", raw_cid(b"x"))
