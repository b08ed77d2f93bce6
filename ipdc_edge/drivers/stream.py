"""One connection as whoever asks reads it: what comes lies, as it was decrypted, where it is wanted.

Owns the bytes that nobody has asked for yet, never more than READ_AHEAD and one read, and a reader's wait. In place of
asyncio.StreamReader, which copies every piece three times and wakes its reader for each: a block of known size is
received into one buffer, and its reader is woken once. Never knows what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

READ_AHEAD = 32 << 10  # bytes that wait for nobody; then the connection is not read, until somebody takes them
_piece = memoryview(b"")  # where bytes come that nobody waits for, of all connections: they do not stay there


class Stream(asyncio.BufferedProtocol):
    """One task at a time may read. `patience` seconds may pass without a byte: TimeoutError. OSError when the
    connection broke."""

    def __init__(self, patience: float) -> None:
        self.transport: asyncio.Transport
        self.pieces = 0  # in which the bytes of `fill` came
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        global _piece
        _piece = _piece or memoryview(bytearray(READ_AHEAD))
        self._wanted: memoryview | None = None  # what is left of the buffer that is being filled
        self._received: Callable[[int], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard = 0.0  # when a byte came last
        self._paused = self._ended = False
        self._error: Exception | None = None

    # -- for whoever reads

    def at_end(self) -> bool:
        """Whether the peer has closed, and nothing is left of what it sent."""
        return self._ended and not self._held

    async def read(self) -> bytes:
        """What has come, and at least a byte; nothing at the end."""
        self._heard = self._loop.time()
        while not self._held and not self._ended:
            await self._more()
        if self._error is not None and not self._held:
            raise self._error
        data = bytes(self._held)
        self._held.clear()
        self._go_on()
        return data

    async def fill(self, buffer: memoryview, received: Callable[[int], None]) -> int:
        """Fill it, as far as bytes come before the end: how many did. `received` is told of each piece; what it raises
        ends this."""
        data = self._held[: len(buffer)]
        buffer[: len(data)] = data
        del self._held[: len(data)]
        self._heard, self.pieces = self._loop.time(), 0
        self._wanted, self._received = buffer[len(data) :], received
        try:
            if data:
                self.pieces = 1
                received(len(data))
            self._go_on()
            while self._wanted and not self._ended:
                await self._more()
            if self._error is not None and self._wanted:
                raise self._error
            return len(buffer) - len(self._wanted)
        finally:
            self._wanted = self._received = None

    async def _more(self) -> None:
        """Wait until there is what is waited for, or the end. It is not woken for each byte that comes: so its time is
        up only when none came lately."""
        waiter = self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout_at(self._heard + self._patience):
                await waiter
        except TimeoutError:
            if self._loop.time() >= self._heard + self._patience:
                raise
        finally:
            self._waiter = None

    def _go_on(self) -> None:
        if self._paused and not self._ended:
            self._paused = False
            self.transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._wanted or _piece

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        if not self._wanted:
            self._held += _piece[:nbytes]
            if len(self._held) > READ_AHEAD and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            self._wake()
            return
        assert self._received is not None
        self.pieces += 1
        self._wanted = self._wanted[nbytes:]
        try:
            self._received(nbytes)
        except Exception as error:
            self._end(error)
        if not self._wanted:
            self._wake()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._error = True, error
        self._wake()
