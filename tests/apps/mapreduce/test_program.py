"""The user's program: which function is which, what is told of those that are missing, and their context."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers_mapreduce import Job, loaded, program

from ipdc_edge.apps.mapreduce.context import CounterRefused, TooManyCounters, wants_context
from ipdc_edge.apps.mapreduce.program import FunctionMissing, NoFunction, split_entry

BOTH = b"""
def map(key, line):
    yield line, 1

def map_lines(lines):
    for line in lines:
        yield line, 2

def all_lines(lines):
    yield len(list(lines)), None

def swap(key, value):
    yield value, key

def combine(key, values):
    yield key, sum(values)

reduce = total = combine
number = 3
"""


@pytest.mark.parametrize(
    ("step", "result"),
    [
        ({"map": "Job1.py", "reduce": "Job1.py"}, b"a\t4\nb\t2\n"),  # map_lines stands before map
        ({"map": "Job1.py:map", "reduce": "Job1.py:total"}, b"a\t2\nb\t1\n"),
        ({"map": "Job1.py:map_lines"}, b"a\t2\na\t2\nb\t2\n"),
        ({"map": "Job1.py:all_lines"}, b"3\tnull\n"),
        ({"map": "Job1.py:swap"}, b"a\t0\na\t2\nb\t4\n"),
        ({"reduce": "Job1.py"}, b"0\t0\n2\t0\n4\t0\n"),
    ],
)
def test_a_step_names_files_or_functions(step: dict[str, str], result: bytes) -> None:
    code = {"Job1.py": BOTH.replace(b"reduce = total", b"def reduce(key, values): yield key, 0\nreduce = total")}
    if step.keys() == {"reduce"}:
        code["Job1.py"] += b"def reduce(key, values): yield key, 0\n"
    assert b"".join(Job(loaded(code, step)).run({"f": b"a\na\nb\n"}, partitions=1)) == result


def test_the_name_in_the_step_decides_and_the_function_s_own_too() -> None:
    code = b"def each(lines):\n    yield len(list(lines)), 1\nmap_lines = by_lines = each\n"
    code += b"def some_lines(lines):\n    yield len(list(lines)), 2\nother = some_lines\n"
    for entry, result in (("", b"3\t1\n"), (":by_lines", b"3\t1\n"), (":other", b"3\t2\n")):
        job = Job(loaded({"Job5.py": code}, {"map": f"Job5.py{entry}"}))
        assert job.run({"f": b"a\na\nb\n"}, split=100) == [result]


def test_the_conventional_combine_belongs_to_the_conventional_map() -> None:
    code = {"Map1.py": b"def map(key, line): yield line, 1\n", "Reduce1.py": BOTH}
    steps: list[dict[str, str]] = [
        {"map": "Map1.py", "reduce": "Reduce1.py"},
        {"map": "Map1.py:map", "reduce": "Reduce1.py"},
        {"map": "Map1.py:map", "reduce": "Reduce1.py", "combine": "Reduce1.py"},
        {"map": "Reduce1.py", "reduce": "Map1.py:map"},
        {"map": "Map1.py"},
    ]
    assert [step.combine is not None for step in loaded(code, *steps).steps] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        ({"map": "Job2.py:nothing"}, FunctionMissing, "Job2.py defines no nothing. It defines all_lines, combine, map"),
        ({"map": "Job2.py", "reduce": "Empty2.py"}, FunctionMissing, r"no reduce\(key, values\). It defines no "),
        ({"map": "Empty2.py"}, FunctionMissing, r"map\(key, line\) or map_lines\(lines\)"),
        ({"map": "Job2.py", "partition": "Job2.py"}, FunctionMissing, r"partition\(key, count\)"),
        ({"map": "Job2.py:number"}, NoFunction, "number in Job2.py is no function but of type int"),
    ],
)
def test_names_that_are_none_are_told_with_those_there_are(step: dict[str, str], kind: type, words: str) -> None:
    with pytest.raises(kind, match=words):
        loaded({"Job2.py": BOTH, "Empty2.py": b"from os.path import join\nx = 1\n"}, step)


def test_an_entry_is_cut_at_its_last_colon() -> None:
    assert [split_entry(text) for text in ("a.py", "a.py:f", "d/a.py:f")] == [
        ("a.py", ""), ("a.py", "f"), ("d/a.py", "f")]  # fmt: skip


def test_setup_is_called_once_for_each_file_and_may_have_a_context() -> None:
    code = {
        "Map3.py": b"seen = []\ndef setup(args, context):\n    seen.append((args, context.arguments, context.step))\n"
        b"    context.count('setup')\n"
        b"def map(key, line, context): yield line, [seen, context.step, context.counters['setup']]\n",
        "Reduce3.py": b"seen = []\ndef setup(args): seen.append(args['a'])\n"
        b"def reduce(key, values): yield key, [seen, *values]\n",
    }
    job = Job(loaded(code, {"map": "Map3.py", "reduce": "Reduce3.py"}, arguments={"a": 1}))
    assert job.run({"f": b"x"}, partitions=1) == [b'x\t[[1],[[[{"a":1},{"a":1},null]],0,0]]\n']
    assert job.user_counters == {}  # setup is no task


# Context


def test_every_function_gets_it_by_name_only() -> None:
    def mapper(key: int, line: str, context: Any) -> Iterator[tuple[str, Any]]:
        context.count("mapped")
        yield line, [context.input, context.task, context.job, context.step, context.arguments]

    def combine(key: str, values: Iterator[Any], *, context: Any) -> Iterator[tuple[str, Any]]:
        context.counters["g: combined"] += 2
        yield key, next(values)

    def partition(key: str, count: int, context: Any) -> int:
        context.count("partitioned")
        return 0

    def reducer(key: str, values: Iterator[Any], context: Any = None) -> Iterator[tuple[str, Any]]:
        context.status(f"reducing {key}")
        yield key, [*values, context.input, context.task, context.step]

    user = program({"map": mapper, "combine": combine, "reduce": reducer, "partition": partition},
                   {"map": lambda key, value, context: [(key, [value, context.step])]}, arguments={"x": 1})  # fmt: skip
    job = Job(user)
    [part, other] = job.run({"in.txt": b"a\na\n"}, partitions=2)
    assert part == (
        b'a\t[[["in.txt","map-00000","job-1",0,{"x":1}],null,"reduce-00000",0],1]\n'
    ) and other == b""  # fmt: skip
    assert job.user_counters == {"mapped": 2, "g: combined": 2, "partitioned": 1}
    assert job.said == ["reducing a"]


def test_map_lines_gets_the_input_that_is_being_read() -> None:
    def map_lines(lines: Iterator[str], context: Any) -> Iterator[tuple[str, str]]:
        for line in lines:
            yield line, context.input

    files = {"one": b"a\nb\n", "two": b"c"}
    assert Job(program(map_lines=map_lines)).run(files, together=2) == [b"a\tone\nb\tone\nc\ttwo\n"]


def test_counters_begin_anew_with_each_task() -> None:
    seen = []

    def mapper(key: int, line: str, context: Any) -> None:
        context.counters["lines"] += 1
        seen.append(context.counters["lines"])

    job = Job(program(map=mapper))
    job.run({"f": b"a\nb\nc\n"}, split=2)
    assert seen == [1, 2, 1] and job.user_counters == {"lines": 3}


def test_who_wants_a_context() -> None:
    def plain(key: int, line: str) -> None: ...
    def local(key: int, line: str) -> None:
        context = 1  # noqa: F841
    def wanting(key: int, line: str, context: Any) -> None: ...

    @functools.wraps(wanting)
    def passing(*args: Any, **kwargs: Any) -> None:
        wanting(*args, **kwargs)

    @functools.wraps(wanting)
    def hiding(*args: Any) -> None:
        wanting(*args, None)  # type: ignore[call-arg, arg-type]

    class Called:
        def __call__(self, key: int, line: str, context: Any) -> None: ...

        def method(self, key: int, line: str, context: Any) -> None: ...

    wants: list[Callable[..., Any]] = [wanting, passing, Called(), Called().method]
    given = functools.partial(wanting, context=1)
    does_not: list[Callable[..., Any]] = [plain, local, hiding, print, str, Called, given]
    assert [wants_context(thing) for thing in wants] == [True] * 4
    assert [wants_context(thing) for thing in does_not] == [False] * 7


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("x" * 81, 1, "more than 80 characters"), (5, 1, "name is text"), ("", 1, "name is text"), ("n", "1", "no int"),
     ("n", 1.5, "no int"), ("n", 1 << 63, "63 bits"), ("\U0001f600" * 41, 1, "more than 160 bytes")],
)  # fmt: skip
def test_counters_have_bounds(name: Any, value: Any, words: str) -> None:
    def by_item(key: int, line: str, context: Any) -> None:
        context.counters[name] = value

    def by_update(key: int, line: str, context: Any) -> None:
        context.counters.update({name: value})

    for mapper in (by_item, by_update):
        with pytest.raises(CounterRefused, match=words):
            Job(program(map=mapper)).run({"f": b"a"})


def test_counters_named_by_data_are_refused_in_time() -> None:
    def mapper(key: int, line: str, context: Any) -> None:
        context.count(line, -1)

    lines = b"".join(b"%d\n" % number for number in range(51))
    with pytest.raises(TooManyCounters, match="'50' is one too many: a task has at most 50"):
        Job(program(map=mapper)).run({"f": lines})
    job = Job(program(map=mapper))
    job.run({"f": lines[:-3]})
    assert len(job.user_counters) == 50 and job.user_counters["0"] == -1
