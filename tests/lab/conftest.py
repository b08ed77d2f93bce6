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
from typing import Any

import pytest

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


class Lab:
    """Nodes under one directory, numbered from 1."""

    def __init__(self, directory: str, nodes: int) -> None:
        self.directory, self.nodes = directory, nodes
        ipdc("lab", "up", "--nodes", str(nodes), "--dir", directory)

    def home(self, node: int) -> str:
        return os.path.join(self.directory, f"node{node}")

    def run(self, node: int, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return ipdc(*words, home=self.home(node), **options)

    def json(self, node: int, *words: str) -> Any:
        return json.loads(self.run(node, *words, "--json").stdout)

    def submit(self, node: int, *words: str) -> str:
        """Submit, wait for success, and give the job's id."""
        lines = self.run(node, "submit", *words, "--json").stdout.splitlines()
        last = json.loads(lines[-1])
        assert last["state"] == "succeeded"
        return str(last["id"])

    def result(self, node: int, job: str) -> list[str]:
        """The lines of the result, sorted as bytes."""
        text = self.run(node, "result", job).stdout.encode("utf-8", "surrogateescape")
        return [line.decode("utf-8", "surrogateescape") for line in sorted(text.splitlines())]

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
            if found["held_jobs"] or [owner for owner in found["owners"] if owner != "user"]:
                return False
        return True

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
