"""The guard of tests/conftest.py bites: without this, a unit test could go outside and nobody would know."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

import pytest


@pytest.fixture()
def guard(request: pytest.FixtureRequest):
    # the very module that pytest loaded: a second import would make a second hook
    (conftest,) = [p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "WentOutside")]
    return conftest


@pytest.mark.parametrize(
    "outside",
    [
        lambda: socket.socket(socket.AF_INET),
        lambda: socket.create_connection(("127.0.0.1", 1)),
        lambda: socket.socket(socket.AF_UNIX).bind("\0ipdc-edge-test"),
        lambda: subprocess.run(["/bin/true"]),
        lambda: os.system("true"),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.fork() or os._exit(0),
        lambda: asyncio.run(asyncio.create_subprocess_exec(sys.executable, "-c", "pass")),
    ],
)
def test_outside_is_refused(guard, outside):
    with pytest.raises(guard.WentOutside), guard.guard.closed():
        outside()


def test_what_the_code_swallows_still_fails(guard):
    with pytest.raises(guard.WentOutside, match="went on"), guard.guard.closed():
        with contextlib.suppress(Exception):
            socket.socket(socket.AF_INET6)


def test_an_event_loop_is_inside(guard):
    with guard.guard.closed():
        # a thread's answer comes through the loop's own pair of sockets
        assert asyncio.run(asyncio.to_thread(str.upper, "done")) == "DONE"


def test_the_guard_opens_again(guard):
    with guard.guard.closed():
        pass
    with socket.socket(socket.AF_INET) as opened:
        assert opened.fileno() >= 0
