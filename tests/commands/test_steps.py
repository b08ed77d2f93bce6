"""The forms in which people name a job's functions, what becomes of them, and the words for what is not understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.commands.program import Files, FunctionMissing, ProgramBroken
from ipdc_edge.commands.steps import partition, python_steps
from ipdc_edge.errors import WrongUsage

FUNCTIONS = """\
def words(key, line): pass
def swap(key, value): pass
def total(key, values): pass
def top(key, values): pass
def by_host(key, count): pass
"""
BOTH = "def map(key, line): pass\ndef reduce(key, values): pass\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"Job": FUNCTIONS, "Both": BOTH, "Map": "def map(k, v): pass\ndef spread(k, n): pass\n",
                       "Reduce": "def reduce(k, v): pass\ndef by_key(k, n): pass\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)


def _listed(text: str) -> list[dict[str, Any]]:
    Path("Listed.py").write_text(FUNCTIONS + text)
    return python_steps(["Listed.py"], (), Files())


@pytest.mark.parametrize(
    "first, more, steps",
    [
        (["Both.py"], (), [{"map": "Both.py", "reduce": "Both.py"}]),
        (["Map.py"], (), [{"map": "Map.py"}]),
        (["Job.py:words"], (), [{"map": "Job.py:words"}]),
        (["Job.py:words", "Reduce.py"], (), [{"map": "Job.py:words", "reduce": "Reduce.py"}]),
        (["Job.py:words", "Job.py:total"], (["Job.py:swap", "Job.py:top"], ["-", "Reduce.py"]),
         [{"map": "Job.py:words", "reduce": "Job.py:total"}, {"map": "Job.py:swap", "reduce": "Job.py:top"},
          {"reduce": "Reduce.py"}]),
        ([], (["Both.py"], ["Map.py", "Both.py"]),
         [{"map": "Both.py", "reduce": "Both.py"}, {"map": "Map.py", "reduce": "Both.py"}]),
        (["-", "Reduce.py"], (), [{"reduce": "Reduce.py"}]),
    ],
)
def test_files_and_functions(first: list[str], more: Any, steps: list[dict[str, str]]) -> None:
    files = Files()
    assert python_steps(first, more, files) == steps
    assert set(files.paths) == {word.partition(":")[0] for step in steps for word in step.values()}


def test_a_file_whose_name_has_a_colon_is_a_file() -> None:
    Path("a:words").write_text(FUNCTIONS)
    with pytest.raises(Exception, match="a:words cannot travel"):
        python_steps(["a:words"], (), Files())


@pytest.mark.parametrize("text", [
    'steps = [{"map": words, "reduce": total, "combine": total, "partition": by_host}, {"map": swap, "reduce": top}]',
    "steps = [dict(map=words, reduce=total, combine=total, partition=by_host), (swap, top)]",
    'steps: list = (\n  {"map": words, "reduce": total, "combine": total, "partition": by_host},\n  (swap, top),\n)',
    'steps = 5\nsteps = [{"map": words, "reduce": total, "combine": total, "partition": by_host}, (swap, top)]',
])
def test_steps_in_one_file(text: str) -> None:
    assert _listed(text) == [
        {"map": "Listed.py:words", "reduce": "Listed.py:total", "combine": "Listed.py:total",
         "partition": "Listed.py:by_host"},
        {"map": "Listed.py:swap", "reduce": "Listed.py:top"},
    ]


def test_steps_may_leave_out_a_map_or_a_reduce() -> None:
    assert _listed('steps = [(words,), (None, total), {"reduce": top, "map": None}]') == [
        {"map": "Listed.py:words"}, {"reduce": "Listed.py:total"}, {"reduce": "Listed.py:top"}]


def test_steps_win_over_map_but_another_variable_of_that_name_does_not() -> None:
    Path("Job.py").write_text(BOTH + "steps = [1, 2]\n")
    assert python_steps(["Job.py"], (), Files()) == [{"map": "Job.py", "reduce": "Job.py"}]
    Path("Job.py").write_text(BOTH + "steps = [(map, reduce)]\n")
    assert python_steps(["Job.py"], (), Files()) == [{"map": "Job.py:map", "reduce": "Job.py:reduce"}]


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("steps = make()", 6, "steps is not a list that is written out"),
        ("steps = []", 6, "the list of steps is empty"),
        ("steps = [\n  (words, total),\n  words]", 8, "words is no step"),
        ("steps = [(words, total, top)]", 6, r"\(words, total, top\) is no step"),
        ('steps = [{"mapp": words}]', 6, "a step has no 'mapp': there are map, combine, reduce, partition"),
        ("steps = [{**words}]", 6, r"a step has no \*\*"),
        ("steps = [{3: words}]", 6, "a step has no '3'"),
        ("steps = [{}]", 6, "a step has a map, a reduce, or both"),
        ('steps = [{"combine": total}]', 6, "a step has a map, a reduce, or both"),
        ('steps = [{"map": "words"}]', 6, "'words' for map: write the name of a function of this file, unquoted"),
        ("steps = [(lambda k, v: [], total)]", 6, "lambda k, v: .* for map: write the name"),
        ("steps = [(words, Job.total)]", 6, r"Job.total for reduce: write the name of a function of this file\."),
        ("steps = [(wrds, total)]", 6, "there is no wrds for map in this file. It defines .* Did you mean words?"),
        ("steps = [(words, late)]\ndef late(k, v): pass", 6, "late is defined only in line 7: put the list"),
    ],
)
def test_lists_that_are_not_understood(text: str, line: int, words: str) -> None:
    with pytest.raises(ProgramBroken, match=rf"Listed.py, line {line}: {words}") as caught:
        _listed(text)
    assert str(caught.value).splitlines()[-1].startswith("    steps = [")


def test_functions_that_are_not_there() -> None:
    with pytest.raises(FunctionMissing, match=r"Job.py defines no totl\. It defines .*Did you mean total\?"):
        python_steps(["Job.py:words", "Job.py:totl"], (), Files())
    with pytest.raises(FunctionMissing, match=r"Job.py defines no map\(key, line\)"):
        python_steps(["Job.py"], (), Files())
    with pytest.raises(FunctionMissing, match=r"Map.py defines no reduce\(key, values\)"):
        python_steps(["Both.py"], (["-", "Map.py"],), Files())
    with pytest.raises(WrongUsage, match="--step - does nothing"):
        python_steps(["Both.py"], (["-"],), Files())


def test_partition() -> None:
    for text, function in {"spread": "Map.py:spread", "by_key": "Reduce.py:by_key", "Job.py:by_host": "Job.py:by_host"
                           }.items():
        files = Files()
        steps = python_steps(["Map.py"], (["Map.py", "Reduce.py"], ["-", "Reduce.py"]), files)
        partition(text, steps, files)
        assert [step.get("partition") for step in steps] == [None, function, None]
        assert function.partition(":")[0] in files.paths
    with pytest.raises(FunctionMissing, match=r"Map.py and Reduce.py defines no by_kye.*Did you mean by_key\?"):
        partition("by_kye", steps, files)
    with pytest.raises(FunctionMissing, match=r"Job.py defines no by_hst.*Did you mean by_host\?"):
        partition("Job.py:by_hst", steps, files)
    with pytest.raises(FunctionMissing, match=r"Job.py defines no partition\(key, count\)"):
        partition("Job.py", steps, files)
    with pytest.raises(WrongUsage, match="job without reduce"):
        partition("spread", [{"map": "Map.py"}], Files())
    with pytest.raises(WrongUsage, match="for programs in Python"):
        partition("spread", [{"mapper": ["cat"], "reducer": ["cat"]}], Files())
