"""What a role's network may ask of the daemon, and who may enter: real sockets, and a gateway that is not asked."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from ipdc_edge.core.values import JobKey
from ipdc_edge.daemon import tunnels as module
from ipdc_edge.daemon.background import Background
from ipdc_edge.daemon.tunnels import End, Tunnels, let_in, relay

A, B, C = "Qm" + "a" * 44, "Qm" + "b" * 44, "Qm" + "c" * 44
KEY = JobKey(A, "20260101-000000-abcd")
PATH = f"/ipdc/tunnel/{KEY.job}/{A}/local-0"


class Role:
    """The inner end of a role's tunnels, as the user's code could have it."""

    def __init__(self) -> None:
        self.members, self.address = {A, B, C}, ""  # of the domain; where a node is said to be
        self.tunnels = Tunnels(ssl.create_default_context(), lambda node: self.asked.append(node) or self.address,
                               lambda node: node in self.members, Background())
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


@pytest.mark.parametrize("address", [
    "127.0.0.1:99999", "127.0.0.1:" + "9" * 5000, "x\0y:80", "127.0.0.1:-1", "x" * 99 + ":1"])
def test_an_address_that_is_none_is_the_peer_s_fault(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(role: Role) -> None:
        role.address = address
        for _ in range(3):
            one, other = pair()
            role.say(b"to local-1", one.fileno())
            one.close()
            other.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(other, 1) == b""

    assert run(test).asked
    told = "".join(capsys.readouterr())
    assert "Traceback" not in told and told.count("cannot reach") == 1  # the journal lies on flash


def test_what_goes_to_an_expelled_node_ends_and_none_goes_there_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_WITHIN", 600.0)

    async def test(role: Role) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and says nothing
            role.address = f"127.0.0.1:{silent.getsockname()[1]}"
            one, other = pair()
            other.setblocking(False)
            role.say(b"to local-1", one.fileno())
            one.close()
            while not role.asked:
                await asyncio.sleep(0)
            role.tunnels.cut({C})
            await soon()
            (task,) = role.end.tasks
            assert not task.done()
            role.members.remove(B)
            role.tunnels.cut({B})
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(other, 1), 20) == b""
            await soon()
            assert not role.end.tasks
            again, far = pair()
            far.setblocking(False)
            role.say(b"to local-1", again.fileno())
            again.close()
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
            silent.setblocking(False)
            silent.accept()[0].close()
            with pytest.raises(BlockingIOError):
                silent.accept()

    run(test)


@pytest.mark.parametrize("answer, words", [
    (b"x" * 200_000, "has no end"), (b"HTTP/1.1 101 x\r\nx: " + b"y" * 3000 + b"\r\n\r\n", "3023 bytes"),
    (b"HTTP/1.1 101", "hung up"), (b"HTTP/1.1 403 \x1b[2J\r\n\r\n", r"403 .x1b"),
])
def test_what_a_gateway_answers_is_bounded(answer: bytes, words: str) -> None:
    async def test() -> None:
        reader = asyncio.StreamReader(module.PIECE)
        reader.feed_data(answer)
        reader.feed_eof()
        with pytest.raises(ValueError, match=words):
            await let_in(reader)

    asyncio.run(test())


def test_a_role_that_would_have_us_wait_when_we_close_does_not() -> None:
    async def test(role: Role) -> None:
        one, other = pair()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        role.say(b"no 7", one.fileno())  # closed where it is
        await soon()
        found = one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("ii", found)[0] == 0
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 600))
        outer, peer = pair()
        reader, writer = await asyncio.open_connection(sock=outer)
        work = asyncio.ensure_future(relay(socket.socket(fileno=os.dup(one.fileno())), reader, writer))
        await soon()
        peer.close()
        await work
        found = one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("ii", found)[0] == 0
        other.close()

    run(test)


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


def test_no_more_enter_than_a_role_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)

    async def test(role: Role) -> None:
        over = asyncio.Event()

        async def carried() -> object:
            found = await role.tunnels.enter(PATH, B)
            if not isinstance(found, str):
                await over.wait()
            return found

        async def entered(number: int) -> asyncio.Future[object]:
            carries = asyncio.ensure_future(carried())
            await soon()
            assert role.inner.recv(64) == b"in %d" % number
            one, _ = pair()
            role.say(b"in %d" % number, one.fileno())
            await soon()
            return carries

        first = [await entered(1), await entered(2)]
        assert await carried() == "this role has too many connections"
        over.set()
        await asyncio.gather(*first)
        await soon()
        await entered(3)

    run(test)


def test_a_stranger_who_knocks_and_knocks_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(role: Role) -> None:
        for _ in range(50):
            await role.tunnels.enter(PATH, C)

    run(test)
    assert capsys.readouterr().err.count("asked for a tunnel") == 1


def test_with_its_role_a_tunnel_ends() -> None:
    async def test(role: Role) -> None:
        waits = asyncio.ensure_future(role.tunnels.enter(PATH, B))
        await soon()
        role.tunnels.close(role.end)
        assert await waits == "the role does not listen yet"
        assert await role.tunnels.enter(PATH, B) == "no such role for you"

    run(test)


def test_the_end_of_an_attempt_leaves_the_way_in_of_the_next_one() -> None:
    async def test(role: Role) -> None:
        ours, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        later = End(KEY, "local-0", frozenset({A, B}), {"local-1": B}, ours)
        role.tunnels.open(later)
        role.tunnels.close(role.end)
        assert role.tunnels.ends == {(KEY, "local-0"): later} and role.tunnels.speaking == [later]
        role.tunnels.close(later)
        assert not role.tunnels.ends and not role.tunnels.speaking
        ours.close()
        inner.close()

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


def test_the_last_bytes_get_over_a_slow_way_too() -> None:
    """As at a gateway, which drops whatever is left when the relay has returned."""
    async def test() -> None:
        one, role = pair()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            outer = socket.socket()
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
            outer.connect(server.getsockname())
            peer = server.accept()[0]
        reader, writer = await asyncio.open_connection(sock=outer)
        loop = asyncio.get_running_loop()
        peer.setblocking(False)
        role.setblocking(False)

        async def carried() -> None:
            await relay(one, reader, writer)
            with suppress(AttributeError):  # one without TLS cannot be ended twice
                writer.transport.abort()

        work = asyncio.ensure_future(carried())
        await loop.sock_sendall(role, b"x" * 60_000)
        role.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(role, 1) == b""  # the relay has ended this side
        got = 0
        while data := await loop.sock_recv(peer, 1 << 16):
            got += len(data)
        assert got == 60_000
        await work

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_role_whose_process_falls_silent_is_lost_and_its_work_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_FOR", 0.05)
    ended: list[str] = []

    async def work() -> dict[str, object]:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("ended")
        return {}

    async def test(role: Role) -> None:
        with pytest.raises(module.RoleSilent, match=r"watches local-0 has said nothing for 0\.05 s"):
            await module.while_heard(role.end, work())

    run(test)
    assert ended == ["ended"]


def test_a_role_that_waits_for_this_node_s_disk_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can say nothing while what it wrote is written here, however long that takes."""
    monkeypatch.setattr(module, "SILENT_FOR", 0.02)
    wrote: list[bytes] = []

    async def test(role: Role) -> None:
        async def slow(stream: int, data: bytes) -> None:
            await asyncio.sleep(0.1)
            wrote.append(data)

        async def work() -> dict[str, object]:
            role.end.heard = 0.0
            await module.written_for(role.end, slow)(0, b"weights")
            assert role.end.heard > 0.0 and not role.end.ours
            return {"done": 1}

        assert await module.while_heard(role.end, work()) == {"done": 1}

        async def fails(stream: int, data: bytes) -> None:
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            await module.written_for(role.end, fails)(0, b"weights")
        assert not role.end.ours

    run(test)
    assert wrote == [b"weights"]


def test_every_word_of_a_role_counts_as_life() -> None:
    async def test(role: Role) -> None:
        for words in (b"alive", b"no 7", b"what"):
            role.end.heard = 0.0
            role.say(words)
            await soon()
            assert role.end.heard > 0.0, words
        future: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, {"done": 1})
        assert await module.while_heard(role.end, future) == {"done": 1}

    run(test)


def test_a_role_that_does_not_begin_is_told_and_its_start_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARTS_WITHIN", 0.05)

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async def slow_inside() -> None:
        raise TimeoutError("its own")

    with pytest.raises(module.RoleNotStarted, match=r"watches local-1 did not begin within 0\.05 s"):
        asyncio.run(module.started(never(), "local-1"))
    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(module.started(slow_inside(), "local-1"))
