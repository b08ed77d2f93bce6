"""A lab whose nodes run under the Python of a virtual environment, with a line more in their ipdc.conf."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from ipdc_edge.drivers.block_rows import outlives
from tests.waiting import eventually

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = "/usr/bin/python3"


class Lab:
    """Nodes numbered from 1."""

    def __init__(self, python: str, nodes: int, conf: str = "") -> None:
        self.python, self.nodes, self.conf = python, nodes, conf
        self.directory = tempfile.mkdtemp(prefix="ipdc-lab-", dir="/tmp")

    def serve(self) -> Iterator[Lab]:
        """A fixture's body: up, for all tests, and down."""
        try:
            self.up()
            yield self
            eventually(self.idle, "clean-up of every job on every node", 30)
        finally:
            self.ipdc("lab", "down", "--dir", self.directory, check=False)
            shutil.rmtree(self.directory)

    def up(self) -> None:
        """Makes the nodes. Settings are read at a start, so those who get some are started again."""
        self.ipdc("lab", "up", "--nodes", str(self.nodes), "--dir", self.directory)
        if self.conf:
            self.ipdc("lab", "down", "--dir", self.directory)
            for node in range(1, self.nodes + 1):
                with open(os.path.join(self.home(node), "ipdc.conf"), "a", encoding="utf-8") as file:
                    file.write(f"{self.conf}\n")
            self.ipdc("lab", "up", "--dir", self.directory, "--nodes", str(self.nodes))

    def home(self, node: int) -> str:
        return os.path.join(self.directory, f"node{node}")

    def ipdc(self, *words: str, node: int = 0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command as a person types it."""
        environment = {**os.environ, "PYTHONPATH": ROOT, **({"IPDC_HOME": self.home(node)} if node else {})}
        done = subprocess.run([self.python, "-m", "ipdc_edge", *words], env=environment, capture_output=True, text=True,
                              timeout=300)
        if check and done.returncode:
            raise AssertionError(f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def submit(self, app: str, arguments: dict[str, Any], *words: str) -> dict[str, Any]:
        """Hands a job in at node 1, waits for its success, and gives its last view."""
        said = ("submit", "--app", app, "--args", json.dumps(arguments), *words, "--json")
        view = json.loads(self.ipdc(*said, node=1).stdout.splitlines()[-1])
        assert view["state"] == "succeeded", view
        return dict(view)

    def status(self, job: str) -> dict[str, Any]:
        """A job's view at node 1."""
        return dict(json.loads(self.ipdc("status", job, "--json", node=1).stdout))

    def kill(self, node: int) -> None:
        """SIGKILL to a node's daemon; its runners go with it."""
        with open(os.path.join(self.home(node), "run", "daemon.pid"), encoding="ascii") as file:
            os.kill(int(file.read().split()[0]), signal.SIGKILL)

    def idle(self) -> bool:
        """Whether no node holds anything of any job."""
        from ipdc_edge.commands.client import call
        from ipdc_edge.home import Home

        for node in range(1, self.nodes + 1):
            found: Any = call(Home({"IPDC_HOME": self.home(node)}), "counters")
            if found["held_jobs"] or [owner for owner in found["owners"] if owner != "members" and not outlives(owner)]:
                return False
        return True

    def record(self, view: dict[str, Any]) -> dict[str, Any]:
        """The job.json beside its parts: the view, and which node did which task."""
        with open(os.path.join(view["directory"], "job.json"), encoding="utf-8") as file:
            return dict(json.load(file))

    def parts(self, view: dict[str, Any]) -> dict[str, bytes]:
        """{name: bytes} of a job's result."""
        found = {}
        for name in sorted(os.listdir(view["directory"])):
            if name.startswith("part-"):
                with open(os.path.join(view["directory"], name), "rb") as file:
                    found[name] = file.read()
        return found
