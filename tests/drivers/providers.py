"""Scenes for the tests of fetching: stores and files, gateways behind links, and servers that give, or do, what no
gateway would."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import FileBuilder, dag_pb_cid, directory_block, parse_node
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import AHEAD, Fetcher
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider
from tests.drivers.links import Link

MB = 1 << 20
CAP = 20e6 / 8  # bytes a second
FAST = 1e9
NEVER = 3600.0  # seconds: what a test with this would wait for does not come


@pytest.fixture()
def stores(tmp_path):
    """Three stores: the fetcher's own, which is empty, and two that are served."""
    stores = [BlockStore(str(tmp_path / name), 64 << 20) for name in ("own", "first", "second")]
    yield stores
    for store in stores:
        store.close()


def at(address):
    """A provider that is asked plainly: who it is does not matter. test_tls.py is about that."""
    return Provider("Qm", address)


def put(store, data):
    store.put(raw_cid(data), data, "user")
    return raw_cid(data)


def put_file(store, data, chunk, links=3):
    """Store a file of small chunks; its root."""
    builder = FileBuilder(links)
    blocks = []
    for begin in range(0, len(data), chunk):
        blocks += builder.add(put(store, data[begin : begin + chunk]), len(data[begin : begin + chunk]))
    root, _, last = builder.finish()
    for cid, block in blocks + last:
        store.put(cid, block, "user")
    return root


def leaves(store, root):
    """The CIDs of a file's blocks."""
    return [link.cid for link in parse_node(root, store.get(root)).links]


def lose(store, cid):
    """A disk has lost a block of which the index knows."""
    os.unlink(os.path.join(store.directory, cid[-2:], cid))


def put_wrapped(store, data):
    """Store a leaf as older tools make it: its bytes stand in a node. Its CID."""
    size = bytes([len(data)])
    unixfs = b"\x08\x02\x12" + size + data + b"\x18" + size
    block = b"\x0a" + bytes([len(unixfs)]) + unixfs
    store.put(dag_pb_cid(block), block, "user")
    return dag_pb_cid(block)


def put_what_is_no_file(store):
    """The roots of a file whose last block is shorter than its parent says, of a directory, and of a tree that is too
    deep."""
    builder = FileBuilder()
    builder.add(put(store, b"abc"), 3)
    builder.add(put(store, b"de"), 3)
    root, _, ((_, block),) = builder.finish()
    store.put(root, block, "user")
    directory, block = directory_block([("a", root, 1)])
    store.put(directory, block, "user")
    deep = put(store, b"x")
    for _ in range(20):
        chain = FileBuilder()
        chain.add(deep, 1)
        deep, block = chain._close(0)
        store.put(deep, block, "user")
    return root, directory, deep


# --- gateways


@contextlib.asynccontextmanager
async def nodes(*kinds, ssl=None):
    """A gateway behind a link for each (store, rate, options): the links, and the providers at their ends."""
    async with contextlib.AsyncExitStack() as stack:
        links, providers = [], []
        for store, rate, options in kinds:
            gateway = Gateway(store, "127.0.0.1", 0, ssl, lambda node: True, lambda line: None)
            await gateway.start()
            stack.push_async_callback(gateway.close)
            links.append(Link(gateway.port, rate, **options))
            providers.append(at(f"127.0.0.1:{await links[-1].open()}"))
            stack.push_async_callback(links[-1].close)
        yield links, providers


@contextlib.asynccontextmanager
async def fetching(store, ssl=None, **options):
    """A fetcher that gives back all that it took."""
    fetcher = Fetcher(store, ssl, **options)
    yield fetcher
    assert fetcher.room == AHEAD
    assert all(speed.left == 0 and not speed._under_way for speed in fetcher.speeds.values())
    assert not any(pool.users or pool.places.locked() for pool in fetcher._pools.values())
    await fetcher.close()


def run_with_gateways(stores, check, gateway_options=None, **options):
    """`check(fetcher, gateways, providers)` with a gateway for each store but the first."""

    async def main():
        everybody = (None, lambda node: True, lambda line: None)
        gateways = [Gateway(store, "127.0.0.1", 0, *everybody, **(gateway_options or {})) for store in stores[1:]]
        for gateway in gateways:
            await gateway.start()
        fetcher = Fetcher(stores[0], None, **options)
        try:
            return await check(fetcher, gateways, [at(f"127.0.0.1:{gateway.port}") for gateway in gateways])
        finally:
            await fetcher.close()
            for gateway in gateways:
                await gateway.close()

    return asyncio.run(main())


async def read(fetcher, root, size, providers, start=0):
    """The bytes from `start`, which come in order and without a gap."""
    parts = []
    async for offset, data in fetcher.file_blocks(root, start, size, providers):
        assert not parts or offset == parts[-1][0] + len(parts[-1][1])
        parts.append((offset, data))
    return b"".join(data for _, data in parts)[start - parts[0][0] :] if parts else b""


class TooSlow(AssertionError):
    """It took longer than is promised: once where the machine had much else to do, each time where it is our fault."""


def run_bounded(main, tries=3):
    """A test may not wait for what does not come."""
    async def bounded():
        async with asyncio.timeout(60):
            await main()

    for left in reversed(range(tries)):
        try:
            return asyncio.run(bounded())
        except TooSlow:
            if not left:
                raise


def in_time(took, most):
    """What is promised of how long it takes."""
    if took > most:
        raise TooSlow(f"{took} s, at most {most}")


def keep_node(stores, cid):
    """So that only leaves are to be fetched."""
    stores[0].put(cid, stores[1].get(cid), "user")


def in_each(links):
    """How many blocks each was asked for."""
    return [len(link.asked) for link in links]


# --- providers that mean no good


@contextlib.asynccontextmanager
async def provider(answer):
    """A server that reads a request head and gives `answer`: bytes, then closing, or a coroutine function."""

    async def accepted(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if callable(answer):
                await answer(reader, writer)
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    async with server:
        yield at(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def silent(reader, writer):
    await reader.read()


async def dripping(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")  # whole after 8 s at the earliest
    left = asyncio.ensure_future(reader.read())
    while not (await asyncio.wait((left,), timeout=0.02))[0]:  # a byte each time, until the asker leaves
        writer.write(b"h")
    await left


async def endless(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()


async def crumbs(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n" * 10_000)
        await writer.drain()


async def always_continuing(reader, writer):
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await writer.drain()


async def lying(reader, writer):
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MB + bytes(MB))
            await writer.drain()
