"""Scenes for the tests of fetching: gateways behind links, and servers that give, or do, what no gateway would."""

from __future__ import annotations

import asyncio
import contextlib

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import FileBuilder
from ipdc_edge.drivers.fetcher import AHEAD, Fetcher
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider
from tests.drivers.links import Link

MB = 1 << 20


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


async def read(fetcher, root, size, providers, start=0):
    """The bytes from `start`, which come in order and without a gap."""
    parts = []
    async for offset, data in fetcher.file_blocks(root, start, size, providers):
        assert not parts or offset == parts[-1][0] + len(parts[-1][1])
        parts.append((offset, data))
    return b"".join(data for _, data in parts)[start - parts[0][0] :] if parts else b""


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
