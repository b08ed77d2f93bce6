"""run-inline: the same results as a plain program, real tracebacks with a note, clear words for bad
arguments."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.commands import run_inline
from ipdc_edge.commands.run_inline import BadArguments, InputUnreadable

WORDS = """
import sibling
def map(key, line):
    for word in line.split():
        yield sibling.change(word), 1
"""
TOTAL = "def reduce(key, values):\n    yield key, sum(values)\n"


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


def test_one_file_may_hold_both(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    here = write(tmp_path, Both="def map(key, line):\n    yield 'lines', 1\n" + TOTAL)
    assert run(here / "Both.py", here / "Both.py", "--input", here / "a.txt") == 0
    assert capfdbinary.readouterr().out == b"lines\t200\n"


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


def test_bad_arguments(tmp_path: Path) -> None:
    here = write(tmp_path, Map="def map(key, line): pass\n")
    with pytest.raises(InputUnreadable, match=r"none.txt: No such file") as missing:
        run(here / "Map.py", "--input", here / "none.txt")
    for text in ("{", "[1]"):
        with pytest.raises(BadArguments, match="not a JSON object") as bad:
            run(here / "Map.py", "--input", here / "a.txt", "--args", text)
    assert (missing.value.exit_code, bad.value.exit_code) == (2, 2)
