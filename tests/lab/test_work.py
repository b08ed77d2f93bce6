"""What a person sees of how work is shared out: drain and its end, a job's time, its priority, a node set aside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import PYTHON, ROOT, Lab, eventually

# A task ends when a file of its first word's name is there; so the test says how long it takes.
WAITS = """
import os, time
def map_lines(lines):
    for line in lines:
        while not os.path.exists(os.path.join(GO, line.split()[0])):
            time.sleep(0.02)
        yield line.strip(), 1
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = str(tmp_path_factory.mktemp("work") / "lab")
    lab = Lab(directory, 2, "--sandbox", "rlimits")  # where a job sees the file that it waits for
    yield lab
    eventually(lab.idle, "clean-up of every job on every node")
    lab.down()


def inputs(directory: Path, *words: str) -> list[str]:
    """A file, and so a task, for each word."""
    paths = []
    for number, word in enumerate(words):
        paths.append(str(directory / f"in{number}"))
        Path(paths[-1]).write_text(word + "\n")
    return paths


def program(directory: Path, text: str = WAITS) -> str:
    path = directory / "Map.py"
    path.write_text(f"GO = {str(directory)!r}\n{text}")
    return str(path)


def state_of(lab: Lab, name: str) -> str:
    return str(next(node["state"] for node in lab.json(1, "nodes") if node["name"] == name))


def part_of(lab: Lab, job: str, name: str) -> dict[str, Any]:
    """A node's part in a job of node 1; empty where it has none."""
    return next((dict(node) for node in lab.json(1, "status", job)["nodes"] if node["name"] == name), {})


def done(lab: Lab, job: str) -> bool:
    return bool(lab.json(1, "status", job)["state"] == "succeeded")


def restart(lab: Lab, node: int) -> None:
    """End a node's daemon, and start it again."""
    pid = int(Path(lab.home(node), "run", "daemon.pid").read_text().split()[0])
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the daemon's end")
    Lab(lab.directory, lab.nodes)


def test_drain_ends_what_runs_takes_no_more_and_outlives_a_restart(two: Lab, tmp_path: Path) -> None:
    job = two.run(1, "submit", program(tmp_path), "--input", *inputs(tmp_path, *["go"] * 8), "-k", "2",
                  "--id-only").stdout.strip()
    eventually(lambda: part_of(two, job, "node2").get("holds"), "a task on node 2")
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": two.home(2)}
    waiting = subprocess.Popen([PYTHON, "-m", "ipdc_edge", "drain", "--wait"], env=environment, text=True,
                               stdout=subprocess.PIPE)
    eventually(lambda: state_of(two, "node2") == "draining", "that the others see it")
    assert waiting.poll() is None, "something still runs there"
    (tmp_path / "go").touch()
    assert waiting.wait(60) == 0
    assert waiting.stdout is not None and "Nothing runs here any more." in waiting.stdout.read()
    eventually(lambda: done(two, job), "the job's end", 60)
    assert part_of(two, job, "node2")["tasks_done"] == 1, "it took more"
    restart(two, 2)
    assert state_of(two, "node2") == "draining"
    again = two.submit(1, program(tmp_path), "--input", *inputs(tmp_path, *["go"] * 8), "-k", "2")
    assert not part_of(two, again, "node2")
    found = json.loads(two.run(2, "doctor", "--json", check=False).stdout)
    assert "ipdc-edge drain --off" in json.dumps(found)
    assert two.json(2, "drain", "--off")["state"] == "ready"
    eventually(lambda: state_of(two, "node2") == "ready", "that the others see it")


def test_a_node_that_comes_in_the_middle_of_a_job_gets_work_of_it(two: Lab, tmp_path: Path) -> None:
    """Unless -k says how many there shall be."""
    two.run(2, "drain")
    eventually(lambda: state_of(two, "node2") == "draining", "that the others see it")
    words = [program(tmp_path), "--input", *inputs(tmp_path, *["go"] * 8), "--id-only"]
    asked = two.run(1, "submit", *words, "-k", "1").stdout.strip()
    job = two.run(1, "submit", *words).stdout.strip()
    eventually(lambda: part_of(two, job, "node1").get("state") == "working", "the first worker")
    two.run(2, "drain", "--off")
    eventually(lambda: part_of(two, job, "node2").get("holds"), "work for the newcomer", 60)
    assert not part_of(two, asked, "node2")
    (tmp_path / "go").touch()
    eventually(lambda: done(two, job) and done(two, asked), "the jobs' end", 60)
    assert part_of(two, job, "node2")["tasks_done"] > 0


def test_a_job_that_is_not_done_in_time_fails_and_leaves_nothing(two: Lab, tmp_path: Path) -> None:
    words = [program(tmp_path), "--input", *inputs(tmp_path, *["never"] * 4), "-k", "2", "--timeout"]
    failed = two.run(1, "submit", *words, "4s", check=False)
    assert failed.returncode == 1
    assert "not done within 4 s of its submission" in failed.stderr
    eventually(two.idle, "that every node is free of it")
    job = two.run(1, "submit", *words, "20s", "--id-only").stdout.strip()
    eventually(lambda: part_of(two, job, "node2").get("holds"), "a task on node 2")
    restart(two, 1)
    shown = two.json(1, "status", job)
    assert (shown["timeout"], shown["state"]) == (20, "running")
    eventually(lambda: two.json(1, "status", job)["state"] == "failed", "the end of its time", 60)
    assert two.json(1, "status", job)["error"].startswith("not done within 20 s")


def test_a_job_of_a_higher_priority_goes_first(two: Lab, tmp_path: Path) -> None:
    """Each task says when it began; the low job's first ones hold every slot until all is ordered."""
    def submit(name: str, *more: str) -> str:
        text = "import time\n" + WAITS.replace("1\n", "time.time()\n", 1)
        place = tmp_path / name
        place.mkdir()
        Path(place, "Map.py").write_text(f"GO = {str(tmp_path)!r}\n{text}")
        paths = inputs(place, *["go"] * 12)
        return two.run(1, "submit", str(place / "Map.py"), "--input", *paths, "-k", "2", "--id-only",
                       *more).stdout.strip()

    low = submit("low")
    slots = sum(node["slots"] for node in two.json(1, "nodes"))
    eventually(lambda: len(two.json(1, "status", low)["running"]) == slots, "a low task in each slot")
    high = submit("high", "--priority", "1")
    eventually(lambda: sum(n["holds"] for n in two.json(1, "status", high)["nodes"]) >= slots, "high tasks in hand")
    assert two.json(1, "status", high)["priority"] == 1
    (tmp_path / "go").touch()
    eventually(lambda: done(two, low) and done(two, high), "the jobs' end", 60)
    ended = {job: two.json(1, "status", job)["ended"] for job in (low, high)}
    assert ended[high] < ended[low]


def test_a_node_that_fails_what_others_can_do_is_set_aside_and_status_says_why(two: Lab, tmp_path: Path) -> None:
    text = """
def map(key, line, context):
    if context.node == "node2":
        raise ValueError("not with me")
    yield line, 1
"""
    paths = inputs(tmp_path, *[f"word{n}" for n in range(24)])
    job = two.submit(1, program(tmp_path, text), "--input", *paths, "-k", "2")
    told = part_of(two, job, "node2")
    assert (told["state"], told["tasks_done"]) == ("aside", 0)
    shown = two.run(1, "status", job).stdout
    assert "node2 aside (3 tasks failed here that others have done), 0 tasks done" in " ".join(shown.split())
    assert len(two.result(1, job)) == 24


def test_a_node_that_never_ends_its_task_does_not_hold_the_job(two: Lab, tmp_path: Path) -> None:
    text = """
import threading
def map(key, line, context):
    if context.node == "node2":
        threading.Event().wait()
    yield line, 1
"""
    job = two.submit(1, program(tmp_path, text), "--input", *inputs(tmp_path, "a", "b", "c", "d", "e", "f"), "-k", "2")
    assert two.result(1, job) == [f"{word}\t1" for word in "abcdef"]
    assert part_of(two, job, "node2")["tasks_done"] == 0
    eventually(two.idle, "that the loser is free too")


def test_the_story_of_a_job_is_told_while_it_runs_and_after_a_restart(two: Lab, tmp_path: Path) -> None:
    words = [program(tmp_path), "--input", *inputs(tmp_path, *["go"] * 4), "-k", "2", "--id-only"]
    job = two.run(1, "submit", *words).stdout.strip()
    eventually(lambda: part_of(two, job, "node2").get("holds"), "a task on node 2")
    assert "  so the job is offered to node2\n" in two.run(1, "story", job).stdout
    restart(two, 1)
    (tmp_path / "go").touch()
    eventually(lambda: done(two, job), "the job's end", 60)
    lines = two.run(1, "story", job).stdout.splitlines()
    said = [line[10:].strip() for line in lines]
    assert lines[0] == f"job {job}, succeeded"
    turns = ["the job was accepted: 4 tasks of mapreduce, for 2 nodes",
             "the daemon began anew: its ledger has 0 of 4 tasks done, by 2 nodes",
             "so every task is done; the parts of the result are on their way here",
             "the result is in its place: the job has succeeded"]
    assert [line for line in said if line in turns] == turns, "\n".join(lines)
    assert all(f"map-{number:05d} is done on node" in "\n".join(said) for number in range(4))
    facts = two.json(1, "story", job, "map-00001")["facts"]
    assert {fact["task"] for fact in facts} == {"", "map-00001"}
    kinds = [fact["kind"] for fact in facts if fact["task"]]
    assert kinds[0] == "leased" and kinds.count("committed") == 1
    unknown = two.run(1, "story", job, "map-00004", check=False)
    assert unknown.returncode == 1 and "Nothing is known of a task map-00004" in unknown.stderr
