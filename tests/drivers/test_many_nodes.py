"""More nodes than a gateway has places, all at once, as a job's workers come for its code."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers import gateway_door, provider
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider
from ipdc_edge.drivers.tls import client_context, server_context
from tests.drivers.certificates import Domain
from tests.waiting import eventually_async

DATA = b"the code of a job"
NODES = 3 * gateway_door.PER_SOURCE


@pytest.fixture
def scene(tmp_path):
    """Stores of the asking and the answering side, and certificates of the nodes; the gateway's is the first."""
    domain = Domain(str(tmp_path / "domain"))
    stores = [BlockStore(str(tmp_path / name), 64 << 20) for name in ("here", "there")]
    yield stores, [domain.admit(f"node{number}") for number in range(NODES + 1)]
    for store in stores:
        store.close()


def run(scene, check, **options):
    """`check(gateway, provider, fetchers)`, with a fetcher for each node."""
    stores, (own, *nodes) = scene
    stores[1].put(raw_cid(DATA), DATA, "user")

    async def main():
        tls = server_context(own)
        gateway = Gateway(stores[1], "127.0.0.1", 0, tls, lambda node: True, lambda line: None, **options)
        await gateway.start()
        fetchers = [Fetcher(stores[0], client_context(node)) for node in nodes]
        try:
            await check(gateway, Provider(own.id, f"127.0.0.1:{gateway.port}"), fetchers)
        finally:
            for fetcher in fetchers:
                await fetcher.close()
            await gateway.close()

    asyncio.run(main())


def test_all_nodes_of_one_address_get_the_block(scene):
    """A lab, or boards behind one router: handshakes beyond PER_SOURCE are refused, and tried again."""

    async def check(gateway, there, fetchers):
        found = await asyncio.gather(*(fetcher.block(raw_cid(DATA), [there]) for fetcher in fetchers))
        assert found == [DATA] * NODES
        assert gateway.counters["refused"] > 0  # or there was nothing to see here

    run(scene, check)


def test_nodes_that_keep_their_connections_leave_room_for_others(scene):
    async def check(gateway, there, fetchers):
        for _ in range(2):
            for fetcher in fetchers:
                assert await fetcher.block(raw_cid(DATA), [there]) == DATA
        assert len(gateway._open) <= 3 and sum(fetcher.counters["faults"] for fetcher in fetchers) == 0

    run(scene, check, connections=3)


def test_it_gives_up_where_no_place_becomes_free(scene, monkeypatch):
    monkeypatch.setattr(provider, "BUSY", 0.3)

    async def check(gateway, there, fetchers):
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(gateway_door.PER_SOURCE)]
        await eventually_async(lambda: len(gateway._door._handshakes) == len(held), "all places are taken")
        with pytest.raises(BlockUnavailable, match=r"no connection \("):
            await fetchers[0].block(raw_cid(DATA), [there])
        assert gateway.counters["refused"] > 1
        for stranger in held:
            stranger.close()
        await eventually_async(lambda: not gateway._door._handshakes, "they have gone")
        assert await fetchers[0].block(raw_cid(DATA), [there]) == DATA

    run(scene, check)
