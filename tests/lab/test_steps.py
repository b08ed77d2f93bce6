"""Several steps in a row on three real nodes, and what a step may ask for: the order of values, partitions, forms of
results, context. Against plain Python, byte for byte."""

from __future__ import annotations

import ast
import base64
import collections
import json
import random
from pathlib import Path

import pytest

from tests.lab.conftest import Lab, difference, eventually, in_order
from tests.lab.test_exact import ODD_NAMES, as_json, write
from tests.lab.test_jobs import program


@pytest.fixture(scope="module")
def chapter(book: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 5 MB of the book: several maps on every node."""
    path = tmp_path_factory.mktemp("chapter") / "chapter.txt"
    with open(book, "rb") as file:
        path.write_bytes(file.read(5 << 20))
    return str(path)


@pytest.fixture(scope="module")
def counted(chapter: str) -> dict[str, int]:
    """Its words by plain Python."""
    with open(chapter, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return dict(collections.Counter(file.read().split()))


def told(value: object) -> bytes:
    """A key or value as the form text has it."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else as_json(value)


def test_word_count_then_top_ten(lab: Lab, chapter: str, counted: dict[str, int]) -> None:
    """By a list of steps in one file, and by --step; the last reduce has one key, two of three parts are empty."""
    best = sorted((-count, word) for word, count in counted.items())[:10]
    expected = [b"%d\t%s\n" % (rank, as_json([word, -count])) for rank, (count, word) in enumerate(best, 1)]
    listed = lab.submit(1, program("top_ten.py"), "--input", chapter, "-k", "3")
    given = lab.submit(2, program("words.py"), "--step", program("top_ten.py:together"), program("top_ten.py:top"),
                       "--input", chapter, "-k", "3")
    for node, job in ((1, listed), (2, given)):
        assert in_order(b"".join(lab.parts(node, job))) == in_order(b"".join(expected))
        stages = lab.json(node, "status", job)["stages"]
        assert [(stage["name"], stage["done"]) for stage in stages[1:]] == [("reduces", 3), ("reduces 2", 3)]
        assert stages[0]["name"] == "maps" and stages[0]["done"] == stages[0]["total"] >= 5
        times = [stage[at] for stage in stages for at in ("began", "ended")]
        assert times == sorted(times) and times[0] > 0


def test_word_count_then_its_inverse(lab: Lab, chapter: str, counted: dict[str, int]) -> None:
    """Every word passes the second shuffle, with an int as its key."""
    job = lab.submit(3, program("words.py"), "--step", program("inverse.py"), "--input", chapter, "-k", "2")
    words: dict[int, list[str]] = {}
    for word, count in counted.items():
        words.setdefault(count, []).append(word)
    expected = b"".join(b"%d\t%s\n" % (count, told(" ".join(sorted(words[count])))) for count in sorted(words))
    parts = lab.parts(3, job)
    assert not difference(in_order(b"".join(parts)), in_order(expected))
    for part in parts:
        counts = [int(line.partition(b"\t")[0]) for line in part.splitlines()]
        assert counts == sorted(counts) and len(counts) > 100, "ints are in the order of numbers"


def test_three_steps_with_one_without_reduce_between_them(lab: Lab, chapter: str, counted: dict[str, int]) -> None:
    job = lab.submit(1, program("words.py"), "--step", program("inverse.py:short"), "--step", program("inverse.py"),
                     "--step", program("inverse.py:crowd"), program("inverse.py:crowds"),
                     "--input", chapter, "-k", "3")
    sizes = collections.Counter(count for word, count in counted.items() if len(word) <= 5)
    groups: dict[tuple[bool, int], list[int]] = {}
    for count, size in sizes.items():
        groups.setdefault((size > 1, len(str(count))), []).append(count)
    expected = b"".join(b"%s\t%s\n" % (as_json(group), as_json(sorted(v))) for group, v in groups.items())
    assert not difference(in_order(b"".join(lab.parts(1, job))), in_order(expected))
    names = [stage["name"] for stage in lab.json(1, "status", job)["stages"]]
    assert names == ["maps", "reduces", "reduces 2", "reduces 3"], "a step without a reduce is no stage"


def test_keys_of_every_type_through_two_shuffles(lab: Lab, tmp_path: Path) -> None:
    """1, 1.0, True, "1", b"1" and (1,) are six keys; the order is that of types, then of values, in one part as it
    stands."""
    chance = random.Random(5)
    names = [name.decode("utf-8", "surrogateescape") for name in ODD_NAMES]
    scalars: list[object] = [None, False, True, 0, 1, -1, 255, 256, -256, 1 << 62, 1 << 64, -(1 << 200), 10**300, 0.5,
                             1.0, -1.0, 0.0, 1e300, -1e-300, "", "1", "None", b"", b"1", b"\x00\xff", *names,
                             *ODD_NAMES]
    keys = [*scalars, *((a,) for a in scalars), *zip(scalars, reversed(scalars)), (), ((),), (("a", (1, b"b")), None),
            *(chance.randrange(-(10**chance.randrange(1, 30)), 10**12) for _ in range(200))]
    seen = [chance.choice(keys) for _ in range(4000)] + keys
    path = write(tmp_path / "keys", (ascii(key).encode() for key in seen))
    counts = collections.Counter(map(repr, seen))
    found = {one: lab.parts(2, lab.submit(2, program("typed.py"), "--input", path, "-k", str(one))) for one in (1, 3)}
    order = sorted({repr(key): key for key in seen}.values(), key=_rank)
    expected = b"".join(b"%s\t%s\n" % (told(repr(key)), as_json([_kinds(key), counts[repr(key)]])) for key in order)
    assert ast.literal_eval(ascii(keys)) == keys, "each is written as Python reads it"
    assert not difference(found[1][0], expected)
    assert all(found[3]) and not difference(in_order(b"".join(found[3])), in_order(expected))


def _kinds(key: object) -> object:
    return [_kinds(item) for item in key] if isinstance(key, tuple) else type(key).__name__


def _rank(key: object) -> tuple[object, ...]:
    """None < False < True < int < float < str < bytes < tuple; text by its bytes, a tuple item by item."""
    place = [type(None), bool, int, float, str, bytes, tuple].index(type(key))
    if isinstance(key, str):
        return place, key.encode("utf-8", "surrogateescape")
    return (place, [_rank(item) for item in key]) if isinstance(key, tuple) else (place, 0 if key is None else key)


def _stations(tmp_path: Path) -> tuple[str, dict[str, list[tuple[int, float]]]]:
    """Two files of readings in no order, and each station's readings in theirs: tuples beginning with a day, many of
    which occur twice."""
    chance = random.Random(6)
    readings: dict[str, list[tuple[int, float]]] = {}
    lines = []
    for _ in range(60_000):
        station, day, reading = f"station-{chance.randrange(300)}", chance.randrange(-200, 200), chance.uniform(-9, 9)
        readings.setdefault(station, []).append((day, reading))
        lines.append(f"{station},{day},{reading!r}".encode())
    (tmp_path / "readings").mkdir()
    write(tmp_path / "readings" / "a", lines[:20_000])
    write(tmp_path / "readings" / "b", lines[20_000:])
    return str(tmp_path / "readings"), readings


def test_secondary_sort_with_a_partition_by_the_user(lab: Lab, tmp_path: Path) -> None:
    """What the function gives, negative here, counts modulo the number of parts."""
    path, readings = _stations(tmp_path)
    job = lab.submit(3, program("secondary.py"), "--input", path, "-k", "3", "--sort-values", "--partition",
                     "by_host")
    expected = [b""] * 3
    for station in sorted(readings, key=str.encode):
        ordered = sorted(readings[station])
        expected[-int(station.split("-")[1]) % 3] += b"".join(
            b"%s\t%s\n" % (station.encode(), as_json([day, later, reading - before]))
            for (day, before), (later, reading) in zip(ordered, ordered[1:])
        )
    parts = lab.parts(3, job)
    for part, wanted in zip(parts, expected, strict=True):
        assert not difference(part, wanted)


def test_a_partition_that_is_no_number_is_told(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "one", [b"station-7,1,2"])
    done = lab.run(1, "submit", program("secondary.py"), "--input", path, "-k", "2", "--partition", "by_name",
                   check=False)
    assert done.returncode == 1 and "partition must return an int" in done.stderr and "'station-7'" in done.stderr


def test_results_as_text_json_and_raw(lab: Lab, tmp_path: Path) -> None:
    names = [name for name in ODD_NAMES if name]
    path = write(tmp_path / "names", names)
    offsets, at = [], 0
    for name in names:
        offsets.append((name.decode("utf-8", "surrogateescape"), at))
        at += len(name) + 1
    text, listed = b"", []
    for key, offset in offsets:
        value = {"offset": offset, "of": [None, True, 1.5, "\u00e9\t\u4e2d"]}
        binary = {"/": {"bytes": base64.b64encode(b"\x00\xff").decode().rstrip("=")}}
        text += b"%s\t%s\n%s\t%s\n%d\t%s\n" % (
            told(key), as_json(value), json.dumps([key, offset], ensure_ascii=False, separators=(",", ":"))
            .encode("utf-8", "surrogateescape"), as_json(binary), offset, told(key))
        listed += [[key, value], [[key, offset], binary], [offset, key]]
    job = lab.submit(1, program("values.py"), "--input", path, "-k", "2", "--output-format", "text")
    assert not difference(in_order(b"".join(lab.parts(1, job))), in_order(text))
    job = lab.submit(2, program("values.py"), "--input", path, "-k", "2", "--output-format", "json")
    parsed = [json.loads(line) for part in lab.parts(2, job) for line in part.decode("utf-8").split("\n") if line]
    assert sorted(parsed, key=ascii) == sorted(listed, key=ascii)
    job = lab.submit(3, program("values.py:map"), program("values.py:text"), "--input", path, "-k", "1",
                     "--output-format", "raw")
    assert lab.parts(3, job) == [b"".join(name + b"|\xfe\n" for name in sorted(names))]


def test_raw_refuses_what_has_no_bytes(lab: Lab, tmp_path: Path) -> None:
    done = lab.run(1, "submit", program("values.py"), "--input", write(tmp_path / "one", [b"x"]),
                   "--output-format", "raw", check=False)
    assert done.returncode == 1 and "raw" in done.stderr and "dict" in done.stderr


def test_context_tells_and_is_told(lab: Lab, tmp_path: Path) -> None:
    """Names of inputs, tasks, arguments; counters are exact sums over tasks of all nodes."""
    (tmp_path / "in").mkdir()
    lines = {"first": [b"abc", b"", b"de"] * 500_000, "second": [b"x"] * 9, "third": [b""]}
    for name, content in lines.items():
        write(tmp_path / "in" / name, content)
    job = lab.submit(2, program("told.py"), "--input", str(tmp_path / "in"), "-k", "3", "--args", '{"suffix": "!"}')
    expected = b"".join(b'in/%s 0!True\t[["map"],"reduce",null,true]\n' % name.encode() for name in lines)
    assert in_order(b"".join(lab.parts(2, job))) == in_order(expected)
    everything = [line for content in lines.values() for line in content]
    view = lab.json(2, "status", job)
    assert view["maps"]["total"] > 2
    assert view["counters"] == {"lines": len(everything), "lengths: all": sum(map(len, everything)),
                                "blank": everything.count(b""), "keys": 3}


def test_status_of_a_task_is_seen_while_it_runs(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "one", [b"line"])
    job = lab.run(3, "submit", program("told.py:waits"), "--input", path, "--args", '{"suffix": ""}',
                  "--id-only").stdout.strip()
    try:
        (task,) = eventually(
            lambda: [task for task in lab.json(3, "status", job)["running"] if task["status"]], "a word of the task")
        assert task["task"] == "map-00000" and task["status"] == "at line 0"
        assert task["node"] in ("node1", "node2", "node3")
        assert "at line 0" in lab.run(3, "status", job).stdout
    finally:
        lab.run(3, "cancel", job)
