"""The connections to one provider's gateway: asks for a block by HTTP and checks what comes back.

Owns sockets and h11; at most two connections to a provider, kept open between blocks, closed when idle. Never
asks anybody else when this provider fails: `fetcher` does.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import h11

from ipdc_edge.codec.cid import BlockMismatch, verify
from ipdc_edge.codec.unixfs import MAX_BLOCK

if TYPE_CHECKING:
    import ssl as ssl_module

PER_PROVIDER = 2  # connections
SMALL = 64 << 10  # bytes of a block that may be read and hashed in the loop
_IDLE = 15.0  # seconds an unused connection is kept; less than a gateway keeps it
_MAX_HEADER = 16 << 10
_PIECE = 128 << 10  # bytes read from a connection at a time
_SHOWN = 200  # characters of a provider's own words in an error


class ProviderFault(Exception):
    """What one provider did wrong; it becomes a reason of BlockUnavailable."""


class ProviderPool:
    """The connections to one provider. `places` bounds how many are in use."""

    def __init__(self, provider: str, ssl: ssl_module.SSLContext | None, patience: float) -> None:
        self.places = asyncio.Semaphore(PER_PROVIDER)
        self._provider = provider
        self._ssl = ssl
        self._patience = patience
        self._idle: list[_Connection] = []
        self._timers: dict[_Connection, asyncio.TimerHandle] = {}
        self._closed = False

    async def get(self, cid: str) -> bytes:
        """One block's bytes, verified. ProviderFault for all that can go wrong."""
        while self._idle:
            connection = self._idle.pop()
            self._timers.pop(connection).cancel()
            try:
                return await self._ask(connection, cid)
            except _Stale:
                continue  # the provider had closed it while it was idle: that is no fault
        try:
            return await self._ask(await self._connect(), cid)
        except _Stale:
            raise ProviderFault("it closed the connection without an answer") from None

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        self._closed = True
        for connection in self._idle:
            self._timers.pop(connection).cancel()
            connection.close()
        self._idle.clear()

    async def _connect(self) -> _Connection:
        host, _, port = self._provider.rpartition(":")
        if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
            raise ProviderFault("that is not host:port")
        try:
            async with asyncio.timeout(self._patience):
                reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=self._ssl, limit=_PIECE)
        except TimeoutError:
            raise ProviderFault(f"no connection within {self._patience:g} s") from None
        except (OSError, UnicodeError) as error:
            raise ProviderFault(f"no connection ({getattr(error, 'strerror', None) or error})") from None
        return _Connection(reader, writer, self._provider, self._patience)

    async def _ask(self, connection: _Connection, cid: str) -> bytes:
        reusable = False
        try:
            data, whole = await connection.get(cid)
            if len(data) <= SMALL:
                verify(cid, data)
            else:
                await asyncio.to_thread(verify, cid, data)
            reusable = whole
            return data
        except BlockMismatch as error:
            raise ProviderFault(f"it lied. {error}".rstrip(".")) from None
        except TimeoutError:
            raise ProviderFault(f"it was silent for {self._patience:g} s") from None
        except h11.ProtocolError as error:
            raise ProviderFault(f"no proper HTTP ({error})") from None
        except OSError as error:
            raise ProviderFault(f"the connection broke ({error.strerror or error})") from None
        finally:
            if reusable and not self._closed:
                self._idle.append(connection)
                loop = asyncio.get_running_loop()
                self._timers[connection] = loop.call_later(_IDLE, self._drop, connection)
            else:
                connection.close()

    def _drop(self, connection: _Connection) -> None:
        del self._timers[connection]
        self._idle.remove(connection)
        connection.close()


class _Stale(Exception):
    """The peer closed a connection before it began to answer."""


class _Connection:
    """One HTTP connection to a gateway."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, provider: str, patience: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._provider = provider
        self._patience = patience
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER)
        connected = writer.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def get(self, cid: str) -> tuple[bytes, bool]:
        """(body, whether the connection can be used again)."""
        request = h11.Request(
            method="GET",
            target=f"/ipfs/{cid}?format=raw",
            headers=[
                ("Host", self._provider),
                ("Accept", "application/vnd.ipld.raw"),
                ("User-Agent", "ipdc-edge"),
            ],
        )
        response = await self._response(request)
        if response.status_code != 200:
            words = (await self._body(_SHOWN * 4, cut=True)).decode("utf-8", "replace")
            words = " ".join("".join(character if character.isprintable() else " " for character in words).split())
            raise ProviderFault(f"it answered {response.status_code} {words[:_SHOWN]}".rstrip())
        for name, value in response.headers:
            if name == b"content-length" and (len(value) > 20 or int(value) > MAX_BLOCK):
                raise ProviderFault(
                    f"it announced {value.decode('latin-1')[:20]!a} bytes; a block has at most {MAX_BLOCK}"
                )
        data = await self._body(MAX_BLOCK, cut=False)
        if self._reader.at_eof() or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return data, False
        self._http.start_next_cycle()
        return data, True

    def close(self) -> None:
        """Close at once; nothing of ours waits to be sent."""
        self._writer.transport.abort()

    async def _response(self, request: h11.Request) -> h11.Response:
        """Send a request and read the head of its answer."""
        try:
            async with asyncio.timeout(self._patience):
                self._writer.write(self._http.send(request) or b"")
                self._http.send(h11.EndOfMessage())
                data = await self._reader.read(_PIECE)
        except ConnectionError:
            raise _Stale from None
        if not data:
            raise _Stale
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                await self._receive()
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("no response")

    async def _body(self, limit: int, cut: bool) -> bytes:
        """The body: ProviderFault when it is over `limit`, or with `cut` its beginning."""
        parts: list[bytes] = []
        size = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > limit:
                    if cut:
                        return b"".join(parts)[:limit]
                    raise ProviderFault(f"it sent more than {limit} bytes")
            else:
                return b"".join(parts)  # EndOfMessage: h11 has checked the announced length

    async def _receive(self) -> None:
        async with asyncio.timeout(self._patience):
            data = await self._reader.read(_PIECE)
        self._http.receive_data(data)
