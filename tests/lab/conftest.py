"""A lab of three real nodes for the tests of this directory: daemons, brokers, gateways, the command line as
people type it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from ipdc_edge.drivers.block_rows import outlives
from tests import waiting

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DICTIONARY = "/usr/share/dictd/gcide.dict.dz"  # package dict-gcide: a real text of 38 MB
PYTHON = "/usr/bin/python3"


def ipdc(*words: str, home: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """One command as a person types it; raises on a failure unless told `check=False`."""
    environment = {**os.environ, "PYTHONPATH": ROOT, **({"IPDC_HOME": home} if home else {}), **options.pop("env", {})}
    check = options.pop("check", True)
    done = subprocess.run(
        [PYTHON, "-m", "ipdc_edge", *words],
        env=environment,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=600,
        **options,
    )
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def eventually(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """`waiting.eventually` with the patience that three nodes on a small machine need."""
    return waiting.eventually(condition, what, seconds)


def difference(found: bytes, expected: bytes) -> str:
    """Empty when both have the same lines in the same order; else the first that differs. pytest's own account of
    a million lines would take longer than the test."""
    if found == expected:
        return ""
    ours, theirs = found.split(b"\n"), expected.split(b"\n")
    place = next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    shown = [lines[place][:200] if place < len(lines) else None for lines in (ours, theirs)]
    return f"line {place + 1} of {len(ours)} is {shown[0]!r}, not {shown[1]!r} (of {len(theirs)})"


def in_order(text: bytes) -> bytes:
    """A text's lines as `LC_ALL=C sort` orders them. A text that ends in a newline gets an empty line in front, so a
    newline that is missing at the end shows."""
    return b"\n".join(sorted(text.split(b"\n")))


class Lab:
    """Nodes under one directory, numbered from 1."""

    def __init__(self, directory: str, nodes: int, *options: str) -> None:
        self.directory, self.nodes = directory, nodes
        ipdc("lab", "up", "--nodes", str(nodes), "--dir", directory, *options)

    def home(self, node: int) -> str:
        return os.path.join(self.directory, f"node{node}")

    def run(self, node: int, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return ipdc(*words, home=self.home(node), **options)

    def json(self, node: int, *words: str) -> Any:
        return json.loads(self.run(node, *words, "--json").stdout)

    def submit(self, node: int, *words: str, **options: Any) -> str:
        """Submit, wait for success, and give the job's id."""
        lines = self.run(node, "submit", *words, "--json", **options).stdout.splitlines()
        last = json.loads(lines[-1])
        assert last["state"] == "succeeded"
        return str(last["id"])

    def result(self, node: int, job: str) -> list[str]:
        """The lines of the result, sorted as bytes."""
        text = self.run(node, "result", job).stdout.encode("utf-8", "surrogateescape")
        return [line.decode("utf-8", "surrogateescape") for line in sorted(text.splitlines())]

    def parts(self, node: int, job: str) -> list[bytes]:
        """The parts of the result, byte for byte, in their order."""
        directory = os.path.join(self.home(node), "jobs", job)
        names = sorted(name for name in os.listdir(directory) if name.startswith("part-"))
        assert names == [f"part-{number:05d}" for number in range(len(names))], names
        found = []
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                found.append(file.read())
        return found

    def ask(self, node: int, operation: str, **fields: object) -> dict[str, Any]:
        """The control socket's own answer, for figures that no command prints."""
        sys.path.insert(0, ROOT) if ROOT not in sys.path else None
        from ipdc_edge.commands.client import call
        from ipdc_edge.home import Home

        return dict(call(Home({"IPDC_HOME": self.home(node)}), operation, **fields))

    def idle(self) -> bool:
        """Whether no node holds anything of any job."""
        for node in range(1, self.nodes + 1):
            found = self.ask(node, "counters")
            if found["held_jobs"] or [owner for owner in found["owners"] if owner != "members" and not outlives(owner)]:
                return False
        return True

    def left_over(self) -> list[dict[str, Any]]:
        """What `doctor --domain` finds of jobs and members that are no more, on any node that answers."""
        found = json.loads(self.run(1, "doctor", "--domain", "--json", check=False).stdout)
        return [dict(check) for check in found if check["ok"] is False]

    def in_runners(self) -> set[int]:
        """The processes of this lab's runners and of what they started, whatever kind of sandbox holds them."""
        daemons = set()
        for node in range(1, self.nodes + 1):
            with suppress(OSError), open(os.path.join(self.home(node), "run", "daemon.pid")) as file:
                daemons.add(int(file.read().split()[0]))
        scratch = tuple(os.path.join(self.home(node), "scratch") for node in range(1, self.nodes + 1))
        parents, words, found = {}, {}, set()
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with suppress(OSError):  # where it has ended meanwhile
                with open(f"/proc/{pid}/stat", "rb") as stat, open(f"/proc/{pid}/cmdline", "rb") as line:
                    words[pid], parents[pid] = line.read(), int(stat.read().rpartition(b")")[2].split()[1])
                if os.readlink(f"/proc/{pid}/cwd").startswith(scratch):
                    found.add(pid)

        def in_runner(pid: int, seen: bool = False) -> bool:
            seen = seen or b"\0ipdc_edge.runner\0" in words.get(pid, b"")
            return pid in parents and (seen and parents[pid] in daemons or in_runner(parents[pid], seen))

        found |= {pid for pid in parents if in_runner(pid)}
        return {pid for pid in found if b"/usr/bin/bwrap\0" not in words[pid]}  # which waits for them

    def down(self) -> None:
        ipdc("lab", "down", "--dir", self.directory)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three nodes for all tests that do not break them; nothing of a job may be left when they end."""
    directory = tempfile.mkdtemp(prefix="ipdc-lab-", dir="/tmp")
    made = Lab(directory, 3)
    try:
        yield made
        eventually(made.idle, "clean-up of every job on every node")
        assert made.left_over() == []
    finally:
        made.down()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real text of 64 MB: the dictionary, and again its first part."""
    assert os.path.exists(DICTIONARY), "install dict-gcide (run-tests does)"
    path = str(tmp_path_factory.mktemp("text") / "book.txt")
    with gzip.open(DICTIONARY) as source:
        text = source.read()
    with open(path, "wb") as file:
        file.write((text * 2)[: 64 << 20])
    return path
