"""Under --all the minute for each parser passes beside the other tests, many of which only wait; its own test comes for
what it found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from tests.fuzz import engine

FEW = 200  # tests: with so few there is nothing to pass the time
RUNNING = pytest.StashKey[tuple["subprocess.Popen[bytes]", IO[bytes]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin where the fuzz is among many tests."""
    if len(session.items) > FEW and any(item.get_closest_marker("fuzz") for item in session.items):
        output = tempfile.TemporaryFile()
        words = ["nice", "-n", "10", sys.executable, "-m", "tests.fuzz"]
        process = subprocess.Popen(words, cwd=engine.ROOT, stdout=output, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        with suppress(OSError):  # the session has a share of its own (sched(7), autogroup): `nice` counts within it
            Path(f"/proc/{process.pid}/autogroup").write_text("5")
        session.config.stash[RUNNING] = process, output


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whoever ends the tests early ends this too."""
    if RUNNING in config.stash:
        process, output = config.stash[RUNNING]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.close()


@pytest.fixture
def fuzzed(request: pytest.FixtureRequest) -> tuple[int, str]:
    """(exit code, output) of `python3 -m tests.fuzz`."""
    if RUNNING not in request.config.stash:
        done = subprocess.run([sys.executable, "-m", "tests.fuzz"], cwd=engine.ROOT, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout
    process, output = request.config.stash[RUNNING]
    code = process.wait()
    output.seek(0)
    return code, output.read().decode(errors="replace")
