"""Programs in the Hadoop Streaming way on three real nodes: the scripts of examples/streaming as they lie there,
against plain Python; what they count and say; a native program that travels; and that nothing of them is left when
a job is cancelled."""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, Lab, difference, eventually, in_order
from tests.lab.test_jobs import program

EXAMPLES = os.path.join(ROOT, "examples", "streaming")


@pytest.fixture(scope="module")
def chapter(book: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 5 MB of the book: several maps on every node."""
    path = tmp_path_factory.mktemp("chapter") / "chapter.txt"
    with open(book, "rb") as file:
        path.write_bytes(file.read(5 << 20))
    return str(path)


def processes(lab: Lab, word: str = "") -> list[str]:
    """What runs in the lab's runners, or has the word in its environment: command lines."""
    found, runners = [], lab.in_runners()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as line:
                told = word and word.encode() in environ.read()
                if told or not word and int(name) in runners:
                    found.append(line.read().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue  # it has ended
    return found


def result(lab: Lab, node: int, job: str) -> bytes:
    return in_order(b"".join(lab.parts(node, job)))


def test_word_count_with_and_without_a_combiner(lab: Lab, chapter: str) -> None:
    words = ("--mapper", "mapper.py", "--reducer", "reducer.py", "--input", chapter, "-k", "3")
    plain = lab.submit(1, *words, cwd=EXAMPLES)
    combined = lab.submit(2, *words, "--combiner", "reducer.py", cwd=EXAMPLES)
    with open(chapter, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        counts = collections.Counter(word for line in file for word in line.split())
    expected = in_order(b"".join(b"%s\t%d\n" % (word.encode("utf-8", "surrogateescape"), count)
                                 for word, count in counts.items()))
    assert not difference(result(lab, 1, plain), expected) and not difference(result(lab, 2, combined), expected)
    before, after = lab.json(1, "status", plain), lab.json(2, "status", combined)
    assert before["maps"]["total"] > 3 and {node["name"] for node in before["nodes"] if node["tasks_done"]} == {
        "node1", "node2", "node3"}
    assert after["shuffle_bytes"] < before["shuffle_bytes"], "the combiner spares the network"


def test_highest_temperatures_by_awk_and_what_it_counts(lab: Lab, tmp_path: Path) -> None:
    chance = random.Random(8)
    lines, highest, malformed = [], {}, 0
    for _ in range(120_000):
        year, tenths = chance.randrange(1950, 2025), chance.randrange(-400, 450)
        lines.append(f"{year}-07-01T12:00,roof,{tenths / 10}")
        highest[year] = max(highest.get(year, -1000), tenths)
        if chance.random() < 0.01:
            lines.append(f"{year}-07-02T12:00,roof,{chance.choice(['', 'n/a', '12.5 C', '--'])}")
            malformed += 1
    path = tmp_path / "readings.csv"
    path.write_text("\n".join(lines))
    job = lab.submit(3, "--mapper", "max_temperature_map.awk", "--reducer", "max_temperature_reduce.awk", "--input",
                     str(path), "-k", "3", cwd=EXAMPLES)
    expected = b"".join(b"%d\t%s\n" % (year, f"{tenths / 10:g}".encode()) for year, tenths in highest.items())
    assert not difference(result(lab, 3, job), in_order(expected))
    assert lab.json(3, "status", job)["counters"] == {"Temperatures: malformed": malformed}
    assert f"counters   {malformed}  Temperatures: malformed" in lab.run(3, "status", job).stdout


def test_statuses_of_web_servers_by_file(lab: Lab, tmp_path: Path) -> None:
    """A shell script that is told its input file; one file is longer than a split."""
    chance, expected = random.Random(9), collections.Counter()
    (tmp_path / "logs").mkdir()
    for name, count in (("access.log", 30_000), ("access.log.1", 500), ("a&b", 3), ("empty", 0)):
        with open(tmp_path / "logs" / name, "w") as file:
            for number in range(count):
                status = chance.choice([200, 200, 301, 404, 500])
                file.write(f'::1 - - [23/Nov/2026] "GET /{number} HTTP/1.1" {status} {chance.randrange(9999)}\n'
                           if chance.random() < 0.95 else "no request\n")
    for name in os.listdir(tmp_path / "logs"):
        for found in re.findall(r'" (\d{3}) ', (tmp_path / "logs" / name).read_text()):
            expected[f"{name} {found}"] += 1
    job = lab.submit(2, "--mapper", "statuses.sh", "--reducer", "reducer.py", "--input", str(tmp_path / "logs"), "-k",
                     "2", cwd=EXAMPLES)
    assert not difference(result(lab, 2, job), in_order("".join(
        f"{key}\t{count}\n" for key, count in expected.items()).encode()))


def test_a_native_program_travels(lab: Lab, chapter: str, tmp_path: Path) -> None:
    """Under a name that no node knows, from a directory, with a file beside it."""
    (tmp_path / "bin").mkdir()
    shutil.copy("/usr/bin/uniq", tmp_path / "bin" / "tally")
    shutil.copy("/usr/bin/grep", tmp_path / "bin" / "sieve")
    (tmp_path / "wanted.txt").write_text("Zythum\nwater\n")
    job = lab.submit(1, "--mapper", "bin/sieve -ow -f wanted.txt", "--reducer", "./tally -c", "--file", "bin/tally",
                     "--input", chapter, "-k", "2", cwd=tmp_path)
    with open(chapter, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        counts = collections.Counter(re.findall(r"\b(?:Zythum|water)\b", file.read(), re.ASCII))
    assert counts["water"] > 100
    assert lab.result(1, job) == sorted(f"{count:7} {word}\t" for word, count in counts.items())


def test_what_a_program_says_and_counts_is_seen_while_it_runs_and_after(lab: Lab, tmp_path: Path) -> None:
    """It goes on when the test lets it: when what it waits for is ended from outside of its sandbox."""
    (tmp_path / "says.sh").write_text(
        "#!/bin/sh\necho reporter:status:waits at the door >&2\necho reporter:counter:Doors,closed,2 >&2\n"
        "sleep 100004\necho reporter:counter:Doors,open,-1 >&2\ncat\n")
    (tmp_path / "one").write_text("1\n")
    job = lab.run(2, "submit", "--mapper", "says.sh", "--reducer", "cat", "--input", "one", "one", "-k", "2",
                  "--id-only", cwd=tmp_path).stdout.strip()
    try:
        eventually(lambda: [task for task in lab.json(2, "status", job)["running"]
                            if task["status"] == "waits at the door" and task["node"] in ("node1", "node2", "node3")],
                   "its words")
        assert ": waits at the door" in lab.run(2, "status", job).stdout.replace("\n             ", " ")
    finally:
        view = eventually(lambda: open_doors(lab) or [view for view in [lab.json(2, "status", job)]
                                                      if view["state"] == "succeeded"], "the job's end")[0]
    runs = view["counters"]["Doors: closed"] // 2
    assert view["counters"] == {"Doors: closed": 2 * runs, "Doors: open": -runs} and runs == 2
    assert lab.result(2, job) == ["1\t", "1\t"]


def open_doors(lab: Lab) -> None:
    """Ends whatever waits at a door in the lab's runners."""
    for pid in lab.in_runners():
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
            if line.read() == b"sleep\000100004\0":
                os.kill(pid, signal.SIGTERM)


CHILDREN = """#!/bin/sh
sleep 100000 &
(nohup sh -c 'sleep 100001; :' >/dev/null 2>&1 &)
sh -m -c 'sleep 100002 & wait' &
trap '' TERM HUP INT
echo reporter:status:all there >&2
cat
while :; do sleep 100003; done
"""


@pytest.mark.parametrize("place", ["mapper", "reducer"])
def test_children_in_the_background_go_with_a_cancelled_job(lab: Lab, tmp_path: Path, place: str) -> None:
    """On every node, also those that ignore signals, or have process groups of their own."""
    (tmp_path / "children.sh").write_text(CHILDREN)
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}").write_text("line\n" * 300_000)
    words = ("--mapper", "children.sh") if place == "mapper" else ("--mapper", "cat", "--reducer", "children.sh")
    job = lab.run(3, "submit", *words, "--input", "in", "-k", "3", "--id-only", cwd=tmp_path).stdout.strip()
    word = f"mapreduce_job_id={job}"
    try:
        eventually(lambda: len({task["node"] for task in lab.json(3, "status", job)["running"]
                                if task["status"] == "all there"}) == 3, "programs on all nodes")
        seen = " ".join(processes(lab, word))
        for number in range(3):
            assert seen.count(f"sleep 10000{number}") >= 3, seen
    finally:
        lab.run(3, "cancel", job)
    eventually(lambda: not processes(lab, word), f"the end of {processes(lab, word)}", 10)
    eventually(lab.idle, "nothing of the job is held")
    assert not any(os.listdir(os.path.join(lab.home(node), "scratch")) for node in (1, 2, 3))


def test_a_flood_of_words_on_standard_error_costs_nothing(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "talks.sh").write_text("#!/bin/sh\nyes 'more and more words' | head -c 20000000 >&2\ncat\n")
    (tmp_path / "one").write_text("1\n2\n")
    job = lab.submit(1, "--mapper", "talks.sh", "--reducer", "cat", "--input", "one", "-k", "2", cwd=tmp_path)
    assert lab.result(1, job) == ["1\t", "2\t"]
    assert 1000 < len(lab.run(1, "logs", job).stdout) < 1 << 20


def test_python_and_programs_give_the_same(lab: Lab, chapter: str) -> None:
    python = lab.submit(2, program("words.py"), "--input", chapter, "-k", "2")
    script = lab.submit(2, "--mapper", "mapper.py", "--combiner", "reducer.py", "--reducer", "reducer.py", "--input",
                        chapter, "-k", "2", cwd=EXAMPLES)
    assert lab.parts(2, python) == lab.parts(2, script)
