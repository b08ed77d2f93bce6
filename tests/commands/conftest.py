"""A daemon for the commands' tests: the real control server, with a handler that answers from a table.

Owns no protocol: that is drivers/control.py's own. It runs in a thread, because commands block.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.codec import frames
from ipdc_edge.codec.cid import verify
from ipdc_edge.codec.control import parse_block
from ipdc_edge.drivers.control import ControlChannel, ControlServer
from ipdc_edge.drivers.importer import import_file
from ipdc_edge.errors import BadRequest
from ipdc_edge.home import Home


class StandIn:
    """`answers[operation]` is a dict, an exception, bytes, a list of events and the answer, or a function that takes
    the request to one of these."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.answers: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.added: dict[str, dict[str, Any]] = {}  # root CID -> request, "content" and "blocks"
        self.stored = "reference"
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(home.control_socket, self._handle)
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def requests(self, operation: str) -> list[dict[str, Any]]:
        return [request for request in self.asked if request["operation"] == operation]

    async def _handle(
        self, request: dict[str, Any], fds: list[int], channel: ControlChannel
    ) -> dict[str, Any] | None:
        self.asked.append(request)
        operation = request["operation"]
        if operation == "add":
            return await self._add(request, fds, channel)
        answer = self.answers.get(operation, BadRequest(reason=f"unknown operation {operation!r}"))
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bytes):
            for at in range(0, len(answer), 1 << 20):
                await channel.send_data(answer[at : at + (1 << 20)])
            return None
        if isinstance(answer, list):
            for event in answer[:-1]:
                await channel.send(event)
            answer = answer[-1]
            if answer == "silence":
                await asyncio.Event().wait()
        return answer

    async def _add(self, request: dict[str, Any], fds: list[int], channel: ControlChannel) -> dict[str, Any]:
        if "root" not in request:
            return self._copy(request, *fds)
        blocks = []
        while (frame := await channel.receive())[0] == frames.BLOCK:
            cid, block = parse_block(frame[1])
            verify(cid, block)
            blocks.append(cid)
        assert frame[0] == frames.END and len(fds) == 1
        size = os.fstat(fds[0]).st_size
        content = os.pread(fds[0], min(size, 1 << 20), 0)
        self.added[request["root"]] = {**request, "content": content, "blocks": blocks}
        return {"cid": request["root"], "size": size, "stored": "copy" if request["copy"] else self.stored}

    def _copy(self, request: dict[str, Any], fd: int) -> dict[str, Any]:
        if not request["copy"] and self.stored == "reference":
            return {"cid": None, "stored": self.stored}
        with open(fd, "rb", closefd=False) as file:
            root, size, _ = import_file(file)
        self.added[root] = {**request, "content": os.pread(fd, min(size, 1 << 20), 0), "blocks": []}
        return {"cid": root, "size": size, "stored": "copy"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own, which the commands use."""
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / "home"))
    home = Home(os.environ)
    home.prepare()
    return home


@pytest.fixture
def daemon(home: Home) -> Iterator[StandIn]:
    """A running stand-in for that home's daemon."""
    stand_in = StandIn(home)
    stand_in.start()
    try:
        yield stand_in
    finally:
        stand_in.stop()
