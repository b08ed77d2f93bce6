"""A link to a provider that is as fast as it is told to be, and can stall or break in the middle of a block."""

from __future__ import annotations

import asyncio
import contextlib
import re

_PIECE = 16 << 10
_BURST = 0.1  # seconds of its rate that a link may make up for when this process was not run


class Link:
    """A TCP forwarder to a port on loopback. `rate` bytes a second come back through it, over all its connections: a
    token bucket, whose tokens are bytes by the clock. `asked` are the CIDs of the requests that went through it, as far
    as they were plain."""

    def __init__(self, port: int, rate: float, *, stall: int | None = None, cut: int | None = None) -> None:
        """Behind `stall` bytes nothing comes through any more and nothing breaks; behind `cut` bytes all breaks.
        Answers pass while `gate` is set."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []
        self.passed = 0
        self.left = 0  # connections that whoever asked has closed
        self._to, self._rate, self._stall, self._cut = port, rate, stall, cut
        self._free = 0.0  # when the next piece may pass
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Its own port."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=_PIECE)
        return self._server.sockets[0].getsockname()[1]  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Ends all connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, back = await asyncio.open_connection("127.0.0.1", self._to, limit=_PIECE)
        requests = asyncio.ensure_future(self._requests(reader, back))
        try:
            with contextlib.suppress(OSError):
                await self._answers(there, writer)
        finally:
            requests.cancel()
            back.transport.abort()
            writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):  # a request is one small segment
                self.asked += re.findall(r"^GET /ipfs/(\w+)", data.decode("latin-1"))
                back.write(data)
        self.left += 1
        back.transport.abort()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(_PIECE):
            if self._cut is not None and self.passed + len(data) > self._cut:
                self._server.close()
                return
            if self._stall is not None and self.passed + len(data) > self._stall:
                self.gate.clear()
            await self.gate.wait()
            self.passed += len(data)
            now = asyncio.get_running_loop().time()
            self._free = max(self._free, now - _BURST) + len(data) / self._rate
            await asyncio.sleep(self._free - now)
            writer.write(data)
            await writer.drain()
