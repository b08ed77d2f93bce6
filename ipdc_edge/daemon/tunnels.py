"""The tunnels between the roles of clusters: from one role's network over TLS to another node's role.

Owns which connections are carried, and for whom: only from a role that runs here to roles of its own cluster, and only
from nodes of a cluster to its roles here. Both ends are nodes of the domain, known by their certificates; the way
between them is the gateway's port (`GET /ipdc/tunnel/JOB/MASTER/TASK`, answered by 101). Never reads what is carried.

It also hears whether the process of a role is alive: that one watches the role's program, and nobody else watches it.

Who may enter is asked here, for every connection: the peer's id must be that of a node in the cluster's plan, or of its
master. Loaded when the first role runs, never by an idle daemon. The inner ends are in apps/tensorflow/role.py, where
the messages on the socket to them are told.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.values import JobKey
from ..drivers.gateway import TUNNEL
from ..drivers.refusals import Refusals
from ..drivers.runner import RunnerDied
from ..drivers.tls import peer_id
from .background import Background, note

if TYPE_CHECKING:
    import ssl

CONNECT_WITHIN = 10.0  # seconds to another node, TLS and its answer
ENTER_WITHIN = 5.0  # seconds until the role's end of a tunnel has connected to it
MOST = 64  # tunnels of one role, in each direction
STARTS_WITHIN = 25.0  # seconds in which the process of a role has begun
SILENT_FOR = 12.0  # seconds without a word after which it is lost; it says one every three (apps/tensorflow/role.py)
SILENCE = 60  # seconds after which the other node is asked whether it is still there
MOST_ANSWER = 2048  # bytes of a gateway's answer, up to its empty line
PIECE = 64 << 10  # bytes that are read at once
NO_LINGER = struct.pack("ii", 0, 0)  # as every socket begins; socket(7), SO_LINGER
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
    tasks: dict[asyncio.Task[None], str] = field(default_factory=dict)  # those that go out, and to which node
    entered: set[asyncio.Task[object]] = field(default_factory=set)  # the gateway's, of those that came or come in
    number: int = 0
    heard: float = 0.0  # when its process said anything last; the loop's time
    ours: bool = False  # whether that process waits for this node, as for a disk: then it can say nothing


class RoleSilent(RunnerDied):
    """the process that watches {role} has said nothing for {seconds:g} s, as when it is stopped (SIGSTOP){output}"""


class RoleNotStarted(RunnerDied):
    """the process that watches {role} did not begin within {seconds:g} s{output}"""


class Tunnels:
    """All tunnels of this node."""

    def __init__(
        self, client: ssl.SSLContext, gateway_of: Callable[[str], str], admits: Callable[[str], bool],
        background: Background,
    ) -> None:
        """admits: whether a node is a member of the domain at present."""
        self.client, self.gateway_of, self.admits, self.background = client, gateway_of, admits, background
        self.refusals = Refusals(note)
        self.ends: dict[tuple[JobKey, str], End] = {}  # that may be entered
        self.speaking: list[End] = []  # all
        self.counters = {"out": 0, "in": 0, "refused": 0}

    def open(self, end: End) -> None:
        """A role begins here. One that is no role of the cluster (task "") speaks, and is spoken to by nobody."""
        if end.task:
            self.ends[(end.cluster, end.task)] = end
        self.speaking.append(end)
        end.heard = asyncio.get_running_loop().time()
        asyncio.get_running_loop().add_reader(end.socket, self._heard, end)

    def cut(self, nodes: Collection[str]) -> None:
        """End what goes to these nodes now, as the gateway does with what comes from them. `admits` must already say
        no, or it begins again."""
        for end in self.speaking:
            for task, node in end.tasks.items():
                if node in nodes:
                    task.cancel()

    def close(self, end: End) -> None:
        """It has ended: what it was carrying ends too."""
        asyncio.get_running_loop().remove_reader(end.socket)
        if self.ends.get((end.cluster, end.task)) is end:
            del self.ends[(end.cluster, end.task)]
        self.speaking.remove(end)
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
        end.heard = asyncio.get_running_loop().time()
        if not message:
            asyncio.get_running_loop().remove_reader(end.socket)
        word, _, rest = message.decode("ascii", "replace").partition(" ")
        connection = connections.pop(0) if connections else None
        for other in connections:
            if other is not None:
                _close(other)
        if word == "to" and connection is not None and rest in end.nodes and len(end.tasks) < MOST:
            task = self.background.start(self._out(end, rest, connection))
            end.tasks[task] = end.nodes[rest]
            task.add_done_callback(end.tasks.pop)
            return
        if word in ("in", "no") and rest.isdecimal() and len(rest) < 10:
            future = end.waiting.get(int(rest))
            if future is not None and not future.done():
                future.set_result(connection if word == "in" else None)
                return
        if connection is not None:
            _close(connection)

    async def _out(self, end: End, to: str, connection: socket.socket) -> None:
        """Carry what a role sends to another one; where that cannot be reached, the role sees a closed connection, as
        it would without us, and tries again."""
        node = end.nodes[to]
        try:
            reader, writer = await asyncio.wait_for(self._connect(end, node, to), CONNECT_WITHIN)
        except (OSError, ValueError, TimeoutError) as error:
            line = f"job {end.cluster.job}: {end.task or 'the program'} cannot reach {to} at {node}"
            self.refusals.tell(line, f"{line}: {str(error) or type(error).__name__}"[:300])
            _close(connection)
            return
        except BaseException:
            _close(connection)
            raise
        self.counters["out"] += 1
        try:
            await relay(connection, reader, writer)
        finally:
            with suppress(AttributeError):  # CPython 3.11: a TLS transport that was closed twice
                writer.transport.abort()

    async def _connect(self, end: End, node: str, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self.gateway_of(node)
        host, _, port = address.rpartition(":")
        if not self.admits(node):
            raise ValueError("it is no member of the domain any more")
        if not host or not port.isdecimal() or len(port) > 5 or int(port) >= 1 << 16:
            raise ValueError("its address is not known")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=self.client, limit=PIECE)
        try:
            met = peer_id(writer.get_extra_info("ssl_object"))
            if met != node or not self.admits(node):  # it may have been expelled meanwhile
                raise ValueError(f"{met or 'a stranger'} answers there")
            path = f"{TUNNEL}{end.cluster.job}/{end.cluster.master}/{to}"
            head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: ipdc-tunnel\r\n\r\n"
            writer.write(head.encode())
            await let_in(reader)
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
            self.refusals.tell(peer, f"{peer} asked for a tunnel to {path[len(TUNNEL):][:120]!r}, which is not its own")
            return "no such role for you"
        if len(end.entered) >= MOST:
            return "this role has too many connections"
        task = asyncio.current_task()
        assert task is not None
        end.entered.add(task)  # it carries the tunnel afterwards, and ends with it
        task.add_done_callback(end.entered.discard)
        connection = await self._entered(end)
        if connection is None:
            end.entered.discard(task)
            return "the role does not listen yet"
        self.counters["in"] += 1
        return connection

    async def _entered(self, end: End) -> socket.socket | None:
        """A connection to the role, of which its network tells; None where it has none for us."""
        end.number += 1
        future: asyncio.Future[socket.socket | None] = asyncio.get_running_loop().create_future()
        end.waiting[end.number] = future
        number = end.number
        try:
            end.socket.send(f"in {number}".encode())
            return await asyncio.wait_for(future, ENTER_WITHIN)
        except (OSError, TimeoutError):
            return None
        finally:
            del end.waiting[number]

    async def carry(
        self, inner: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """As the gateway has it: what came in, until either side ends."""
        await relay(inner, reader, writer)


async def started(work: Awaitable[None], role: str) -> None:
    """Waits for the start of a role's process. RoleNotStarted; what the work raises."""
    try:
        async with asyncio.timeout(STARTS_WITHIN) as bound:
            await work
    except TimeoutError:
        if not bound.expired():
            raise
        raise RoleNotStarted(role=role, seconds=STARTS_WITHIN, output="") from None


def written_for(end: End, write: Callable[[int, bytes], Awaitable[None]]) -> Callable[[int, bytes], Awaitable[None]]:
    """`write` of a node's outputs; how long that takes is no silence of the role's process."""
    async def written(stream: int, data: bytes) -> None:
        end.ours = True
        try:
            await write(stream, data)
        finally:
            end.ours, end.heard = False, asyncio.get_running_loop().time()

    return written


async def while_heard(end: End, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What the work with a role's process gives, as long as that process says anything. RoleSilent; what the work
    raises. In both cases the work has ended."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    try:
        while not task.done():
            if end.ours:
                end.heard = loop.time()
            left = end.heard + SILENT_FOR - loop.time()
            if left <= 0:
                raise RoleSilent(role=end.task or "the program", seconds=SILENT_FOR, output="")
            await asyncio.wait([task], timeout=left)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def relay(connection: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes both ways until either side has ended, then ends the other, to which all that came before is
    still given. What is left of the way to the other node then, its caller aborts."""
    outer = writer.get_extra_info("socket")
    try:
        if outer is not None:  # a node that was switched off says no goodbye
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE)
        inner_reader, inner_writer = await asyncio.open_connection(sock=connection, limit=PIECE)
    except OSError:
        _close(connection)
        writer.transport.abort()
        return
    ways = [asyncio.create_task(_carry(inner_reader, writer)), asyncio.create_task(_carry(reader, inner_writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        _never_linger(connection)
        for end in (inner_writer, writer):
            with suppress(OSError, AttributeError):
                end.close()
    with suppress(OSError, AttributeError):  # the last bytes may have a slow way
        await asyncio.wait_for(writer.wait_closed(), CONNECT_WITHIN)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


async def let_in(reader: asyncio.StreamReader) -> None:
    """Reads what a gateway answers to who asks for a tunnel. ValueError where that is no yes."""
    try:
        answer = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise ValueError("it hung up") from None
    except asyncio.LimitOverrunError:
        raise ValueError("its answer has no end") from None
    if len(answer) > MOST_ANSWER:
        raise ValueError(f"its answer has {len(answer)} bytes")
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ValueError(f"it answers {answer[9:60].split(bytes([13]))[0].decode('ascii', 'replace')!r}")


def _never_linger(connection: socket.socket) -> None:
    """Who gave it to us may have it too, and have set that closing it waits: the loop would stand still."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)


def _close(connection: socket.socket) -> None:
    _never_linger(connection)
    connection.close()


def _connection(descriptor: int) -> socket.socket | None:
    """A TCP connection that came from a role's network; whatever else it may be is closed."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        import os

        os.close(descriptor)
        return None
    _never_linger(found)
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
            raise OSError
        found.getpeername()
        found.setblocking(False)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        _close(found)
        return None
    return found
