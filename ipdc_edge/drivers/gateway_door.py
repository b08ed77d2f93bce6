"""The gateway's door: accepts connections, makes them TLS, and lets members of the domain in.

Owns the listening socket, the handshakes under way and whom they are refused. Never speaks HTTP: `serve` does, with a
stream of whom was let in. What a stranger can take is bounded before TLS begins, for a handshake costs memory and a
signature: so many handshakes a source, so many in all, so long each, and so many that fail a second. When all places
are taken, a source from which a member came lately gets the place of a stranger, so that strangers cannot shut members
out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ipdc_edge.drivers.refusals import Refusals
from ipdc_edge.drivers.tls import peer_id

if TYPE_CHECKING:
    import ssl as ssl_module

HANDSHAKES = 32  # under way at once
PER_SOURCE = 4  # of them from one address; a node fetches over two connections
# Of a source from which no member came lately. A handshake costs eight times what it costs to close a connection at
# once: on two cores of a PC 3000 a second filled one of them; with this limit 10 000 take half of it.
FAILURES = 20  # handshakes a second
HANDSHAKE_SECONDS = 5.0
SHUTDOWN_SECONDS = 2.0
LATELY = 3600.0  # seconds for which the address of a member is remembered
SOURCES = 256  # addresses of members that are remembered, and as many of those who fail
_LIMIT = 8 << 10  # bytes that a stream reads ahead

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


class Door:
    """`serve(reader, writer, peer)` is called for every connection that is let in: `peer` is the node's id, or the
    address where `ssl` is None (plain, for tests of HTTP alone). `admits(id)` says who is a member now. `refused()` is
    called for every connection that was not let in, and `note` gets a line for it, once a minute a source."""

    def __init__(self, serve: Serve, ssl: ssl_module.SSLContext | None, admits: Callable[[str], bool],
                 note: Callable[[str], None], refused: Callable[[], None]) -> None:
        self._serve = serve
        self._ssl = ssl
        self._admits = admits
        self._refusals = Refusals(note)
        self._refused = refused
        self._server: asyncio.Server | None = None
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._members: dict[str, float] = {}  # source -> when a member came from there last
        self._failed: dict[str, float] = {}  # source -> until when its failures, FAILURES a second, are made up for

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. OSError if the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Arrival(self._arrived), host, port, backlog=64)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is None:
            return
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _arrived(self, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername")
        if not isinstance(peer, tuple):  # it was gone before we looked
            transport.abort()
            return
        source = str(peer[0])
        reason = self._no_place(source)
        if reason:
            self._refuse(source, reason)
            transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._let_in(transport, source))
        self._tasks.add(task)
        self._handshakes[task] = source
        task.add_done_callback(lambda done: self._gone(done, transport))

    def _gone(self, task: asyncio.Task[None], transport: asyncio.Transport) -> None:
        self._tasks.discard(task)
        self._handshakes.pop(task, None)
        transport.abort()  # a task that was cancelled before it began has closed nothing
        if not task.cancelled() and (error := task.exception()) is not None:
            told = {"message": "a connection to the gateway ended with a bug", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    def _no_place(self, source: str) -> str:
        """Why this source gets no handshake now; "" if it does. May end a stranger's for it."""
        if not self._is_known(source) and self._failed.get(source, 0.0) > _now() + 1:
            return f"more than {FAILURES} handshakes a second failed from there"
        if list(self._handshakes.values()).count(source) >= PER_SOURCE:
            return f"{PER_SOURCE} handshakes are under way from there"
        if len(self._handshakes) < HANDSHAKES:
            return ""
        full = f"{HANDSHAKES} handshakes are under way"
        if not self._is_known(source):
            return full
        stranger = next((task for task, other in self._handshakes.items() if not self._is_known(other)), None)
        if stranger is None:
            return full
        self._handshakes.pop(stranger)
        stranger.cancel()
        return ""

    def _is_known(self, source: str) -> bool:
        return _now() - self._members.get(source, -LATELY) < LATELY

    def _remember(self, source: str) -> None:
        """A member came from there: it is the newest of at most SOURCES."""
        self._members.pop(source, None)
        if len(self._members) >= SOURCES:
            del self._members[next(iter(self._members))]
        self._members[source] = _now()

    async def _let_in(self, transport: asyncio.Transport, source: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LIMIT, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        open_: asyncio.Transport = transport
        try:
            peer = source
            if self._ssl is not None:
                # Not StreamWriter.start_tls: until Python 3.12 the reader goes on pausing the transport beneath.
                # Nothing may be awaited before: data that came meanwhile would be lost to the handshake.
                secured = await loop.start_tls(
                    transport, protocol, self._ssl, server_side=True,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS, ssl_shutdown_timeout=SHUTDOWN_SECONDS)
                if secured is None:
                    raise ConnectionAbortedError("it went away in the handshake")
                open_ = secured
                peer = peer_id(secured.get_extra_info("ssl_object"))
                if not self._admits(peer):
                    self._members.pop(source, None)  # who was expelled is a stranger
                    self._fail(source)
                    self._refuse(source, f"{peer or 'a certificate without an id'} is not a member")
                    return
                self._remember(source)
            else:
                transport.set_protocol(protocol)
            protocol.connection_made(open_)
            current = asyncio.current_task()
            assert current is not None
            self._handshakes.pop(current, None)
            await self._serve(reader, asyncio.StreamWriter(open_, protocol, reader, loop), peer)
        except OSError as error:  # TimeoutError and ssl's are OSErrors
            if asyncio.current_task() in self._handshakes:
                self._fail(source)
            self._refuse(source, getattr(error, "reason", None) or error.strerror or str(error))
        finally:
            _abort(open_)

    def _fail(self, source: str) -> None:
        """A handshake from there came to nothing: it is the newest of at most SOURCES."""
        until = max(self._failed.pop(source, 0.0), _now()) + 1 / FAILURES
        if len(self._failed) >= SOURCES:
            del self._failed[next(iter(self._failed))]
        self._failed[source] = until

    def _refuse(self, source: str, reason: str) -> None:
        self._refused()
        self._refusals.tell(source, f"gateway: a connection from {source} was refused: {reason}")


class _Arrival(asyncio.Protocol):
    """A connection before anything is known about it."""

    def __init__(self, arrived: Callable[[asyncio.Transport], None]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._arrived(transport)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _abort(transport: asyncio.Transport) -> None:
    try:
        transport.abort()
    except AttributeError:  # CPython 3.11: a TLS transport that was closed twice has forgotten its protocol
        return
