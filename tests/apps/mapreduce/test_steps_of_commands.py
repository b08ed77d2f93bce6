"""Jobs whose steps are commands: how they stand among Python steps, and what they are given and told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_mapreduce import Job, program

from ipdc_edge.apps.mapreduce.command import CommandFailed
from ipdc_edge.codec.keys import ValueNotCarried

pytestmark = pytest.mark.outside("commands are processes")


def joined(key: object, values: Iterator[str]) -> Iterator[tuple[object, list[str]]]:
    yield key, sorted(values)


TEXT = "\n".join(" ".join(f"w{n * n % 97}" for n in range(at, at + 7)) for at in range(300)).encode()
COUNTS = Counter(TEXT.decode().split())


def result_of(parts: list[bytes]) -> dict[str, Any]:
    lines = [line.split("\t") for part in parts for line in part.decode().splitlines()]
    assert len({key for key, _ in lines}) == len(lines)
    return {key: json.loads(value) for key, value in lines}


def fails_on(word: str) -> Any:
    def function(key: object, value: object) -> Iterator[tuple[object, object]]:
        yield key, 1 // (word not in (key, value))

    return function


def test_commands_alone(tmp_path: Path) -> None:
    data = b"b a\r\nb \xff\nlast"
    user = program(mapper=["cat"])
    assert Job(user, str(tmp_path)).run({"f": data}) == [data + b"\n"]
    user = program(mapper=["tr", "-s", " ", "\n"], reducer=["uniq", "-c"])
    parts = Job(user, str(tmp_path)).run({"f": b"b a b\na b\n"}, partitions=1)
    assert parts == [b"      2 a\t\n      3 b\t\n"]


def test_a_mapper_is_run_for_each_file_and_knows_it(tmp_path: Path) -> None:
    script = "printf '%s %s\\t' $mapreduce_map_input_file $mapreduce_task_id; cat"
    files = {"one": b"1\n", "two": b"2\n3\n", "none": b""}
    [part] = Job(program(mapper=["sh", "-c", script]), str(tmp_path)).run(files, together=3)
    assert part == b"one map-00000\t1\ntwo map-00000\t2\n3\nnone map-00000\t\n"


@pytest.mark.parametrize("budget", [2000, 1 << 20])
def test_commands_and_a_combiner_count_words(tmp_path: Path, budget: int) -> None:
    add = ["awk", "-F\t", '$1 == key { sum += $2; next } NR > 1 { print key "\t" sum } { key = $1; sum = $2 } '
           'END { if (NR) print key "\t" sum }']  # fmt: skip
    ones = ["awk", '{ for (i = 1; i <= NF; i++) print $i "\t1" }']
    made = []
    for combiner in (None, add):
        user = program(mapper=ones, combiner=combiner, reducer=add, sort_budget=1)
        user.budget = budget
        job = Job(user, str(tmp_path))
        assert result_of(job.run({"f": TEXT})) == dict(COUNTS)
        what = "output_bytes" if budget > 2000 else "output_records"  # a few lines at a time hardly show in bytes
        made.append(sum(counters[what] for counters in job.counters if "spills" in counters))
    assert made[1] < made[0]


def test_steps_of_commands_and_of_functions_mix(tmp_path: Path) -> None:
    user = program(
        {"mapper": ["awk", '{ for (i = 1; i <= NF; i++) print $i "\t1" }'], "reducer": ["uniq", "-c"]},
        {"map": lambda key, value: [(int(key.split()[0]), key.split()[1])], "reduce": joined},
        {"mapper": ["sed", "s/^/x/"]},
    )
    parts = Job(user, str(tmp_path)).run({"f": b"b a b c\na b\n"}, partitions=1)
    assert parts == [b'x1\t["c"]\nx2\t["a"]\nx3\t["b"]\n']


def test_a_reducer_gets_its_typed_pairs_as_text_in_order(tmp_path: Path) -> None:
    user = program(
        {"map": lambda key, line: [(thing, (1, b"x")) for thing in (2, None, "s", 1.5, ("a", 1))], "reduce": None,
         "reducer": ["cat"]})  # fmt: skip
    parts = Job(user, str(tmp_path)).run({"f": b"x"}, partitions=1)
    value = b'[1,{"/":{"bytes":"eA"}}]\n'
    assert parts == [b"null\t" + value + b"2\t" + value + b"1.5\t" + value + b"s\t" + value + b'["a",1]\t' + value]


@pytest.mark.parametrize("role", ["mapper", "combiner", "reducer"])
def test_a_command_that_fails_says_which_it_was(tmp_path: Path, role: str) -> None:
    entries = {"mapper": ["cat"], "reducer": ["cat"], role: ["sh", "-c", "cat >/dev/null; echo no luck >&2; exit 3"]}
    with pytest.raises(CommandFailed, match="(?s)status 3.*no luck") as caught:
        Job(program(**entries), str(tmp_path)).run({"f": b"a\n"}, partitions=1)
    position = caught.value.position  # type: ignore[attr-defined]
    assert position["where"] == role and ("input" in position) == (role != "reducer")


def test_what_a_function_upstream_of_a_command_raises_is_the_functions(tmp_path: Path) -> None:
    for function, kind in ((fails_on("two"), ZeroDivisionError), (lambda key, line: [(key, {1})], ValueNotCarried)):
        user = program({"map": function}, {"mapper": ["cat"]})
        with pytest.raises(kind) as caught:
            Job(user, str(tmp_path)).run({"in.txt": b"one\ntwo\n"})
        assert caught.value.position["where"] == "map of step 1"


def test_counters_of_commands_are_the_users(tmp_path: Path) -> None:
    script = "cat; echo reporter:counter:group,name,5 >&2; echo reporter:status:here >&2"
    job = Job(program(mapper=["sh", "-c", script]), str(tmp_path))
    job.run({"f": b"a\n"})
    assert job.user_counters == {"group: name": 5} and job.said == ["here"]
