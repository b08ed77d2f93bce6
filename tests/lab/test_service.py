"""A daemon as a service: what systemd hears of it, how it hangs, how it stops, what a reload changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge import settings
from ipdc_edge.commands.laboratory import free_ports
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually, ipdc

FEED = 0.1  # seconds between two words to the watchdog
# A build that is broken on purpose: it hangs when a file is there, and says so by another one.
BROKEN = """
import os, sys, time
from ipdc_edge.core.node import Node
from ipdc_edge.drivers.ledger import Ledger
owner, name, flag = {"core": (Node, "handle"), "ledger": (Ledger, "_write")}[sys.argv[1]] + (sys.argv[2],)
whole = getattr(owner, name)
def hanging(*words):
    if os.path.exists(flag):
        open(flag + ".hangs", "w").close()
        time.sleep(1000)
    return whole(*words)
setattr(owner, name, hanging)
from ipdc_edge.__main__ import main
sys.exit(main(["run", "--with-broker"]))
"""
# Ends when a file is there; so the test says how long the task takes.
WAITS = """
import os, time
def map_lines(lines):
    for line in lines:
        while not os.path.exists(GO):
            time.sleep(0.02)
        yield line.strip(), 1
def reduce(key, values):
    yield key, sum(values)
"""


class Watched:
    """A daemon with its broker, and the socket on which systemd would hear it."""

    def __init__(self, directory: Path, *broken: str, **more: str) -> None:
        self.home, self.flag = directory / "node", directory / "flag"
        self.home.mkdir()
        ports = dict(zip(settings.PORTS, map(str, free_ports(4))))
        self.conf = {"name": "board", "listen": "127.0.0.1", "slots": "1", **ports, **more}
        self.write_conf()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(directory / "notify"))
        self.heard: list[str] = []
        self.log = open(directory / "log", "w+")
        code = ["-c", BROKEN, *broken, str(self.flag)] if broken else ["-m", "ipdc_edge", "run", "--with-broker"]
        environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": str(self.home),
                       "NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": str(int(FEED * 3e6))}
        self.process = subprocess.Popen([PYTHON, *code], env=environment, stderr=self.log)

    def write_conf(self, **more: str) -> None:
        self.conf |= more
        (self.home / "ipdc.conf").write_text(settings.render(self.conf))

    def hear(self, word: str, seconds: float = 60.0) -> None:
        """The next message that has the word; AssertionError where none comes."""
        self.socket.settimeout(seconds)
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except TimeoutError:
                raise AssertionError(f"no {word} within {seconds:g} s; last {self.heard[-3:]}") from None
            if word in self.heard[-1]:
                return

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.socket.close()
        self.log.close()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    daemon = Watched(tmp_path)
    yield daemon
    daemon.end()


def test_systemd_hears_that_it_is_ready_what_it_does_and_that_it_lives(watched: Watched) -> None:
    watched.hear("READY=1")
    assert "STATUS=board in domain " in watched.heard[-1], watched.heard
    assert "1 member, 0 jobs of its own, 0 tasks running here" in watched.heard[-1]
    for _ in range(5):
        watched.hear("WATCHDOG=1")
    watched.process.send_signal(signal.SIGTERM)
    watched.hear("STOPPING=1")
    assert "(draining)" in watched.heard[-1]
    assert watched.process.wait(30) == 0


@pytest.mark.parametrize("what", ["core", "ledger"])
def test_a_hung_core_or_ledger_feeds_no_watchdog_and_shows_where_it_hung(what: str, tmp_path: Path) -> None:
    daemon = Watched(tmp_path, what)
    try:
        daemon.hear("WATCHDOG=1")
        daemon.flag.touch()
        (tmp_path / "Map.py").write_text("def map(key, line):\n    yield line, 1\n")
        (tmp_path / "in").write_text("line\n")
        command = [PYTHON, "-m", "ipdc_edge", "submit", str(tmp_path / "Map.py"), "--input", str(tmp_path / "in"),
                   "--no-wait"]
        environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": str(daemon.home)}
        client = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: (tmp_path / "flag.hangs").exists(), "the hang")
        with pytest.raises(AssertionError, match="no WATCHDOG=1"):
            while True:  # what was on its way; then silence for many times as long as between two words
                daemon.hear("WATCHDOG=1", 20 * FEED)
        daemon.process.send_signal(signal.SIGABRT)  # as systemd does
        assert daemon.process.wait(30) == -signal.SIGABRT
        assert "in hanging" in daemon.said()
        client.kill()
        client.wait()
    finally:
        daemon.end()


def test_a_reload_takes_up_what_it_can_and_a_mistake_changes_nothing(watched: Watched) -> None:
    watched.hear("READY=1")
    watched.write_conf(slots="3", keepalive="5", local_inputs="/srv/data")
    watched.process.send_signal(signal.SIGHUP)
    watched.hear("RELOADING=1")
    watched.hear("READY=1")

    def record() -> dict[str, object]:
        found = json.loads(ipdc("nodes", "--json", home=str(watched.home)).stdout)
        return dict(found[0])

    eventually(lambda: record()["slots"] == 3, "three slots")
    assert "input-local:/srv/data" in record()["capabilities"]
    said = watched.said()
    assert "changed: slots, local_inputs" in said and "not before a restart" in said and "keepalive" in said
    watched.write_conf(slots="many")
    watched.process.send_signal(signal.SIGHUP)
    watched.hear("RELOADING=1")
    watched.hear("READY=1")
    assert record()["slots"] == 3
    assert "the settings stay as they were" in watched.said() and "slots = 'many' is not allowed" in watched.said()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(str(tmp_path / "lab"), 2, "--sandbox", "rlimits")  # where the job sees the file that it waits for
    yield lab
    lab.down()


def begin(lab: Lab, tmp_path: Path, grace: int) -> tuple[str, int]:
    """A job with a task that runs on node 2; (its id, that daemon's process id). Node 2 has `grace` to stop."""
    conf = Path(lab.home(2), "ipdc.conf")
    conf.write_text(conf.read_text().replace("stop_grace = 0", f"stop_grace = {grace}"))
    pid = int(Path(lab.home(2), "run", "daemon.pid").read_text().split()[0])
    os.kill(pid, signal.SIGHUP)
    program = tmp_path / "Map.py"
    program.write_text(f"GO = {str(tmp_path / 'go')!r}\n{WAITS}")
    inputs = []
    for number in range(4):
        inputs.append(str(tmp_path / f"in{number}"))
        Path(inputs[-1]).write_text("word\n" * (number + 1))
    job = lab.run(1, "submit", str(program), "--input", *inputs, "-k", "2", "--id-only").stdout.strip()
    # its own word for it: the master's lease may still be on its way
    eventually(lambda: any(held["attempts"].get("running") for held in lab.ask(2, "counters")["held_jobs"]),
               "a task runs on node 2")
    return job, pid


def part_of(lab: Lab, job: str, name: str) -> dict[str, object]:
    return dict(next(node for node in lab.json(1, "status", job)["nodes"] if node["name"] == name))


def drains(lab: Lab) -> bool:
    return any(node["name"] == "node2" and node["state"] == "draining" for node in lab.json(1, "nodes"))


def test_a_stop_lets_what_runs_end_and_takes_no_more(two: Lab, tmp_path: Path) -> None:
    job, pid = begin(two, tmp_path, 300)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: drains(two), "node 2 drains")
    assert part_of(two, job, "node2")["state"] == "working"
    (tmp_path / "go").touch()
    eventually(lambda: two.json(1, "status", job)["state"] == "succeeded", "the job's end", 60)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of node 2's daemon")
    assert two.result(1, job) == ["word\t10"]


def test_a_stop_hands_back_what_does_not_end(two: Lab, tmp_path: Path) -> None:
    job, pid = begin(two, tmp_path, 0)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of node 2's daemon")
    eventually(lambda: part_of(two, job, "node2")["reason"] == "stops", "that it was told")
    (tmp_path / "go").touch()
    eventually(lambda: two.json(1, "status", job)["state"] == "succeeded", "the job's end", 60)
    assert two.result(1, job) == ["word\t10"]


def test_who_asks_twice_does_not_wait_for_the_grace(two: Lab, tmp_path: Path) -> None:
    job, pid = begin(two, tmp_path, 3000)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: drains(two), "node 2 drains")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the end of node 2's daemon")
    two.run(1, "cancel", job)
