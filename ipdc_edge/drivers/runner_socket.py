"""The daemon's end of the socket to a runner: frames out and in, without blocking, and descriptors on the way out.

Owns the socket's calls and how long a frame may be before memory is taken for it. Never knows what a frame means: what
is said when is `runner`'s. The other end is `frame_socket.FrameSocket`.
"""

from __future__ import annotations

import asyncio
import socket

from ipdc_edge.codec import frames
from ipdc_edge.codec.answers import RunnerBroken

MOST_CONTROL = 256 * 1024  # bytes of a frame of these kinds, which a runner may repeat
SHORT = (frames.HELLO, frames.READY, frames.READ, frames.PROGRESS, frames.DONE, frames.ASIDE)


class Gone(Exception):
    """The runner's end of the socket is closed."""


class RunnerSocket:
    """One runner's. Each method may raise Gone."""

    def __init__(self) -> None:
        self._end: socket.socket | None = None
        self._header = bytearray(frames.HEADER.size)
        self.closed = False

    def take(self, end: socket.socket) -> None:
        """Owns our end from now on."""
        end.setblocking(False)
        self._end = end

    @property
    def end(self) -> socket.socket:
        """The socket itself."""
        assert self._end is not None
        return self._end

    def close(self) -> None:
        """Safe to call twice, and where there never was one."""
        if self._end is not None:
            self._end.close()
        self._end, self.closed = None, True

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of it."""
        try:
            await asyncio.get_running_loop().sock_sendall(self.end, data)
        except OSError:
            raise Gone from None

    async def send_with(self, data: bytes, given: list[int]) -> None:
        """A few bytes with descriptors on the first of them."""
        import array

        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))]
        while True:
            try:
                sent = self.end.sendmsg([data], rights if given else [])
                break
            except BlockingIOError:
                await self._writable()
            except OSError:
                raise Gone from None
        await self.send(data[sent:])

    async def _writable(self) -> None:
        loop, room, end = asyncio.get_running_loop(), asyncio.Event(), self.end
        loop.add_writer(end, room.set)
        try:
            await room.wait()
        finally:
            loop.remove_writer(end)

    async def receive(self) -> tuple[int, bytearray]:
        """One frame. Its length is within bounds before memory is taken for it. RunnerBroken, frames.BadFrame."""
        await self.fill(self._header)
        kind, length = frames.parse_header(self._header)
        if kind in SHORT and length > MOST_CONTROL:
            raise RunnerBroken(reason=f"a {frames.NAMES[kind]} frame of {length} bytes")
        payload = bytearray(length)
        await self.fill(payload)
        return kind, payload

    async def fill(self, buffer: bytearray) -> None:
        """As many bytes as the buffer has."""
        loop = asyncio.get_running_loop()
        view = memoryview(buffer)
        while view:
            try:
                count = await loop.sock_recv_into(self.end, view)
            except OSError:
                count = 0
            if not count:
                raise Gone
            view = view[count:]
