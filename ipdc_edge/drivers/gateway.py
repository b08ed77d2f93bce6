"""This node's trustless gateway: gives out blocks and CARs over HTTP to whoever asks by CID.

Owns the answers and the connections of those whom `gateway_door` let in. Never interprets a block, never takes data in,
never lets one peer cost much: connections are bounded in all and per peer, every wait has an end, and a connection
holds at most one piece of a block, not the block. Nodes keep theirs between blocks, and there may be more nodes than
places: then the one that has been unused for longest makes room. The store checks a block before its first byte is
sent. Beside blocks there are a few pages, texts that somebody else makes when they are asked for.

What there is to say of content is in `gateway_content`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING

import h11

from ipdc_edge.drivers.block_rows import KuboFailed
from ipdc_edge.drivers.gateway_content import content
from ipdc_edge.drivers.gateway_door import Door
from ipdc_edge.drivers.gateway_http import Answer, Connection, split_target
from ipdc_edge.drivers.refusals import Refusals
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    import socket
    import ssl as ssl_module
    from typing import Protocol

    from ipdc_edge.drivers.block_files import BlockReader
    from ipdc_edge.drivers.blocks import BlockStore

    class Tunnel(Protocol):
        """What is behind TUNNEL; daemon/tunnels.py."""

        async def enter(self, path: str, peer: str) -> socket.socket | str: ...
        async def carry(
            self, inner: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None: ...

LEFTOVERS = "/ipdc/leftovers"  # the page of daemon/leftovers.py
HOLDINGS = "/ipdc/holdings"  # of daemon/holdings.py
SWARM_KEY = "/ipdc/swarm-key"  # of daemon/kubo_network.py
PRINTS = "/ipdc/prints"  # of daemon/prints.py
TOO_MANY = "too many follow what is printed here"
TUNNEL = "/ipdc/tunnel/"  # begins the paths of daemon/tunnels.py
MOST_TUNNELS = 256  # connections that are tunnels, beside those for content


class GatewayPortTaken(IpdcError):
    """The gateway cannot listen on {host} port {port}: {reason}. Change gateway_port in ipdc.conf, or end
    what uses it."""


class Gateway:
    """Serves `store` on host and port. Port 0 takes a free one; `port` says which once `start` has returned.

    `ssl` is that of tls.server_context; None speaks plainly with everybody, which only tests of HTTP itself want.
    `admits` says of a node id whether it is a member now; `note` gets a line for the journal when somebody is refused;
    `pages` are texts by their paths; they are given the request's parameters.
    `idle` seconds may pass between two requests, `patience` for a whole request to arrive and for each piece of an
    answer to be taken.
    """

    def __init__(
        self,
        store: BlockStore,
        host: str,
        port: int,
        ssl: ssl_module.SSLContext | None,
        admits: Callable[[str], bool],
        note: Callable[[str], None],
        pages: Mapping[str, Callable[[Mapping[str, str]], Awaitable[str]]] = MappingProxyType({}),
        *,
        connections: int = 64,
        per_peer: int = 8,
        idle: float = 30,
        patience: float = 10,
    ) -> None:
        self.host = host
        self.port = port
        self.counters = {"blocks": 0, "bytes": 0, "refused": 0, "connections": 0}
        self._store = store
        self._pages = pages
        self._connections = connections
        self._per_peer = per_peer
        self._idle = idle
        self._patience = patience
        self._refusals = Refusals(note)
        self._door = Door(self._let_in, ssl, admits, note, self._count_refusal)
        self._open: dict[asyncio.Task[None], str] = {}  # and whose connection it is
        self._unused: dict[asyncio.Task[None], None] = {}  # that have been answered, and wait; the longest first
        self._refusing: dict[asyncio.Task[None], str] = {}  # they are told no, and take nobody's place
        self._tunnels: dict[asyncio.Task[None], str] = {}  # likewise, of those that carry something else by now
        # what the runners of a peer's job print; None where too many follow already
        self.prints: Callable[[str, str], AsyncGenerator[bytes, None] | None] | None = None
        self.tunnel: Tunnel | None = None  # what takes connections for paths below TUNNEL, where there is anything

    async def start(self) -> None:
        """Listen. GatewayPortTaken if the address cannot be had."""
        try:
            self.port = await self._door.open(self.host, self.port)
        except OSError as error:
            raise GatewayPortTaken(host=self.host, port=self.port, reason=error.strerror or error) from None

    async def close(self) -> None:
        """Stop listening and end all connections, in the middle of an answer too."""
        await self._door.close()

    def cut(self, nodes: Collection[str]) -> None:
        """End all connections of these nodes now. `admits` must already say no, or they come again."""
        for task, node in (*self._open.items(), *self._refusing.items(), *self._tunnels.items()):
            if node in nodes:
                task.cancel()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.counters["connections"] += 1
        full = list(self._open.values()).count(peer) >= self._per_peer or not self._make_room()
        if full and len(self._refusing) >= self._connections:  # not even an answer
            self._count_refusal()
            return
        connection = Connection(reader, writer, self._patience)
        (self._refusing if full else self._open)[task] = peer
        try:
            if full:
                self._count_refusal()
                text = "too many connections; try again, or ask another provider"
                await connection.send(Answer(503, text, (("Retry-After", "5"),), close=True), True)
            elif await self._serve(connection, peer):
                return
            await connection.end()
        except (OSError, h11.ProtocolError, KuboFailed):  # TimeoutError is an OSError
            if not connection.refused:  # that was counted; how its peer takes it says nothing
                self._count_refusal()  # a peer that vanished or stalled in the middle of something
        finally:
            self._open.pop(task, None)
            self._unused.pop(task, None)
            self._refusing.pop(task, None)
            self._tunnels.pop(task, None)
            connection.abort()

    def _make_room(self) -> bool:
        """Whether another connection may come. One that waits for its first request makes no room: its peer would take
        that for a fault."""
        if len(self._open) < self._connections:
            return True
        longest = next(iter(self._unused), None)
        if longest is None:
            return False
        del self._unused[longest], self._open[longest]
        longest.cancel()
        return True

    def _count_refusal(self) -> None:
        self.counters["refused"] += 1

    async def _serve(self, connection: Connection, peer: str) -> bool:
        """Whether it became a tunnel, and has ended as one."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                try:
                    request = await connection.next_request(self._idle, lambda: self._unused.pop(task, None))
                finally:
                    self._unused.pop(task, None)
                if request is None:
                    return False
                if self.tunnel is not None and request.target.startswith(TUNNEL.encode()):
                    refused = await self._carry(connection, request, peer)
                    if refused is None:
                        return True
                    answer = refused
                else:
                    answer = await self._answer(request, peer)
            except h11.RemoteProtocolError as error:
                self.counters["refused"] += 1
                self._refusals.tell(peer, f"gateway: {peer} speaks no proper HTTP: {error}"[:300])
                await connection.send_error(error)
                return False
            given = answer.block.size if answer.block is not None and request.method == b"GET" else None
            self._count(given, answer.status >= 400)
            if answer.stream is not None:
                answer.stream = self._counted(answer.stream)
            try:
                await connection.send(answer, request.method != b"HEAD")
            except BaseException:
                self._count(given, False, -1)
                raise
            finally:
                if answer.block is not None:
                    answer.block.close()
            if not connection.again():
                return False
            self._unused[task] = None

    async def _carry(self, connection: Connection, request: h11.Request, peer: str) -> Answer | None:
        """Make it a tunnel, until that ends; what is answered where it becomes none."""
        assert self.tunnel is not None
        upgrade = any(name == b"upgrade" and value == b"ipdc-tunnel" for name, value in request.headers)
        if request.method != b"GET" or not upgrade:
            return Answer(400, "a tunnel takes Upgrade: ipdc-tunnel", close=True)
        if len(self._tunnels) >= MOST_TUNNELS:
            return Answer(503, "too many tunnels", close=True)
        inner = await self.tunnel.enter(request.target.decode("ascii", "replace"), peer)
        if isinstance(inner, str):
            return Answer(403, inner, close=True)
        task = asyncio.current_task()
        assert task is not None
        self._tunnels[task] = self._open.pop(task)
        await self.tunnel.carry(inner, *connection.handed_over())
        return None

    def _count(self, given: int | None, refused: bool, sign: int = 1) -> None:
        """Before an answer goes out, so that who has it finds it counted; back if it did not go out whole."""
        if given is not None:
            self.counters["blocks"] += sign
            self.counters["bytes"] += sign * given
        self.counters["refused"] += refused

    async def _counted(
        self, stream: AsyncGenerator[tuple[bytes, BlockReader], None]
    ) -> AsyncGenerator[tuple[bytes, BlockReader], None]:
        async with aclosing(stream):
            async for before, block in stream:
                if block.size:
                    self._count(block.size, False)
                yield before, block

    async def _answer(self, request: h11.Request, peer: str) -> Answer:
        headers: dict[bytes, bytes] = {}
        for name, value in request.headers:
            headers[name] = headers[name] + b", " + value if name in headers else value
        if request.method not in (b"GET", b"HEAD"):
            return Answer(405, "only GET and HEAD", (("Allow", "GET, HEAD"),), close=True)
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0"):
            return Answer(413, "a request here has no body", close=True)
        path, query = split_target(request.target)
        if path in self._pages:
            return Answer(200, await self._pages[path](query), (("Cache-Control", "no-store"),))
        if path == PRINTS and self.prints is not None:
            pieces = self.prints(query.get("job", ""), peer)
            if pieces is None:
                return Answer(503, TOO_MANY, (("Retry-After", "5"),), close=True)
            return Answer(200, headers=(("Cache-Control", "no-store"),), pieces=pieces)
        if not path.startswith("/ipfs/"):
            return Answer(404, "only /ipfs/{cid} is served here")
        return await content(self._store, path, query, headers)
