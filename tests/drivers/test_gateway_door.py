"""The gateway's door: strangers who hold places, members who still get in, expulsion in the middle of an answer."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK
from ipdc_edge.drivers import gateway_door
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.tls import client_context, server_context
from tests.drivers.certificates import Domain
from tests.waiting import eventually_async

PROBE = b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: a\r\n\r\n"


class Scene:
    """A gateway whose members are `members`, and what it noted."""

    def __init__(self, tmp_path) -> None:
        domain = Domain(str(tmp_path / "domain"))
        self.own, self.one, self.two = (domain.admit(name) for name in ("own", "one", "two"))
        self.members = {self.one.id, self.two.id}
        self.notes: list[str] = []
        self.store = BlockStore(str(tmp_path / "blocks"), 64 << 20)

    def run(self, check, **options):
        async def main():
            admits = self.members.__contains__
            gateway = Gateway(self.store, "0.0.0.0", 0, server_context(self.own), admits, self.notes.append, **options)
            await gateway.start()
            try:
                return await check(gateway)
            finally:
                await gateway.close()

        try:
            return asyncio.run(main())
        finally:
            self.store.close()


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


async def connect(gateway, who, source="127.0.0.1"):
    return await asyncio.open_connection("127.0.0.1", gateway.port, ssl=client_context(who), local_addr=(source, 0))


async def answered(stream, request=PROBE):
    """Whether a request is answered; False where the connection has ended."""
    reader, writer = stream
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    except (ConnectionError, asyncio.IncompleteReadError, OSError):
        return False


async def silent(gateway, source):
    """A TCP connection that says nothing."""
    loop = asyncio.get_running_loop()
    stranger = socket.socket()
    stranger.setblocking(False)
    stranger.bind((source, 0))
    await loop.sock_connect(stranger, ("127.0.0.1", gateway.port))
    return stranger


async def is_closed(stranger):
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(stranger, 1), 10) == b""
    except ConnectionError:
        return True


async def crowd(gateway, count=gateway_door.HANDSHAKES):
    """Strangers on every place, four from each of many addresses."""
    found = [await silent(gateway, f"127.0.1.{n // gateway_door.PER_SOURCE + 1}") for n in range(count)]
    await eventually_async(lambda: len(gateway._door._handshakes) == count, "all places are taken")
    return found


def test_one_source_has_four_handshakes(scene):
    async def check(gateway):
        held = [await silent(gateway, "127.0.0.9") for _ in range(gateway_door.PER_SOURCE)]
        await eventually_async(lambda: len(gateway._door._handshakes) == len(held), "four are under way")
        assert await is_closed(await silent(gateway, "127.0.0.9"))
        assert len(gateway._door._handshakes) == len(held)
        assert await answered(await connect(gateway, scene.one))  # others are not concerned
        assert gateway.counters["refused"] == 1 and len(scene.notes) == 1 and "127.0.0.9 was refused" in scene.notes[0]

    scene.run(check)


def test_a_silent_stranger_is_dropped_after_the_handshakes_time(scene, monkeypatch):
    monkeypatch.setattr(gateway_door, "HANDSHAKE_SECONDS", 0.2)

    async def check(gateway):
        assert await is_closed(await silent(gateway, "127.0.0.9"))
        assert not gateway._door._handshakes and not gateway._door._tasks and len(scene.notes) == 1

    scene.run(check)


def test_a_thousand_tries_of_one_source_are_one_note(scene):
    async def check(gateway):
        for _ in range(100):
            stranger = await silent(gateway, "127.0.0.9")
            await asyncio.get_running_loop().sock_sendall(stranger, b"GET / HTTP/1.1\r\n\r\n" * 100)
            assert not (await _rest(stranger)).startswith(b"HTTP")
            stranger.close()
        assert gateway.counters["refused"] == 100 and len(scene.notes) == 1
        assert "127.0.0.9 was refused" in scene.notes[0]
        await eventually_async(lambda: not gateway._door._tasks, "nothing is left of them")

    scene.run(check)


async def _rest(stranger):
    try:
        return await asyncio.get_running_loop().sock_recv(stranger, 1000)
    except ConnectionError:
        return b""


def test_when_all_places_are_taken_members_known_by_their_source_go_first(scene):
    async def check(gateway):
        assert await answered(await connect(gateway, scene.one, "127.0.0.2"))
        strangers = await crowd(gateway)
        with pytest.raises(OSError):
            await connect(gateway, scene.two, "127.0.0.3")  # from where nobody ever came
        assert await answered(await connect(gateway, scene.two, "127.0.0.2"))
        assert await is_closed(strangers[0])  # the oldest made room
        assert len(gateway._door._handshakes) == len(strangers) - 1
        # a member's handshake does not make room for another
        for n in range(gateway_door.HANDSHAKES):
            gateway._door._members[f"127.0.1.{n}"] = asyncio.get_running_loop().time()
        strangers[0] = await silent(gateway, "127.0.0.5")
        await eventually_async(lambda: len(gateway._door._handshakes) == len(strangers), "full again")
        gateway._door._members["127.0.0.5"] = asyncio.get_running_loop().time()
        with pytest.raises(OSError):
            await connect(gateway, scene.one, "127.0.0.2")

    scene.run(check)


def test_a_member_of_long_ago_is_a_stranger_again(scene, monkeypatch):
    monkeypatch.setattr(gateway_door, "LATELY", 0.0)

    async def check(gateway):
        assert await answered(await connect(gateway, scene.one, "127.0.0.2"))
        strangers = await crowd(gateway)
        with pytest.raises(OSError):
            await connect(gateway, scene.one, "127.0.0.2")
        assert len(gateway._door._handshakes) == len(strangers)

    scene.run(check)


def test_the_tables_are_bounded(scene):
    async def check(gateway):
        for n in range(3 * gateway_door.SOURCES):
            gateway._door._remember(f"source {n}")
        assert list(gateway._door._members) == [f"source {n}" for n in range(2 * 256, 3 * 256)]
        gateway._door._remember("source 600")
        assert list(gateway._door._members)[-1] == "source 600" and len(gateway._door._members) == 256
        for n in range(3 * gateway_door.SOURCES):
            gateway._door._fail(f"source {n}")
        assert len(gateway._door._failed) == 256

    scene.run(check)


def test_who_fails_too_often_a_second_gets_no_handshake(scene, monkeypatch):
    """Until they are made up for; others are not concerned, nor is a source from which members come."""
    monkeypatch.setattr(gateway_door, "FAILURES", 5)
    now = [1000.0]
    monkeypatch.setattr(gateway_door, "_now", lambda: now[0])

    async def fail(gateway, source):
        stranger = await silent(gateway, source)
        before = gateway.counters["refused"]
        try:
            await asyncio.get_running_loop().sock_sendall(stranger, b"GET / HTTP/1.1\r\n\r\n")
        except ConnectionError:
            pass
        await _rest(stranger)
        await eventually_async(lambda: gateway.counters["refused"] > before, "it is refused")
        stranger.close()

    async def check(gateway):
        door = gateway._door
        assert await answered(await connect(gateway, scene.one, "127.0.0.2"))
        for _ in range(20):
            await fail(gateway, "127.0.0.2")
            await fail(gateway, "127.0.0.9")
        assert door._failed["127.0.0.9"] <= now[0] + 1 + 2 / gateway_door.FAILURES  # further ones cost nothing more
        with pytest.raises(OSError):
            await connect(gateway, scene.one, "127.0.0.9")
        assert await answered(await connect(gateway, scene.one, "127.0.0.2"))
        assert await answered(await connect(gateway, scene.two, "127.0.0.3"))
        now[0] += 0.5
        assert await answered(await connect(gateway, scene.one, "127.0.0.9"))

    scene.run(check)


def test_the_address_of_an_expelled_member_is_a_strangers(scene):
    async def check(gateway):
        assert await answered(await connect(gateway, scene.one, "127.0.0.2"))
        assert "127.0.0.2" in gateway._door._members
        scene.members.discard(scene.one.id)
        assert not await answered(await connect(gateway, scene.one, "127.0.0.2"))
        assert "127.0.0.2" not in gateway._door._members and "127.0.0.2" in gateway._door._failed

    scene.run(check)


def test_who_is_no_member_is_let_into_nothing(scene):
    async def check(gateway):
        scene.members.discard(scene.one.id)
        assert not await answered(await connect(gateway, scene.one))
        assert gateway.counters["connections"] == 0
        assert scene.notes == [f"gateway: a connection from 127.0.0.1 was refused: {scene.one.id} is not a member"]
        assert "127.0.0.1" not in gateway._door._members  # nor is its source a member's

    scene.run(check)


def test_cut_ends_an_expelled_members_connections_in_the_middle_of_an_answer(scene):
    data = os.urandom(CHUNK)
    scene.store.put(raw_cid(data), data, "user")
    request = f"GET /ipfs/{raw_cid(data)}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    async def check(gateway):
        idle, busy, other = [await connect(gateway, who) for who in (scene.one, scene.one, scene.two)]
        assert await answered(idle) and await answered(other)
        busy[1].write(request * 20)
        await busy[0].readexactly(1000)
        await eventually_async(lambda: len(gateway._open) == 3, "all are in")
        scene.members.discard(scene.one.id)
        gateway.cut({scene.one.id})
        await eventually_async(lambda: list(gateway._open.values()) == [scene.two.id], "one is out")
        for reader, _ in (idle, busy):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(30 * CHUNK), 10)
        assert await answered(other)
        assert not await answered(await connect(gateway, scene.one))

    scene.run(check)


def test_connections_are_counted_by_node_not_by_address(scene):
    async def check(gateway):
        held = [await connect(gateway, scene.one, f"127.0.0.{n}") for n in (2, 3)]
        assert [await answered(stream) for stream in held] == [True, True]
        reader, writer = await connect(gateway, scene.one, "127.0.0.4")
        writer.write(PROBE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
        assert await answered(await connect(gateway, scene.two, "127.0.0.2"))

    scene.run(check, per_peer=2)


def test_slow_and_deaf_peers_end_under_tls_too(scene):
    data = os.urandom(CHUNK)
    scene.store.put(raw_cid(data), data, "user")
    request = f"GET /ipfs/{raw_cid(data)}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    async def check(gateway):
        reader, writer = await connect(gateway, scene.one)
        stop = asyncio.ensure_future(reader.read())
        for byte in PROBE:  # a byte each time, far slower than the gateway's patience
            writer.write(bytes([byte]))
            if (await asyncio.wait((stop,), timeout=0.1))[0]:
                break
        assert stop.done() and b" 408 " in stop.result()
        deaf = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=client_context(scene.two), limit=1024)
        deaf[1].write(request * 50)
        await deaf[0].readexactly(10)
        deaf[1].transport.pause_reading()
        await eventually_async(lambda: not gateway._open, "both are gone")
        assert gateway.counters["refused"] == 2
        deaf[1].transport.abort()

    scene.run(check, patience=0.5)


def test_a_stranger_who_leaves_in_the_handshake_leaves_nothing(scene):
    async def check(gateway):
        before = len(os.listdir("/proc/self/fd"))
        for n in range(50):
            stranger = await silent(gateway, f"127.0.2.{n + 1}")
            if n % 2:
                await asyncio.get_running_loop().sock_sendall(stranger, b"\x16\x03\x01\x02\x00\x01")
            stranger.close()
        await eventually_async(lambda: not gateway._door._tasks, "all are gone")
        await eventually_async(lambda: len(os.listdir("/proc/self/fd")) <= before, "and their descriptors")

    scene.run(check)


def test_close_ends_handshakes_too(scene):
    async def check(gateway):
        strangers = await crowd(gateway, 8)
        await gateway.close()
        assert [await is_closed(stranger) for stranger in strangers] == [True] * 8
        assert not gateway._door._tasks

    scene.run(check)
