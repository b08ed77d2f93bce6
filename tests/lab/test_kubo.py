"""A node whose content is in its Kubo takes part in the domain's jobs like the others, and outlives its Kubo's end."""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ipfs.conftest import ipfs as ipfs  # a fixture
from tests.ipfs.kubo import Kubo
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually
from tests.lab.test_jobs import as_lines, program, text_of

pytestmark = pytest.mark.kubo
MB = 1 << 20


def pid_of(lab: Lab, node: int) -> int:
    with open(os.path.join(lab.home(node), "run", "daemon.pid")) as file:
        return int(file.read().split()[0])


@pytest.fixture(scope="module")
def kubo(ipfs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    made = Kubo(tmp_path_factory.mktemp("kubo"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def mixed(kubo: Kubo) -> Iterator[Lab]:
    """Three nodes; the second has its content in a Kubo, which comes up after it."""
    directory = tempfile.mkdtemp(prefix="ipdc-kubo-", dir="/tmp")
    made = Lab(directory, 3)
    try:
        made.down()
        with open(os.path.join(made.home(2), "ipdc.conf"), "a", encoding="utf-8") as conf:
            conf.write(f"store = kubo\nkubo_api = {kubo.rpc[0]}:{kubo.rpc[1]}\n")
        Lab(directory, 3)  # starts it again, without Kubo
        assert doctor(made)["kubo"]["ok"] is False and str(kubo.rpc[1]) in doctor(made)["kubo"]["detail"]
        kubo.start()
        eventually(lambda: doctor(made)["kubo"]["ok"], "the daemon's machine has its Kubo", 60)
        yield made
        eventually(made.idle, "clean-up of every job on every node", 60)
        assert made.left_over() == []
    finally:
        made.down()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def text(book: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text"
    with open(book, "rb") as source:
        path.write_bytes(source.read(24 * MB))
    return str(path)


@pytest.fixture(scope="module")
def expected(text: str) -> list[str]:
    return as_lines(dict(collections.Counter(word for line in text_of(text) for word in line.split())))


def doctor(lab: Lab) -> dict[str, Any]:
    found = json.loads(lab.run(2, "doctor", "--json", check=False).stdout)
    return {check["check"]: check for check in found}


def words(lab: Lab, master: int, text: str) -> str:
    return lab.submit(master, program("words.py"), "--input", text, "-k", "3")


def done_by(lab: Lab, master: int, job: str) -> dict[str, int]:
    return {node["name"]: node["tasks_done"] for node in lab.json(master, "status", job)["nodes"]}


def test_word_count_with_a_node_on_kubo_as_worker_and_as_master(
        mixed: Lab, kubo: Kubo, text: str, expected: list[str]) -> None:
    first, second = words(mixed, 1, text), words(mixed, 2, text)
    assert mixed.result(1, first) == expected
    assert mixed.parts(1, first) == mixed.parts(2, second)
    assert done_by(mixed, 1, first)["node2"] > 0
    assert any(done for name, done in done_by(mixed, 2, second).items() if name != "node2")
    given, taken = (mixed.ask(2, "counters")[of]["blocks"] for of in ("gateway", "fetched"))
    assert given > 0 and taken > 0  # runs and parts went both ways
    assert [mixed.ask(node, "counters")["store"]["lost"] for node in (1, 2, 3)] == [0, 0, 0]
    assert {node["name"]: node["store"] for node in mixed.json(1, "nodes")} == {
        "node1": "embedded", "node2": "kubo", "node3": "embedded"}


def test_content_goes_both_ways(mixed: Lab, kubo: Kubo, tmp_path: Path) -> None:
    data = os.urandom(3 * MB + 5)
    (tmp_path / "data").write_bytes(data)
    there = mixed.run(2, "add", "--copy", str(tmp_path / "data")).stdout.strip()
    assert kubo.run("cat", there) == data
    (tmp_path / "data").unlink()
    kubo.run("repo", "gc", "--quiet")
    got = tmp_path / "got"
    mixed.run(3, "get", there, "-o", str(got))
    assert got.read_bytes() == data
    (tmp_path / "other").write_bytes(data[::-1])
    here = mixed.run(1, "add", str(tmp_path / "other")).stdout.strip()
    mixed.run(2, "pin", here)
    kubo.run("repo", "gc", "--quiet")
    assert kubo.run("cat", here) == data[::-1]
    assert mixed.json(2, "store", "verify")["damaged"] == 0
    for cid in (there, here):
        mixed.run(2, "unpin", cid)
    mixed.run(2, "gc")
    eventually(lambda: b"ipdc-edge" not in kubo.run("pin", "ls", "--names", "--type=recursive"), "nothing is pinned")
    kubo.run("repo", "gc", "--quiet")
    with pytest.raises(AssertionError, match="not find|not found|offline"):
        kubo.run("--offline", "block", "get", here)


def test_kubo_killed_in_the_middle_of_a_job(mixed: Lab, kubo: Kubo, text: str, expected: list[str]) -> None:
    daemon = pid_of(mixed, 2)
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": mixed.home(1)}
    command = [PYTHON, "-m", "ipdc_edge", "submit", program("words.py"), "--input", text, "-k", "3", "--id-only"]
    job = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    eventually(lambda: done_by(mixed, 1, job).get("node2"), "the node on Kubo has done a task", 120)
    kubo.stop(kill=True)
    assert mixed.json(1, "status", job)["state"] == "running"
    ended = eventually(lambda: (view := mixed.json(1, "status", job))["state"] != "running" and view, "its end", 300)
    assert ended["state"] == "succeeded" and mixed.result(1, job) == expected
    failed = [fact["words"] for fact in mixed.json(1, "story", job)["facts"] if fact["kind"] == "failed"]
    words_of_it = f"No Kubo answers at {kubo.rpc[0]}:{kubo.rpc[1]} "
    assert failed
    added = mixed.run(2, "add", text, check=False)
    assert added.returncode == 1 and words_of_it in added.stderr
    assert {said["type"] for said in failed} <= {"node", "fetch"}, failed  # never the user's fault
    assert pid_of(mixed, 2) == daemon and mixed.ask(2, "counters")["store"]["lost"] == 0
    assert doctor(mixed)["kubo"]["ok"] is False
    kubo.start()
    again = words(mixed, 1, text)
    assert mixed.result(1, again) == expected and done_by(mixed, 1, again)["node2"] > 0
