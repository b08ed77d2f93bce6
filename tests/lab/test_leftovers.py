"""`doctor --domain` on real nodes: clean after jobs, and an orphan of each kind that is made on purpose is found.

Blocks whose owner is no job, which a running daemon gives nobody a way to make: tests/daemon/test_leftovers.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge import settings
from ipdc_edge.drivers.broker_client import Client
from ipdc_edge.drivers.broker_files import credentials
from ipdc_edge.home import Home
from tests.lab.conftest import PYTHON, Lab, eventually

WORDS = os.path.join(os.path.dirname(__file__), "programs", "words.py")
CLEAN = {"node1": {"leftovers"}, "node2": {"leftovers"}, "node3": {"leftovers"}}


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    """Nodes for orphans; every test removes its own."""
    directory = tempfile.mkdtemp(prefix="ipdc-left-", dir="/tmp")
    lab = Lab(directory, 3, "--sandbox", "rlimits")
    try:
        yield lab
    finally:
        lab.down()
        shutil.rmtree(directory)


def look(lab: Lab, node: int) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and all that is told."""
    done = lab.run(node, "doctor", "--domain", "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def told(lab: Lab, node: int) -> dict[str, set[str]]:
    """What is told of each node, in a word each."""
    code, checks = look(lab, node)
    assert code == (1 if any(check["ok"] is False for check in checks) else 0)
    return {name: {check["check"] for check in checks if check["node"] == name} for name in
            (check["node"] for check in checks)}


def one(lab: Lab, node: int, name: str, kind: str) -> dict[str, Any]:
    """What is told of a kind on the node of that name, which is the only one that is not clean."""
    code, checks = look(lab, node)
    wrong = [check for check in checks if check["ok"] is not True]
    assert [(check["node"], check["check"]) for check in wrong] == [(name, kind)] and code == 1, checks
    assert wrong[0]["ok"] is False and wrong[0]["advice"]
    return wrong[0]


def test_after_jobs_that_ended_in_every_way_nothing_is_left(three: Lab, tmp_path: Path) -> None:
    three.submit(1, WORDS, "--input", WORDS, __file__, "-k", "3")
    fails = tmp_path / "Map.py"
    fails.write_text("def map(key, line):\n    raise ValueError(line)\n    yield\n")
    assert three.run(2, "submit", str(fails), "--input", WORDS, "-k", "3", check=False).returncode == 1
    endless = tmp_path / "Endless.py"
    endless.write_text("import threading\ndef map(key, line):\n    threading.Event().wait()\n    yield line, 1\n")
    job = three.run(3, "submit", str(endless), "--input", WORDS, "-k", "3", "--id-only").stdout.strip()
    eventually(lambda: three.json(3, "status", job)["running"], "a task of it runs")
    three.run(3, "cancel", job)
    eventually(three.idle, "clean-up of every job on every node")
    for node in (1, 2, 3):
        eventually(lambda node=node: told(three, node) == CLEAN, "that node finds nothing", 60)
    text = three.run(1, "doctor", "--domain").stdout
    assert "3 of 3 nodes have nothing left over." in text


@pytest.mark.parametrize(("place", "kind"), [
    ("scratch/runner-stray", "scratch"), ("blocks/files/20200101-000000-aaaa/0123", "files"),
    ("blocks/new/bafy", "files"), ("jobs/20200101-000000-aaaa/.parts/part-00000", "parts")])
def test_files_that_are_nobodys(three: Lab, place: str, kind: str) -> None:
    """Only on the node itself it has a name."""
    path = Path(three.home(2), place)
    top = next(parent for parent in [path, *path.parents] if parent.parent.exists())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    try:
        elsewhere, there = one(three, 1, "node2", kind), one(three, 2, "node2", kind)
        assert elsewhere["count"] == there["count"] == 1 and elsewhere["names"] == []
        assert "on that machine" in elsewhere["advice"] and "ipdc-edge doctor --domain" in elsewhere["advice"]
        assert there["names"] == [str(path.parent if kind == "parts" else path)]
        assert there["names"][0] in there["detail"]
        assert there["bytes"] == (1000 if kind == "files" else 0)
    finally:
        path.unlink()
        if top != path:
            shutil.rmtree(top)
    assert told(three, 1) == CLEAN


@contextmanager
def process(words: list[str], **options: Any) -> Iterator[int]:
    started = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True, **options)
    try:
        assert started.stdout is not None and started.stdout.readline() == b"here\n"
        yield started.pid
    finally:
        started.kill()
        started.communicate()


def test_a_process_of_a_runner_that_is_no_more(three: Lab) -> None:
    scratch = Path(three.home(2), "scratch")
    script = "import sys; print('here', flush=True); sys.stdin.read()"
    with process([PYTHON, "-c", script], cwd=scratch, stdin=subprocess.PIPE) as pid:
        assert one(three, 1, "node2", "processes")["count"] == 1
        assert one(three, 2, "node2", "processes")["names"][0].startswith(f"{pid} ")
    with tempfile.TemporaryFile(dir=scratch) as spill:  # without a name, as a runner's are
        words = [PYTHON, "-c", script, "ipdc_edge.runner", "3"]
        with process(words, cwd="/", stdin=subprocess.PIPE, pass_fds=[spill.fileno()]) as pid:
            assert one(three, 2, "node2", "processes")["names"][0].startswith(f"{pid} ")
        with process(words, cwd="/", stdin=subprocess.PIPE):
            assert told(three, 2) == CLEAN, "it may be another node's"


def test_processes_and_scratch_of_a_task_that_runs_are_not_left_over(three: Lab, tmp_path: Path) -> None:
    program = tmp_path / "Map.py"
    program.write_text("import os, subprocess, time\ndef map(key, line):\n"
                       "    child = subprocess.Popen(['sleep', '600'])\n"
                       f"    open({str(tmp_path / 'begun')!r}, 'w').close()\n"
                       f"    while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.02)\n"
                       "    child.kill()\n    child.wait()\n    yield line, 1\n")
    (tmp_path / "in").write_text("a\n")
    job = three.run(1, "submit", str(program), "--input", str(tmp_path / "in"), "-k", "1", "--id-only").stdout.strip()
    try:
        eventually((tmp_path / "begun").exists, "the task", 60)
        assert told(three, 1) == CLEAN
    finally:
        (tmp_path / "go").touch()
    eventually(lambda: three.json(1, "status", job)["state"] == "succeeded", "the job's end", 60)


def publish(lab: Lab, node: int, channel: str, payload: bytes) -> str:
    """Retains a message at a node's broker with the daemon's own password; its topic."""
    home = Home({"IPDC_HOME": lab.home(node)})
    shown = lab.json(node, "domain", "show")
    topic = f"ipdc/1/{shown['domain']}/{shown['id']}/{channel}"
    connection = socket.create_connection(("127.0.0.1", settings.load(home.conf).local_port))
    with Client(connection, "test", credentials(home)) as client:
        assert client.publish(topic, payload, retain=True) in (0, 0x10)
    return topic


def test_a_message_that_is_retained_for_nobody(three: Lab) -> None:
    topic = publish(three, 3, "renewed", b"{}")
    try:
        assert one(three, 1, "node3", "retained")["count"] == 1
        there = one(three, 3, "node3", "retained")
        assert there["names"] == [topic] and "restart ipdc-broker" in there["advice"]
    finally:
        publish(three, 3, "renewed", b"")
    assert told(three, 1) == CLEAN


def test_a_broker_that_does_not_answer_and_a_node_that_is_away_are_not_called_clean(three: Lab) -> None:
    broker, daemon = (int(Path(three.home(3), "run", f"{what}.pid").read_text().split()[0])
                      for what in ("broker", "daemon"))
    os.kill(broker, signal.SIGKILL)
    try:
        (unseen,) = eventually(lambda: [check for check in look(three, 1)[1] if check["check"] == "retained"],
                               "its loss")
        assert (unseen["node"], unseen["ok"]) == ("node3", None) and "not checked" in unseen["detail"]
        os.kill(daemon, signal.SIGKILL)
        code, checks = look(three, 1)
        away = next(check for check in checks if check["node"] == "node3")
        assert code == 0 and away["ok"] is None and away["detail"].startswith("not checked: ")
        text = three.run(1, "doctor", "--domain").stdout
        assert "2 of 3 nodes have nothing left over; 1 could not be checked" in text
    finally:
        Lab(three.directory, 3)
    eventually(lambda: told(three, 1) == CLEAN, "all are back", 60)


def test_nothing_is_retained_of_a_node_that_was_expelled(three: Lab) -> None:
    """The last test: it is a member no more."""
    three.run(1, "expel", "node3")
    rest = {name: CLEAN[name] for name in ("node1", "node2")}
    eventually(lambda: told(three, 1) == told(three, 2) == rest, "that its record is forgotten", 60)
