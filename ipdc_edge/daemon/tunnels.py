"""The tunnels between the roles of clusters: from one role's network over TLS to another node's role.

Owns which connections are carried, and for whom: only from a role that runs here to roles of its own cluster, and only
from nodes of a cluster to its roles here. Both ends are nodes of the domain, known by their certificates; the way
between them is the gateway's port (`GET /ipdc/tunnel/JOB/MASTER/TASK`, answered by 101). Never reads what is carried.

Who may enter is asked here, for every connection: the peer's id must be that of a node in the cluster's plan, or of its
master. Loaded when the first role runs, never by an idle daemon. The inner ends are in apps/tensorflow/role.py, where
the messages on the socket to them are told.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.values import JobKey
from ..drivers.gateway import TUNNEL
from ..drivers.tls import peer_id
from .background import Background, note

if TYPE_CHECKING:
    import ssl

CONNECT_WITHIN = 10.0  # seconds to another node, TLS and its answer
ENTER_WITHIN = 5.0  # seconds until the role's end of a tunnel has connected to it
MOST = 64  # tunnels of one role
MOST_ANSWER = 2048  # bytes of a gateway's answer, up to its empty line
PIECE = 64 << 10  # bytes that are read at once
PATH = re.compile(re.escape(TUNNEL) + r"([0-9]{8}-[0-9]{6}-[a-z]{4})/([A-Za-z0-9]{40,64})/([a-z0-9-]{1,64})", re.ASCII)


@dataclass
class End:
    """A role that runs here: the cluster's job, its task, the nodes of the cluster, where each of its roles is, and the
    socket to its network."""

    cluster: JobKey
    task: str
    members: frozenset[str]
    nodes: Mapping[str, str]  # of the other roles, by task
    socket: socket.socket
    waiting: dict[int, asyncio.Future[socket.socket | None]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    number: int = 0


class Tunnels:
    """All tunnels of this node."""

    def __init__(self, client: ssl.SSLContext, gateway_of: Callable[[str], str], background: Background) -> None:
        self.client, self.gateway_of, self.background = client, gateway_of, background
        self.ends: dict[tuple[JobKey, str], End] = {}
        self.counters = {"out": 0, "in": 0, "refused": 0}

    def open(self, end: End) -> None:
        """A role begins here. One that is no role of the cluster (task "") speaks, and is spoken to by nobody."""
        if end.task:
            self.ends[(end.cluster, end.task)] = end
        asyncio.get_running_loop().add_reader(end.socket, self._heard, end)

    def close(self, end: End) -> None:
        """It has ended: what it was carrying ends too."""
        asyncio.get_running_loop().remove_reader(end.socket)
        if self.ends.get((end.cluster, end.task)) is end:
            del self.ends[(end.cluster, end.task)]
        for task in end.tasks:
            task.cancel()
        for future in end.waiting.values():
            if not future.done():
                future.set_result(None)

    # -- from a role that runs here

    def _heard(self, end: End) -> None:
        """A message of a role's network. It may come from the user's code: whatever it says, it gets no more than its
        own cluster."""
        try:
            message, given, _, _ = socket.recv_fds(end.socket, 128, 4)
        except BlockingIOError:
            return
        except OSError:
            message, given = b"", []
        connections = [_connection(descriptor) for descriptor in given]
        if not message:
            asyncio.get_running_loop().remove_reader(end.socket)
        word, _, rest = message.decode("ascii", "replace").partition(" ")
        connection = connections.pop(0) if connections else None
        for other in connections:
            if other is not None:
                other.close()
        if word == "to" and connection is not None and rest in end.nodes and len(end.tasks) < MOST:
            self._carry(end, self._out(end, rest, connection))
            return
        if word in ("in", "no") and rest.isdecimal() and len(rest) < 10:
            future = end.waiting.get(int(rest))
            if future is not None and not future.done():
                future.set_result(connection if word == "in" else None)
                return
        if connection is not None:
            connection.close()

    def _carry(self, end: End, work) -> None:  # type: ignore[no-untyped-def]
        task = self.background.start(work)
        end.tasks.add(task)
        task.add_done_callback(end.tasks.discard)

    async def _out(self, end: End, to: str, connection: socket.socket) -> None:
        """Carry what a role sends to another one; where that cannot be reached, the role sees a closed connection, as
        it would without us, and tries again."""
        node = end.nodes[to]
        try:
            reader, writer = await asyncio.wait_for(self._connect(end, node, to), CONNECT_WITHIN)
        except (OSError, ValueError, TimeoutError) as error:
            note(f"job {end.cluster.job}: {end.task or 'the program'} cannot reach {to} at {node}: "
                 f"{str(error) or type(error).__name__}"[:300])
            connection.close()
            return
        self.counters["out"] += 1
        await relay(connection, reader, writer)

    async def _connect(self, end: End, node: str, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.gateway_of(node)
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("its address is not known")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=self.client, limit=PIECE)
        try:
            met = peer_id(writer.get_extra_info("ssl_object"))
            if met != node:
                raise ValueError(f"{met or 'a stranger'} answers there")
            path = f"{TUNNEL}{end.cluster.job}/{end.cluster.master}/{to}"
            head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: ipdc-tunnel\r\n\r\n"
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 101 "):
                raise ValueError(f"it answers {answer[9:60].split(bytes([13]))[0].decode('ascii', 'replace')}")
        except asyncio.IncompleteReadError:
            writer.transport.abort()
            raise ValueError("it hung up") from None
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    # -- to a role that runs here

    async def enter(self, path: str, peer: str) -> socket.socket | str:
        """A connection to the role that a member of the domain asks for; why it gets none, else."""
        found = PATH.fullmatch(path)
        end = self.ends.get((JobKey(found[2], found[1]), found[3])) if found else None
        if end is None or peer not in end.members:
            self.counters["refused"] += 1
            # To somebody who is no member of a cluster it is as if there were none.
            note(f"{peer} asked for a tunnel to {path[len(TUNNEL):][:120]!r}, which is not its own")
            return "no such role for you"
        if len(end.waiting) >= MOST or len(end.tasks) >= 2 * MOST:
            return "this role has too many connections"
        end.number += 1
        future: asyncio.Future[socket.socket | None] = asyncio.get_running_loop().create_future()
        end.waiting[end.number] = future
        number = end.number
        try:
            end.socket.send(f"in {number}".encode())
            connection = await asyncio.wait_for(future, ENTER_WITHIN)
        except (OSError, TimeoutError):
            connection = None
        finally:
            del end.waiting[number]
        if connection is None:
            return "the role does not listen yet"
        self.counters["in"] += 1
        return connection


    async def carry(
        self, inner: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """As the gateway has it: what came in, until either side ends."""
        await relay(inner, reader, writer)


async def relay(connection: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes both ways until either side has ended, then ends the other."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection(sock=connection, limit=PIECE)
    except OSError:
        connection.close()
        writer.transport.abort()
        return
    ways = [asyncio.create_task(_carry(inner_reader, writer)), asyncio.create_task(_carry(reader, inner_writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (inner_writer, writer):
            with suppress(OSError, AttributeError):
                end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


def _connection(descriptor: int) -> socket.socket | None:
    """A TCP connection that came from a role's network; whatever else it may be is closed."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        import os

        os.close(descriptor)
        return None
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
            raise OSError
        found.getpeername()
        found.setblocking(False)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        found.close()
        return None
    return found
