"""`ipdc-edge logs -f`: what tasks print comes while they run, wherever they do; the command is nothing to the job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.drivers import identity, tls
from ipdc_edge.drivers.gateway import PRINTS
from ipdc_edge.home import Home
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually

PROGRAM = os.path.join(ROOT, "tests/lab/programs/told_lines.py")


def _as_at_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell begins in the background ignores it


class Follower:
    """A command that goes on, and what it has said so far."""

    def __init__(self, lab: Lab, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(1)}
        self.process = subprocess.Popen([PYTHON, "-m", "ipdc_edge", *words], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_as_at_a_terminal)
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def end(self, how: int = 0) -> int:
        """Its exit code, after a signal where one is named."""
        if how:
            self.process.send_signal(how)
        code = self.process.wait(60)
        self.thread.join()
        return code


@contextlib.contextmanager
def following(lab: Lab, *words: str) -> Iterator[Follower]:
    found = Follower(lab, *words)
    try:
        yield found
    finally:
        found.process.kill()
        found.end()
        for pipe in found.process.stdout, found.process.stderr:
            assert pipe is not None
            pipe.close()


def submit(lab: Lab, place: Path, *texts: str) -> str:
    """A job with a task for each text; its id."""
    paths = []
    for number, text in enumerate(texts):
        paths.append(place / f"in{number}")
        paths[-1].write_text(text)
    return lab.run(1, "submit", PROGRAM, "--input", *map(str, paths), "-k", "3", "--id-only").stdout.strip()


def test_prints_of_all_nodes_come_while_tasks_run_and_ctrl_c_leaves_the_job(lab: Lab, tmp_path: Path) -> None:
    slots = {node["name"]: node["slots"] for node in lab.json(1, "nodes")}
    count = sum(slots.values())  # that run; as many wait behind them, or who accepts last would have nothing to do
    job = submit(lab, tmp_path, *(f"a{number}\nwait{number}\n" for number in range(2 * count)))
    try:
        with following(lab, "logs", "-f", job) as follower:
            eventually(lambda: len([line for line in follower.lines if "| without an end" in line]) == count,
                       "all that runs is heard, also a line without an end", 60)
            assert {line.partition(" ")[0].partition("@")[2] for line in follower.lines} == set(slots)
            by_task: dict[str, list[str]] = {}
            for line in follower.lines:
                by_task.setdefault(line.partition("@")[0], []).append(line.partition(" | ")[2])
            for said in by_task.values():
                number = said[0].removeprefix("said a")
                assert said == [f"said a{number}", f"said wait{number}", "without an end"]
            assert len(by_task) == count
            assert len(slots) == lab.nodes and lab.json(1, "status", job)["state"] == "running"
            assert follower.end(signal.SIGINT) == 130
        assert lab.json(1, "status", job)["state"] == "running"
        # who begins later hears the same, and the end
        with following(lab, "logs", "-f", job, "--json") as follower:
            eventually(lambda: len([line for line in follower.lines if "without an end" in line]) == count, "again", 60)
            lab.run(1, "cancel", job)
            assert follower.end() == 0
            *told, last = map(json.loads, follower.lines)
            assert last["id"] == job and last["state"] == "cancelled"
            assert all(set(line) == {"task", "attempt", "node", "text"} for line in told)
    finally:
        lab.run(1, "cancel", job, check=False)


@pytest.mark.parametrize("after", [False, True], ids=["while it runs", "after its end"])
def test_each_line_comes_once_and_the_command_ends_with_the_job(lab: Lab, tmp_path: Path, after: bool) -> None:
    texts = [[f"{number}-{line}" for line in range(40)] for number in range(12)]
    job = submit(lab, tmp_path, *("\n".join(text) + "\n" for text in texts))
    if after:
        eventually(lambda: lab.json(1, "status", job)["state"] == "succeeded", "it is over", 60)
    with following(lab, "logs", "-f", job) as follower:
        assert follower.end() == 0
        heard = [line.partition(" | ")[2] for line in follower.lines]
        assert sorted(heard) == sorted(f"said {line}" for text in texts for line in text)
        assert follower.process.stderr is not None and "the job succeeded" in follower.process.stderr.read()


async def asked(lab: Lab, node: int, job: str, certificate_of: int | None) -> bytes:
    """What a node's gateway says of a job's prints to who has that node's certificate: up to its first line, or its
    end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate_of is not None:
        context = tls.client_context(identity.load(Home({"IPDC_HOME": lab.home(certificate_of)})))
    (gateway,) = [found["gateway"] for found in lab.json(1, "nodes") if found["name"] == f"node{node}"]
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        writer.write(f"GET {PRINTS}?job={job} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(60):
            heard = await reader.readuntil(b"\r\n\r\n")
            while (data := await reader.read(1000)) and b"said" not in heard:
                heard += data
        return heard + data
    finally:
        writer.transport.abort()


def test_only_the_master_of_a_job_hears_what_its_tasks_print(lab: Lab, tmp_path: Path) -> None:
    job = submit(lab, tmp_path, *(f"secret{number}\nwait{number}\n" for number in range(6)))
    try:
        at = eventually(lambda: next((int(task["node"][-1]) for task in lab.json(1, "status", job)["running"]), 0),
                        "a task runs", 60)
        own = asyncio.run(asked(lab, at, job, 1))
        assert own.startswith(b"HTTP/1.1 200 ") and b"said secret" in own
        other = asyncio.run(asked(lab, at, job, 2))
        assert other.startswith(b"HTTP/1.1 200 ") and other.endswith(b"\r\n\r\n0\r\n\r\n"), "of a job of its own"
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            asyncio.run(asked(lab, at, job, None))
    finally:
        lab.run(1, "cancel", job)


def test_why_an_attempt_failed_is_among_them(lab: Lab, tmp_path: Path) -> None:
    job = submit(lab, tmp_path, "fine\nfail\n")
    with following(lab, "logs", "-f", job) as follower:
        assert follower.end() == 0
        attempts = len([line for line in follower.lines if " on node" in line and "ValueError: as asked" in line])
        assert attempts >= 2 and len([line for line in follower.lines if line.endswith("about to fail")]) == attempts
        assert follower.process.stderr is not None and "the job failed: " in follower.process.stderr.read()
