"""What a role's network may ask of the daemon, and who may enter: real sockets, and a gateway that is not asked."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from ipdc_edge.core.values import JobKey
from ipdc_edge.daemon import tunnels as module
from ipdc_edge.daemon.background import Background
from ipdc_edge.daemon.tunnels import End, Tunnels, relay

A, B, C = "Qm" + "a" * 44, "Qm" + "b" * 44, "Qm" + "c" * 44
KEY = JobKey(A, "20260101-000000-abcd")
PATH = f"/ipdc/tunnel/{KEY.job}/{A}/local-0"


class Role:
    """The inner end of a role's tunnels, as the user's code could have it."""

    def __init__(self) -> None:
        self.tunnels = Tunnels(ssl.create_default_context(), lambda node: self.asked.append(node) or "", Background())
        self.asked: list[str] = []
        ours, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.end = End(KEY, "local-0", frozenset({A, B}), {"local-1": B}, ours)
        self.tunnels.open(self.end)

    def say(self, words: bytes, *descriptors: int) -> None:
        socket.send_fds(self.inner, [words], list(descriptors))


def pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


def run(test: Callable[[Role], Awaitable[None]]) -> Role:
    async def whole() -> Role:
        role = Role()
        await test(role)
        return role

    return asyncio.run(whole())


async def soon() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("words", [b"to local-7", b"to ../x", b"to local-0", b"to", b"", b"\xff\xfe", b"in 5", b"no 5",
                                   b"in " + b"9" * 90, b"x" * 120])
def test_whatever_else_it_says_it_gets_no_more_than_its_cluster(
    words: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(role: Role) -> None:
        one, other = pair()
        role.say(words or b" ", one.fileno())
        one.close()
        await soon()
        other.settimeout(5)
        assert other.recv(1) == b""  # closed, and carried nowhere

    assert not run(test).asked
    assert "Traceback" not in "".join(capsys.readouterr())


def test_what_is_no_connection_is_closed() -> None:
    async def test(role: Role) -> None:
        reader, writer = os.pipe()
        unix, _other = socket.socketpair()
        idle = socket.socket()
        before = len(os.listdir("/proc/self/fd"))
        for descriptor in (reader, writer, unix.fileno(), idle.fileno()):
            role.say(b"to local-1", descriptor)
        await soon()
        assert len(os.listdir("/proc/self/fd")) <= before

    assert not run(test).asked


def test_a_role_of_the_cluster_is_looked_for_at_its_node_only() -> None:
    async def test(role: Role) -> None:
        one, other = pair()
        role.say(b"to local-1", one.fileno())
        one.close()
        other.settimeout(5)
        while not role.asked:
            await asyncio.sleep(0.01)
        await soon()
        assert other.recv(1) == b""  # it is nowhere to be found

    assert run(test).asked == [B]


@pytest.mark.parametrize("path, peer", [
    (PATH, C), (PATH, ""), (PATH.replace("local-0", "local-1"), B), (PATH.replace("abcd", "aaaa"), B),
    (PATH.replace(A, C), C), (PATH + "/", B), ("/ipdc/tunnel/", B), (PATH + "\n", B),
])
def test_who_may_not_enter_learns_nothing(path: str, peer: str) -> None:
    async def test(role: Role) -> None:
        assert await role.tunnels.enter(path, peer) == "no such role for you"
        assert role.tunnels.counters["refused"] == 1

    run(test)


def test_a_member_enters_when_the_role_listens() -> None:
    async def test(role: Role) -> None:
        asked = asyncio.ensure_future(role.tunnels.enter(PATH, B))
        await soon()
        assert role.inner.recv(64) == b"in 1"
        one, other = pair()
        role.say(b"in 1", one.fileno())
        found = await asked
        assert isinstance(found, socket.socket)
        other.sendall(b"x")
        assert await asyncio.get_running_loop().sock_recv(found, 1) == b"x"
        again = asyncio.ensure_future(role.tunnels.enter(PATH, A))
        await soon()
        assert role.inner.recv(64) == b"in 2"
        role.say(b"no 2")
        assert await again == "the role does not listen yet"

    run(test)


def test_a_role_that_says_nothing_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTER_WITHIN", 0.05)

    async def test(role: Role) -> None:
        assert await role.tunnels.enter(PATH, B) == "the role does not listen yet"
        assert not role.end.waiting

    run(test)


def test_with_its_role_a_tunnel_ends() -> None:
    async def test(role: Role) -> None:
        waits = asyncio.ensure_future(role.tunnels.enter(PATH, B))
        await soon()
        role.tunnels.close(role.end)
        assert await waits == "the role does not listen yet"
        assert await role.tunnels.enter(PATH, B) == "no such role for you"

    run(test)


def test_bytes_go_both_ways_and_the_end_of_one_side_is_the_end() -> None:
    async def test() -> None:
        one, role = pair()
        outer, peer = pair()
        reader, writer = await asyncio.open_connection(sock=outer)
        work = asyncio.ensure_future(relay(one, reader, writer))
        loop = asyncio.get_running_loop()
        for side in (role, peer):
            side.setblocking(False)
        await loop.sock_sendall(role, b"to the peer")
        assert await loop.sock_recv(peer, 100) == b"to the peer"
        big, got = b"x" * 3_000_000, 0
        sent = asyncio.ensure_future(loop.sock_sendall(peer, big))
        while got < len(big):
            got += len(await loop.sock_recv(role, 1 << 16))
        await sent
        peer.close()
        assert await loop.sock_recv(role, 1) == b""
        await work

    asyncio.run(asyncio.wait_for(test(), 30))
