"""The board's scenario runs in a process of its own from the session's start, beside the other tests; test_board.py is
moved to the end and waits for it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bare.debian import CHECKOUT
from tests.package.building import build

RUNNING = pytest.StashKey["Running"]()


class Running:
    """The scenario's process, its figures and its words."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ipdc-scenario-"))
        self.figures, self.log = self.directory / "figures.json", self.directory / "log"
        command = [sys.executable, "-m", "tests.board.scenario", "--deb", str(build()), "--json", str(self.figures)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last, since the rest of the tests can run meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("board") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(item.get_closest_marker("board") for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[RUNNING] = Running()


@pytest.fixture(scope="session")
def running(pytestconfig: pytest.Config) -> Iterator[Running]:
    yield pytestconfig.stash[RUNNING]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Also where the tests were interrupted: qemu and the network end with the scenario's process."""
    running = config.stash.get(RUNNING, None)
    if running is not None:
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait()
        for path in running.directory.iterdir():
            path.unlink()
        running.directory.rmdir()
