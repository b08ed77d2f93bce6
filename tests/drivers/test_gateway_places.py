"""Who has a place at the gateway: those that are refused take nobody's, and what is used is not made room of."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.gateway import PRINTS, Gateway
from tests.waiting import eventually_async

HOST = b" HTTP/1.1\r\nHost: a\r\n\r\n"
PROBE = b"GET /ipfs/bafkqaaa?format=raw" + HOST
TUNNEL = b"GET /ipdc/tunnel/x HTTP/1.1\r\nHost: a\r\nUpgrade: ipdc-tunnel\r\nConnection: Upgrade\r\n\r\n"
DATA = os.urandom(CHUNK)


@pytest.fixture()
def store(tmp_path):
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    store.put(raw_cid(DATA), DATA, "user")
    yield store
    store.close()


def serve(store, check, **options):
    async def main():
        gateway = Gateway(store, "0.0.0.0", 0, None, lambda node: True, lambda line: None, **options)
        await gateway.start()
        try:
            await check(gateway)
        finally:
            await gateway.close()

    asyncio.run(main())


async def connect(gateway, source="127.0.0.1"):
    """Without TLS a peer is its address. Little is on the way: it takes what it reads and hardly more."""
    return await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(source, 0), limit=1024)


async def answer(stream, request=PROBE):
    """The status of what comes back; the head is read, and of a probe there is nothing more."""
    reader, writer = stream
    writer.write(request)
    async with asyncio.timeout(20):
        return int((await reader.readuntil(b"\r\n\r\n")).split()[1])


def test_whoever_is_refused_takes_nobodys_place(store):
    """They are silent, and stay as long as they may: a refusal waits until its peer has taken it."""

    async def check(gateway):
        idle = await connect(gateway, "127.0.0.12")
        assert await answer(idle) == 200
        many = [await connect(gateway, "127.0.0.2") for _ in range(12)]
        await eventually_async(lambda: gateway.counters["refused"] == 10, "all but two are refused")
        assert list(gateway._refusing.values()) == ["127.0.0.2"] * 8, "the others get not even an answer"
        assert sorted(gateway._open.values()) == ["127.0.0.12", "127.0.0.2", "127.0.0.2"]
        another = await connect(gateway, "127.0.0.11")  # kept: some Pythons close what nobody has any more
        assert await answer(another) == 200
        assert await answer(idle) == 200
        gateway.cut({"127.0.0.2"})
        await eventually_async(lambda: not gateway._refusing, "those being refused are cut too")
        assert sorted(gateway._open.values()) == ["127.0.0.11", "127.0.0.12"]
        for _, writer in many:
            writer.close()

    serve(store, check, connections=8, per_peer=2, idle=600, patience=600)


class Echo:
    """What is behind a tunnel: it says again what it hears."""

    async def enter(self, path, peer):
        return socket.socketpair()[0]

    async def carry(self, inner, reader, writer):
        inner.close()
        while data := await reader.read(100):
            writer.write(data)


def made_full(store, check, **options):
    """One place, and who had it was answered before: it waited, and does so no more."""

    async def first(gateway):
        used = await connect(gateway)
        assert await answer(used) == 200
        await eventually_async(lambda: gateway._unused, "it waits")
        await check(gateway, used)

    serve(store, first, connections=1, idle=600, patience=600, **options)


def test_an_answer_that_is_under_way_is_not_made_room_of(store):
    async def check(gateway, used):
        for _ in range(20):  # more than all buffers on the way hold
            used[1].write(f"GET /ipfs/{raw_cid(DATA)}?format=raw".encode() + HOST)
        await used[0].readuntil(b"\r\n\r\n")
        assert await answer(await connect(gateway, "127.0.0.2")) == 503
        assert await used[0].readexactly(len(DATA)) == DATA
        for _ in range(19):
            await used[0].readuntil(b"\r\n\r\n")
            assert await used[0].readexactly(len(DATA)) == DATA

    made_full(store, check)


def test_a_request_that_has_begun_to_come_is_not_made_room_of(store):
    async def check(gateway, used):
        used[1].write(PROBE[:20])
        await eventually_async(lambda: not gateway._unused, "its beginning is here")
        assert await answer(await connect(gateway, "127.0.0.2")) == 503
        assert await answer(used, PROBE[20:]) == 200

    made_full(store, check)


def test_a_refusal_of_what_is_no_request_is_not_made_room_of(store):
    """It may still be on its way."""

    async def check(gateway, used):
        assert await answer(used, b"no request\r\n\r\n") == 400
        assert not gateway._unused and len(gateway._open) == 1, "it waits for its peer to have taken that"
        assert await answer(await connect(gateway, "127.0.0.2")) == 503
        assert b"HTTP" not in await used[0].read(1000)

    made_full(store, check)


def test_a_log_that_is_followed_is_not_made_room_of(store):
    async def check(gateway, used):
        more = asyncio.Event()

        async def printed():
            yield b"one\n"
            await more.wait()
            yield b"two\n"

        gateway.prints = lambda job, peer: printed()
        assert await answer(used, f"GET {PRINTS}?job=x".encode() + HOST) == 200
        assert (await used[0].readuntil(b"one\n")).endswith(b"one\n")
        assert await answer(await connect(gateway, "127.0.0.2")) == 503
        more.set()
        assert (await used[0].readuntil(b"two\n")).endswith(b"two\n")

    made_full(store, check)


def test_a_tunnel_is_not_made_room_of(store):
    async def check(gateway, used):
        gateway.tunnel = Echo()
        assert await answer(used, TUNNEL) == 101
        others = []
        for source in ("127.0.0.2", "127.0.0.3"):  # it takes no place of those for content; the second evicts the first
            others.append(await connect(gateway, source))
            assert await answer(others[-1]) == 200
            await eventually_async(lambda: gateway._unused, "it waits")
        assert list(gateway._open.values()) == ["127.0.0.3"]
        used[1].write(b"still here")
        assert await used[0].readexactly(10) == b"still here"

    made_full(store, check)
