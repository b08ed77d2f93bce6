"""Gets blocks and files from other nodes' gateways, and trusts none of them.

Owns the connections to providers: at most two to each, kept open between blocks, closed when idle. Never
stores what it fetched and never chooses providers: they come with the message that named the CID. Every block
is checked against its CID; a provider that fails, stalls or lies is dropped for that block and the next is
asked.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import h11

from ipdc_edge.codec.cid import RAW, BlockMismatch, canonical, inlined, parse_cid, verify
from ipdc_edge.codec.unixfs import FILE, MAX_BLOCK, MAX_DEPTH, BadNode, parse_node
from ipdc_edge.drivers.blocks import ReferenceChanged
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncIterator, Iterator

    from ipdc_edge.drivers.blocks import BlockStore

PER_PROVIDER = 2  # connections
_IDLE = 15.0  # seconds an unused connection is kept; less than a gateway keeps it
_SMALL = 64 << 10  # bytes of a block that may be read and hashed in the loop
_MAX_HEADER = 16 << 10
_PIECE = 128 << 10  # bytes read from a connection at a time
_SHOWN = 200  # characters of a provider's own words in an error


class BlockUnavailable(IpdcError):
    """The block {cid} could not be had: {reasons}."""

    retry = True


class FileTooBig(IpdcError):
    """The file {root} has {size} bytes; at most {limit} are wanted here."""


class NoFile(IpdcError):
    """{root} is a {kind}, not a file."""


class ProviderFault(Exception):
    """What one provider did wrong; it becomes a reason of BlockUnavailable."""


class Fetcher:
    """Blocks by CID from the own store or from providers ("host:port" of their gateways).

    `patience` seconds may pass until a connection stands and between two pieces of an answer, `deadline` for
    a whole block.
    """

    def __init__(
        self,
        store: BlockStore,
        ssl: ssl_module.SSLContext | None = None,
        *,
        patience: float = 10,
        deadline: float = 60,
    ) -> None:
        self.counters = {"blocks": 0, "bytes": 0, "own": 0, "faults": 0}
        self._store = store
        self._ssl = ssl
        self._patience = patience
        self._deadline = deadline
        self._pools: dict[str, _Pool] = {}

    async def block(self, cid: str, providers: list[str]) -> bytes:
        """The block, verified: from the own store, else from the first provider that gives it.
        BlockUnavailable, BadCid."""
        cid = canonical(cid)
        reasons = []
        try:
            data = await self._own(cid)
            if data is not None:
                self.counters["own"] += 1
                return data
        except ReferenceChanged as error:
            reasons.append(str(error).rstrip("."))
        except OSError as error:
            reasons.append(f"the own store: {error}")
        for provider in dict.fromkeys(providers):
            try:
                data = await self._from(provider, cid)
            except ProviderFault as error:
                self.counters["faults"] += 1
                reasons.append(f"{provider}: {error}")
                continue
            self.counters["blocks"] += 1
            self.counters["bytes"] += len(data)
            return data
        raise BlockUnavailable(
            cid=cid, reasons="; ".join(reasons) or "it is not here, and nobody was named who has it"
        )

    async def file_blocks(
        self, root: str, start: int, end: int, providers: list[str]
    ) -> AsyncIterator[tuple[int, bytes]]:
        """(offset, bytes) of a UnixFS file, block after block, from the one that holds byte `start`.

        Up to `end` the next block is fetched while the caller works on this one. It goes on behind `end` for
        as long as the caller iterates, because a line may cross it. NoFile, BadNode, BlockUnavailable.
        """
        walk = _Walk(self, canonical(root), start, providers)
        ahead: asyncio.Task[tuple[int, bytes] | None] | None = None
        try:
            while True:
                found = await (walk.next_block() if ahead is None else ahead)
                ahead = None
                if found is None:
                    return
                if found[0] + len(found[1]) < end:
                    ahead = asyncio.ensure_future(walk.next_block())
                yield found
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def read_file(self, root: str, providers: list[str], limit: int) -> bytes:
        """A whole file of at most `limit` bytes. FileTooBig is raised before any of its leaves is fetched."""
        root = canonical(root)
        walk = _Walk(self, root, 0, providers)
        size = await walk.open()
        if size > limit:
            raise FileTooBig(root=root, size=size, limit=limit)
        parts = []
        while (found := await walk.next_block()) is not None:
            parts.append(found[1])
        return b"".join(parts)

    async def file_size(self, root: str, providers: list[str]) -> int:
        """Bytes of a file, from its root alone. NoFile, BadNode, BlockUnavailable."""
        return await _Walk(self, canonical(root), 0, providers).open()

    async def close(self) -> None:
        """Close all connections. Calls under way fail."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    async def _own(self, cid: str) -> bytes | None:
        if inlined(cid) is not None:
            return inlined(cid)
        size = self._store.size(cid)
        if size is None:
            return None
        return self._store.get(cid) if size <= _SMALL else await asyncio.to_thread(self._store.get, cid)

    async def _from(self, provider: str, cid: str) -> bytes:
        pool = self._pools.get(provider)
        if pool is None:
            pool = self._pools[provider] = _Pool(provider, self._ssl, self._patience)
        async with pool.places:
            try:
                async with asyncio.timeout(self._deadline):
                    return await pool.get(cid)
            except TimeoutError:
                raise ProviderFault(f"the block did not arrive within {self._deadline:g} s") from None


class _Walk:
    """Walks a file's tree from an offset, fetching only the nodes on the way and then leaf by leaf."""

    def __init__(self, fetcher: Fetcher, root: str, start: int, providers: list[str]) -> None:
        self._fetcher = fetcher
        self._root = root
        self._start = start
        self._providers = providers
        self._stack: list[Iterator[tuple[int, int, str]]] = []
        self._inline: tuple[int, bytes] | None = None  # bytes of the file that stood in an interior block
        self._opened = False

    async def open(self) -> int:
        """Fetch the root; the file's size."""
        self._opened = True
        return await self._enter(0, None, self._root)

    async def next_block(self) -> tuple[int, bytes] | None:
        """(offset, bytes) of the next leaf that ends behind the start; None at the end of the file."""
        if not self._opened:
            await self.open()
        while True:
            if self._inline is not None:
                found, self._inline = self._inline, None
                if found[1] and found[0] + len(found[1]) > self._start:
                    return found
            if not self._stack:
                return None
            child = next(self._stack[-1], None)
            if child is None:
                self._stack.pop()
            elif child[0] + child[1] > self._start:
                await self._enter(*child)

    async def _enter(self, offset: int, size: int | None, cid: str) -> int:
        """Fetch one node: its own bytes wait in `_inline`, its children on the stack. BadNode if it is not of
        `size`."""
        data = await self._fetcher.block(cid, self._providers)
        if parse_cid(cid).codec == RAW:
            length = len(data)
        else:
            node = parse_node(cid, data)
            if node.kind != FILE:
                raise NoFile(root=cid, kind=node.kind)
            length, data = node.size, node.data
            if len(self._stack) >= MAX_DEPTH:
                raise BadNode(cid=self._root, reason=f"more than {MAX_DEPTH} levels")
            self._stack.append(node.children(offset))
        if size is not None and length != size:
            raise BadNode(cid=cid, reason=f"it holds {length} bytes where its parent says {size}")
        self._inline = offset, data
        return length


class _Pool:
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
                reader, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=self._ssl, limit=_PIECE
                )
        except TimeoutError:
            raise ProviderFault(f"no connection within {self._patience:g} s") from None
        except (OSError, UnicodeError) as error:
            raise ProviderFault(f"no connection ({getattr(error, 'strerror', None) or error})") from None
        return _Connection(reader, writer, self._provider, self._patience)

    async def _ask(self, connection: _Connection, cid: str) -> bytes:
        reusable = False
        try:
            data, whole = await connection.get(cid)
            if len(data) <= _SMALL:
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
            words = " ".join(
                "".join(character if character.isprintable() else " " for character in words).split()
            )
            raise ProviderFault(f"it answered {response.status_code} {words[:_SHOWN]}".rstrip())
        for name, value in response.headers:
            if name == b"content-length" and (len(value) > 20 or int(value) > MAX_BLOCK):
                raise ProviderFault(
                    f"it announced {value.decode('latin-1')[:20]!a} bytes; a block has at most {MAX_BLOCK}"
                )
        data = await self._body(MAX_BLOCK, cut=False)
        if (
            self._reader.at_eof()
            or self._http.our_state is not h11.DONE
            or self._http.their_state is not h11.DONE
        ):
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
