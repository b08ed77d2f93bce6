"""The user's program before it is submitted: what is refused, with which words, and which files travel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipdc_edge.codec import bundle
from ipdc_edge.commands import program as module
from ipdc_edge.commands.program import CannotTravel, Files, FileUnreadable, FunctionMissing, NameTwice, ProgramBroken
from ipdc_edge.commands.steps import python_steps

MAP = "def map(key, line):\n    yield line, 1\n"
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"


def _write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        path = directory / ((name if "/" in name else name.replace("__", "/")) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Program:
    """What MAP and REDUCE become."""

    def __init__(self, *words: str) -> None:
        files = Files()
        (step,) = python_steps(words, (), files)
        self.files, self.map, self.reduce = files.paths, step["map"], step.get("reduce")


def _program(directory: Path, map_name: str = "Map.py", reduce_name: str | None = None) -> Program:
    return Program(*(str(directory / name) for name in (map_name, reduce_name) if name is not None))


def test_two_files(tmp_path: Path) -> None:
    _write(tmp_path, Map=MAP, Reduce=REDUCE)
    program = _program(tmp_path, reduce_name="Reduce.py")
    assert (program.map, program.reduce) == ("Map.py", "Reduce.py")
    assert program.files == {name: str(tmp_path / name) for name in ("Map.py", "Reduce.py")}


def test_one_file_holds_both_and_a_map_alone_is_map_only(tmp_path: Path) -> None:
    _write(tmp_path, Both=MAP + REDUCE, Map=MAP)
    assert _program(tmp_path, "Both.py").reduce == "Both.py"
    assert _program(tmp_path, "Both.py", "Both.py").reduce == "Both.py"
    assert _program(tmp_path).reduce is None


def test_a_program_is_named_without_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, Map=MAP, Reduce=REDUCE)
    monkeypatch.chdir(tmp_path)
    program = Program("Map.py", "./Reduce.py")
    assert list(program.files) == ["Map.py", "Reduce.py"]


def test_a_syntax_error_names_file_line_and_text(tmp_path: Path) -> None:
    _write(tmp_path, Map="def map(key, line):\n    yield line.split(, 1\n")
    with pytest.raises(ProgramBroken) as caught:
        _program(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path}/Map.py, line 2: invalid syntax"
    assert lines[1] == "    yield line.split(, 1"
    assert lines[2].index("^") == lines[1].index("(,") + 1


def test_what_only_the_compiler_sees_is_found_too(tmp_path: Path) -> None:
    _write(tmp_path, Map=MAP + "return 1\n")
    with pytest.raises(ProgramBroken, match="line 3: 'return' outside function"):
        _program(tmp_path)


def test_a_syntax_error_in_a_module_beside_it_is_found_too(tmp_path: Path) -> None:
    _write(tmp_path, Map="import words\n" + MAP, words="x = = 1\n")
    with pytest.raises(ProgramBroken, match=r"words\.py, line 1"):
        _program(tmp_path)


@pytest.mark.parametrize("source", [b"\x00", b"\xff\xfe = 1", b"# coding: nonsense\n", b"(" * 2000])
def test_files_that_are_no_python_are_refused_with_words(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "Map.py").write_bytes(source)
    with pytest.raises(ProgramBroken, match=r"Map\.py, line \d+: [\w(]+"):
        _program(tmp_path)


def test_missing_functions(tmp_path: Path) -> None:
    _write(tmp_path, Map="def mapper(key, line): pass\n", Empty="", Reduce=MAP)
    with pytest.raises(FunctionMissing, match=r"no map\(key, line\) or map_lines.*It defines mapper\."):
        _program(tmp_path)
    with pytest.raises(FunctionMissing, match="It defines nothing"):
        _program(tmp_path, "Empty.py")
    with pytest.raises(FunctionMissing, match=r"Reduce\.py defines no reduce\(key, values\)") as told:
        _program(tmp_path, "Reduce.py", "Reduce.py")
    assert "--mapper" not in str(told.value)


def test_a_program_of_standard_input_is_no_map(tmp_path: Path) -> None:
    _write(tmp_path, Map="import sys\nfor line in sys.stdin: print(line)\n")
    with pytest.raises(FunctionMissing, match=r"reads standard input: --mapper 'python3 FILE'"):
        _program(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "def map_lines(lines): pass",
        "map = lambda key, line: []",
        "from words import map",
        "import words as map",
        "from words import *",
        "if True:\n    def map(key, line): pass\nelse:\n    pass",
        "try:\n    from fast import map\nexcept ImportError:\n    map = None",
        "a, map = 1, 2",
    ],
)
def test_ways_to_define_map(tmp_path: Path, source: str) -> None:
    _write(tmp_path, Map=source)
    assert _program(tmp_path).reduce is None


@pytest.mark.parametrize(
    "source", ["class A:\n    def map(self): pass\n", "def f():\n    map = 1\n", "f = lambda map: 1\n"]
)
def test_an_inner_map_is_none(tmp_path: Path, source: str) -> None:
    _write(tmp_path, Map=source)
    with pytest.raises(FunctionMissing):
        _program(tmp_path)


def test_modules_beside_the_program_travel_with_it_packages_too(tmp_path: Path) -> None:
    _write(
        tmp_path,
        Map="import re, a\nimport pkg.deep.leaf\ndef map(k, v):\n    from b import thing\n    yield 1, 1\n",
        Reduce="import c\n" + REDUCE,
        a="import Map, a",
        b="",
        c="from pkg import late",
        unused="",
        pkg__late="from .deep import other",
        pkg__idle="",
        pkg__never="",
        pkg__sibling="x = 1",
        pkg__deep__other="",
        pkg__deep__leaf="from ..sibling import x\nfrom . import other\nfrom .... import never",
        plain__module="",
        plain__other="import plain.module",
        **{"pkg/__init__": "", "pkg/deep/__init__": ""},
    )
    names = set(_program(tmp_path, reduce_name="Reduce.py").files)
    assert names == {
        "Map.py",
        "Reduce.py",
        "a.py",
        "b.py",
        "c.py",
        "pkg/__init__.py",
        "pkg/late.py",
        "pkg/deep/__init__.py",
        "pkg/deep/leaf.py",
        "pkg/deep/other.py",
        "pkg/sibling.py",
    }


def test_modules_in_a_directory_without_init(tmp_path: Path) -> None:
    _write(
        tmp_path, Map="from plain import module\n" + MAP, plain__module="import plain.other", plain__other=""
    )
    assert set(_program(tmp_path).files) == {"Map.py", "plain/module.py", "plain/other.py"}


def test_two_files_of_one_name_cannot_travel(tmp_path: Path) -> None:
    _write(tmp_path, one__Job=MAP, two__Job=REDUCE)
    with pytest.raises(NameTwice, match=r"would both travel as Job\.py"):
        Program(str(tmp_path / "one" / "Job.py"), str(tmp_path / "two" / "Job.py"))


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, Map=MAP)
    with pytest.raises(
        FileUnreadable, match=r"map\.py: No such file or directory\. Did you mean .*/Map\.py\?"
    ):
        _program(tmp_path, "map.py")
    with pytest.raises(FileUnreadable, match=r"zzz\.py: No such file or directory\.$"):
        _program(tmp_path, "zzz.py")
    with pytest.raises(FileUnreadable, match="Is a directory"):
        Program(str(tmp_path))


def test_a_name_that_no_node_takes_is_refused_here(tmp_path: Path) -> None:
    path = tmp_path / "k\u00fcche.py"
    path.write_text(MAP)
    with pytest.raises(CannotTravel, match="ASCII"):
        Program(str(path))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, Map=MAP + "#" * 100, Many="import a, b\n" + MAP, a="", b="")
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(CannotTravel, match="more than 2 files"):
        _program(tmp_path, "Many.py")
    monkeypatch.setattr(module, "MOST_PYTHON_BYTES", 50)
    with pytest.raises(CannotTravel, match="at most 50 bytes"):
        _program(tmp_path)
    monkeypatch.setattr(module, "MOST_BYTES", 250)
    files = Files()
    files.ship(str(tmp_path / "Map.py"))
    (tmp_path / "data").write_bytes(b"x" * 200)
    with pytest.raises(CannotTravel, match="more than 250 bytes; give big data as --input"):
        files.ship(str(tmp_path / "data"))


def test_a_native_program_may_be_bigger_than_python_may(tmp_path: Path) -> None:
    for name in ("prog", "big.py", "huge"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(bundle.MOST_PYTHON_BYTES + 1 if name != "huge" else bundle.MOST_FILE_BYTES + 1)
    files = Files()
    assert files.ship(str(tmp_path / "prog")) == "prog"
    for name in ("big.py", "huge"):
        with pytest.raises(CannotTravel, match="more than"):
            files.ship(str(tmp_path / name))


def test_directories_travel_by_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("data/words.txt", "data/deep/er/x", "data/.hidden", "data/__pycache__/a.pyc", "one.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for path, names in {
        "data": ["data/deep/er/x", "data/words.txt"],
        "data/": ["data/deep/er/x", "data/words.txt"],
        str(tmp_path / "data" / "deep"): ["deep/er/x"],
        ".": ["data/deep/er/x", "data/words.txt", "one.bin"],
        "./one.bin": ["one.bin"],
    }.items():
        files = Files()
        files.ship_all(path)
        assert sorted(files.paths) == names, path
        assert all(os.path.samefile(files.paths[name], tmp_path / name.replace("deep/er", "data/deep/er").replace(
            "data/data", "data")) for name in names)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "hollow").mkdir()
    for path, error, words in (
        ("pipe", CannotTravel, "not a regular file"),
        ("nothing", FileUnreadable, "No such file"),
        ("hollow", FileUnreadable, "without a file"),
    ):
        with pytest.raises(error, match=words):
            Files().ship_all(path)


def test_nothing_of_it_runs(tmp_path: Path) -> None:
    _write(tmp_path, Map=f"open({str(tmp_path / 'ran')!r}, 'w')\n{MAP}")
    _program(tmp_path)
    assert os.listdir(tmp_path) == ["Map.py"]
