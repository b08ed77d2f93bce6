"""The connections to one provider's gateway: asks for a block by HTTP and checks what comes back.

Owns sockets, TLS and h11; at most two connections to a provider, kept open between blocks, closed when idle. Asks only
the node that was meant: whoever else answers at its address is sent nothing. Never asks anybody else when this
provider fails: `fetcher` does.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import h11

from ipdc_edge.codec.cid import BlockMismatch, verify
from ipdc_edge.codec.unixfs import MAX_BLOCK
from ipdc_edge.drivers.block_reading import SMALL
from ipdc_edge.drivers.tls import peer_id

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncIterator, Callable, Iterator

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.stream import Stream

PER_PROVIDER = 2  # connections
KUBO = "kubo"  # in place of a node's id: the Kubo of this machine, see kubo_provider
# A gateway has few places for handshakes, and closes whom it has none for: all nodes of a job come at once.
BUSY = 5.0  # seconds for which it is tried again
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 0.8  # between two tries, at most; each is drawn
_IDLE = 15.0  # seconds an unused connection is kept; less than a gateway keeps it
_MAX_HEADER = 16 << 10
ANSWERED = "it answered "  # begins what is told of an answer that is no good one
_SHOWN = 200  # characters of a provider's own words in an error
_PIECES = 256  # of a body, and one more for each _LEAST bytes; a body of single bytes would keep the loop busy
_LEAST = 128
_LEAST_OF_LINES = 32  # likewise of lines, which come one by one; and one for each second, since signs of life are short
_INFORMATION = 8  # responses before the response


class Provider(NamedTuple):
    """A node that is said to have something: its id, and host:port of its gateway."""

    node: str
    address: str


class ProviderFault(Exception):
    """What one provider did wrong; it becomes a reason of BlockUnavailable."""


class ProviderLied(ProviderFault):
    """It gave other bytes than those of the CID."""


class ProviderPool:
    """The connections to one provider. `places` bounds how many are in use, `users` counts who asks or waits."""

    def __init__(self, provider: Provider, ssl: ssl_module.SSLContext | None, patience: float) -> None:
        self.places = asyncio.Semaphore(PER_PROVIDER)
        self.users = 0
        self._provider = provider
        self._ssl = ssl
        self._patience = patience
        self._idle: list[_Connection] = []
        self._timers: dict[_Connection, asyncio.TimerHandle] = {}
        self._closed = False

    @property
    def unused(self) -> bool:
        """Whether nothing is lost by forgetting it."""
        return not self.users and not self._idle

    async def get(self, cid: str, received: Callable[[int], None] | None = None) -> Buffer:
        """One block's bytes, verified; `received` is told how many come, as they come. ProviderFault for all that can
        go wrong."""
        while self._idle:
            connection = self._idle.pop()
            self._timers.pop(connection).cancel()
            try:
                return await self._ask(connection, cid, received)
            except _Stale:
                continue  # the provider had closed it while it was idle: that is no fault
        try:
            return await self._ask(await self._connect(), cid, received)
        except _Stale:
            raise ProviderFault("it closed the connection without an answer") from None

    async def page(self, path: str, limit: int) -> bytes:
        """What the gateway says at a path that is no block's, over a connection of its own. ProviderFault."""
        connection = await self._connect()
        try:
            with self._faults():
                return await connection.page(path, limit)
        except _Stale:
            raise ProviderFault("it closed the connection without an answer") from None
        finally:
            connection.close()

    async def lines(self, path: str, longest: int) -> AsyncIterator[bytes]:
        """The lines of a text that the gateway goes on with, as they come, each of at most so many bytes; a connection
        of its own. ProviderFault, also where nothing comes for as long as patience lasts."""
        connection = await self._connect()
        try:
            with self._faults():
                async for line in connection.lines(path, longest):
                    yield line
        except _Stale:
            raise ProviderFault("it closed the connection without an answer") from None
        finally:
            connection.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        for connection in self._idle:
            self._timers.pop(connection).cancel()
            connection.close()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        host, _, port = self._provider.address.rpartition(":")
        if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
            raise ProviderFault("that is not host:port")
        try:
            async with asyncio.timeout(self._patience):
                stream = await self._knock(host.strip("[]"), int(port))
        except TimeoutError:
            raise ProviderFault(f"no connection within {self._patience:g} s") from None
        except (OSError, UnicodeError) as error:
            raise ProviderFault(f"no connection ({getattr(error, 'strerror', None) or error})") from None
        if self._ssl is not None:
            found = peer_id(stream.transport.get_extra_info("ssl_object"))
            if found != self._provider.node:
                stream.transport.abort()
                raise ProviderFault(f"another node answers there: {found or 'one without an id'}")
        return _Connection(stream, self._provider.address, self._patience)

    async def _knock(self, host: str, port: int) -> Stream:
        """A connection, when the gateway has a place for it. OSError: at once where nobody listens."""
        from ipdc_edge.drivers.stream import Stream  # not in the memory of who fetches nothing

        loop = asyncio.get_running_loop()
        now = loop.time
        end, most = now() + BUSY, _FIRST_PAUSE
        while True:
            try:
                _, stream = await loop.create_connection(lambda: Stream(self._patience), host, port, ssl=self._ssl)
                return stream
            except ConnectionResetError:
                pause = random.uniform(most / 2, most)
                if now() + pause > end:
                    raise
            await asyncio.sleep(pause)
            most = min(2 * most, _LAST_PAUSE)

    async def _ask(
        self, connection: _Connection, cid: str, received: Callable[[int], None] | None = None
    ) -> Buffer:
        reusable = False
        try:
            with self._faults():
                data, whole = await connection.get(cid, received)
            if len(data) <= SMALL:
                verify(cid, data)
            else:
                await asyncio.to_thread(verify, cid, data)
            reusable = whole
            return data
        except BlockMismatch as error:
            raise ProviderLied(f"it lied. {error}".rstrip(".")) from None
        finally:
            if reusable and not self._closed:
                self._idle.append(connection)
                loop = asyncio.get_running_loop()
                self._timers[connection] = loop.call_later(_IDLE, self._drop, connection)
            else:
                connection.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What goes wrong while it is spoken with, in words: ProviderFault."""
        try:
            yield
        except TimeoutError:
            raise ProviderFault(f"it was silent for {self._patience:g} s") from None
        except h11.ProtocolError as error:
            raise ProviderFault(f"no proper HTTP ({str(error)[:_SHOWN]})") from None
        except OSError as error:
            raise ProviderFault(f"the connection broke ({error.strerror or error})") from None

    def _drop(self, connection: _Connection) -> None:
        del self._timers[connection]
        self._idle.remove(connection)
        connection.close()


class _Stale(Exception):
    """The peer closed a connection before it began to answer."""


class _Connection:
    """One HTTP connection to a gateway."""

    def __init__(self, stream: Stream, address: str, patience: float) -> None:
        self._stream = stream
        self._address = address
        self._patience = patience
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER)
        connected = stream.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def get(self, cid: str, received: Callable[[int], None] | None) -> tuple[Buffer, bool]:
        """(body, whether the connection can be used again)."""
        response = await self._answered(f"/ipfs/{cid}?format=raw", "application/vnd.ipld.raw")
        size = None  # where it is said beforehand
        for name, value in response.headers:
            if name == b"content-length":
                size = int(value) if len(value) <= 20 else MAX_BLOCK + 1
                if size > MAX_BLOCK:
                    raise ProviderFault(
                        f"it announced {value.decode('latin-1')[:20]!a} bytes; a block has at most {MAX_BLOCK}"
                    )
            elif name == b"transfer-encoding":
                size = None
                break
        if size is not None:
            return await self._known_body(size, received)
        data = await self._body(MAX_BLOCK, cut=False, received=received)
        if self._stream.at_end() or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return data, False
        self._http.start_next_cycle()
        return data, True

    async def _known_body(self, size: int, received: Callable[[int], None] | None) -> tuple[Buffer, bool]:
        """The same for a body of so many bytes: received where it stays, past h11, which would copy it twice."""
        body = bytearray(size)
        begun, _ = self._http.trailing_data
        got = min(size, len(begun))
        body[:got] = begun[:got]
        if received is not None:
            received(got)

        def came(count: int) -> None:
            nonlocal got
            got += count
            if self._stream.pieces > _PIECES + got // _LEAST:
                raise ProviderFault(f"it sent {got} bytes in {self._stream.pieces} pieces")
            if received is not None:
                received(count)

        with memoryview(body) as whole, whole[got:] as rest:
            if got + await self._stream.fill(rest, came) < size:
                raise h11.RemoteProtocolError(f"it ended after {got} of {size} bytes")
        # not where the answer says "close", or has more bytes than it announced
        again = self._http.our_state is h11.DONE and not self._stream.at_end() and len(begun) <= size
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER)
        return body, again

    async def page(self, path: str, limit: int) -> bytes:
        """A text of at most so many bytes."""
        await self._answered(path, "*/*")
        return await self._body(limit, cut=False)

    async def lines(self, path: str, longest: int) -> AsyncIterator[bytes]:
        """The lines of a text, without their ends."""
        await self._answered(path, "*/*")
        rest = bytearray()
        pieces = size = 0
        now = asyncio.get_running_loop().time
        begun = now()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                pieces, size = pieces + 1, size + len(event.data)
                if pieces > _PIECES + size // _LEAST_OF_LINES + now() - begun:
                    raise ProviderFault(f"it sent {size} bytes in {pieces} pieces")
                rest += event.data
                *whole, last = rest.split(b"\n")
                rest = bytearray(last)
                if max(map(len, (*whole, rest))) > longest:
                    raise ProviderFault(f"it sent a line of more than {longest} bytes")
                for line in whole:
                    yield bytes(line)
            else:
                return

    async def _answered(self, target: str, accept: str) -> h11.Response:
        """The head of an answer that is a good one; its body is still to be read."""
        headers = [("Host", self._address), ("Accept", accept), ("User-Agent", "ipdc-edge")]
        response = await self._response(h11.Request(method="GET", target=target, headers=headers))
        if response.status_code != 200:
            words = (await self._body(_SHOWN * 4, cut=True)).decode("utf-8", "replace")
            words = " ".join("".join(character if character.isprintable() else " " for character in words).split())
            raise ProviderFault(f"{ANSWERED}{response.status_code} {words[:_SHOWN]}".rstrip())
        return response

    def close(self) -> None:
        """Close at once; nothing of ours waits to be sent."""
        self._stream.transport.abort()

    async def _response(self, request: h11.Request) -> h11.Response:
        """Send a request and read the head of its answer."""
        try:
            async with asyncio.timeout(self._patience):
                self._stream.transport.write(self._http.send(request) or b"")
                self._http.send(h11.EndOfMessage())
                data = await self._stream.read()
        except ConnectionError:
            raise _Stale from None
        if not data:
            raise _Stale
        self._http.receive_data(data)
        information = 0
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                await self._receive()
            elif not isinstance(event, h11.InformationalResponse) or information == _INFORMATION:
                raise h11.RemoteProtocolError("no response")
            else:
                information += 1

    async def _body(self, limit: int, cut: bool, received: Callable[[int], None] | None = None) -> bytes:
        """The body: ProviderFault when it is over `limit`, or with `cut` its beginning."""
        body = bytearray()  # a list of pieces would cost 40 bytes and more for each, however small they are
        pieces = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                body += event.data
                if received is not None:
                    received(len(event.data))
                pieces += 1
                if pieces > _PIECES + len(body) // _LEAST:
                    raise ProviderFault(f"it sent {len(body)} bytes in {pieces} pieces")
                if len(body) > limit:
                    if cut:
                        return bytes(body[:limit])
                    raise ProviderFault(f"it sent more than {limit} bytes")
            else:
                return bytes(body)  # EndOfMessage: h11 has checked the announced length

    async def _receive(self) -> None:
        self._http.receive_data(await self._stream.read())
