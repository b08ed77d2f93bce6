"""The fetcher against real gateways over loopback, and against providers that fail, stall, and lie."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from ipdc_edge.codec.cid import BadCid, raw_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK
from ipdc_edge.drivers.fetcher import BlockUnavailable
from ipdc_edge.drivers.importer import import_file
from ipdc_edge.drivers.provider import ProviderFault, ProviderPool
from tests.drivers.providers import (
    always_continuing,
    at,
    crumbs,
    dripping,
    endless,
    provider,
    put,
    run_with_gateways,
    silent,
)
from tests.drivers.providers import stores as stores  # a fixture
from tests.waiting import eventually_async

DATA = b"hello world"
CID = raw_cid(DATA)
NOWHERE = at("127.0.0.1:1")


def test_a_page_of_a_gateway_and_what_is_wrong_with_it(stores):
    async def page(query):
        return "x" * 1000

    async def check(fetcher, gateways, providers):
        pool = ProviderPool(providers[0], None, 5)
        assert await pool.page("/page", 2000) == b"x" * 1000 + b"\n"
        with pytest.raises(ProviderFault, match="more than 500 bytes"):
            await pool.page("/page", 500)
        with pytest.raises(ProviderFault, match="404"):
            await pool.page("/none", 500)
        with pytest.raises(ProviderFault, match="no connection"):
            await ProviderPool(NOWHERE, None, 5).page("/page", 500)
        assert pool.unused

    run_with_gateways(stores, check, {"pages": {"/page": page}})


# --- blocks


def test_the_own_store_is_asked_first(stores):
    put(stores[0], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, providers) == DATA
        assert await fetcher.block("bafkqaaa", []) == b""
        assert gateways[0].counters["connections"] == 0
        assert fetcher.counters == {"blocks": 0, "bytes": 0, "own": 2, "faults": 0}

    run_with_gateways(stores, check)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, CHUNK, MAX_BLOCK])
def test_a_block_comes_from_a_gateway(stores, size):
    data = os.urandom(size)
    cid = put(stores[1], data)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(cid, providers) == data
        assert gateways[0].counters == {"blocks": 1, "bytes": size, "refused": 0, "connections": 1}
        assert not stores[0].has(cid)  # fetching is not keeping

    run_with_gateways(stores, check)


def test_the_next_provider_is_asked_when_one_fails(stores):
    put(stores[2], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, [NOWHERE, at("nonsense"), at("127.0.0.1:99999"), *providers]) == DATA
        assert gateways[0].counters["refused"] == 1 and gateways[1].counters["blocks"] == 1
        assert fetcher.counters["faults"] == 4

    run_with_gateways(stores, check)


def test_when_nobody_has_it_every_reason_is_named(stores):
    async def check(fetcher, gateways, providers):
        with pytest.raises(BlockUnavailable) as caught:
            await fetcher.block(CID, [NOWHERE, at("nonsense"), providers[0], providers[0]])
        message = str(caught.value)
        assert CID in message and caught.value.retry
        assert "127.0.0.1:1: no connection" in message and "nonsense: that is not host:port" in message
        assert f"{providers[0].address}: it answered 404 this block is not here" in message
        assert gateways[0].counters["connections"] == 1  # named twice, asked once
        with pytest.raises(BlockUnavailable, match="nobody was named"):
            await fetcher.block(CID, [])
        with pytest.raises(BadCid):
            await fetcher.block("../x", providers)

    run_with_gateways(stores, check)


def test_a_changed_reference_here_is_fetched_from_elsewhere_and_named_otherwise(stores, tmp_path):
    path = tmp_path / "input.txt"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        stores[0].add_reference(file.fileno(), root, interior, "user")
    path.write_bytes(b"other bytes")

    async def check(fetcher, gateways, providers):
        with pytest.raises(BlockUnavailable, match=r"input\.txt.*404"):
            await fetcher.block(CID, providers[:1])
        put(stores[1], DATA)
        assert await fetcher.block(CID, providers[:1]) == DATA

    run_with_gateways(stores, check)


# --- providers that mean no good


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"hello venus", "lied"),
        (HEAD + b"hello", "no proper HTTP"),
        (HEAD[:20], "no proper HTTP"),
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "lied"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", "announced '9999999999' bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", "announced"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "no proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "no proper HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"SSH-2.0-OpenSSH\r\n", "no proper HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "no proper HTTP"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (
            b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\na\x1b[2J\r\nb\0",
            r"answered 500 a \[2J b$|answered 500 a \[2J b\.",
        ),
        (b"HTTP/1.1 404 No\r\n\r\n" + b"z" * 100_000, r"answered 404 z{200}\."),
        (silent, "silent for 1 s"),
        (dripping, "within 1 s"),
        (endless, "more than 2097152 bytes"),
        (crumbs, r"sent 259 bytes in 259 pieces"),
        (always_continuing, "no proper HTTP"),
    ],
    ids=lambda value: getattr(value, "__name__", ascii(value)[:30]),
)
def test_a_bad_provider_is_dropped_and_the_next_one_serves(stores, answer, reason):
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        async with provider(answer) as bad:
            assert await fetcher.block(CID, [bad, providers[0]]) == DATA
            with pytest.raises(BlockUnavailable, match=reason) as caught:
                await fetcher.block(CID, [bad])
            assert len(str(caught.value)) < 600 and "\x1b" not in str(caught.value)
            for pool in fetcher._pools.values():
                # a bad connection is not kept
                assert len(pool._idle) == (1 if pool._provider == providers[0] else 0)

    # a short wait only where it is waited for: an honest gateway may be slow on a busy machine
    run_with_gateways(stores, check, **{silent: {"patience": 1}, dripping: {"deadline": 1}}.get(answer, {}))


# --- connections


def test_at_most_two_connections_a_provider_and_they_are_kept(stores):
    cids = [put(stores[1], os.urandom(100_000)) for _ in range(12)]

    async def check(fetcher, gateways, providers):
        blocks = await asyncio.gather(*(fetcher.block(cid, providers[:1]) for cid in cids))
        assert [raw_cid(block) for block in blocks] == cids
        assert gateways[0].counters["connections"] == 2
        for cid in cids:
            await fetcher.block(cid, providers[:1])
        assert gateways[0].counters["connections"] == 2
        await fetcher.close()
        await eventually_async(lambda: not gateways[0]._open, "both connections are closed")

    run_with_gateways(stores, check)


def test_a_connection_that_the_provider_closed_while_idle_is_no_fault(stores):
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, providers[:1]) == DATA
        assert len(gateways[0]._open) == 1
        await gateways[0].close()
        await gateways[0].start()
        assert await fetcher.block(CID, providers[:1]) == DATA
        assert gateways[0].counters["connections"] == 2 and fetcher.counters["faults"] == 0

    run_with_gateways(stores, check)


def test_an_idle_connection_is_closed_by_us(stores, monkeypatch):
    monkeypatch.setattr("ipdc_edge.drivers.provider._IDLE", 0.05)
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        await fetcher.block(CID, providers[:1])
        assert len(gateways[0]._open) == 1
        await eventually_async(lambda: not gateways[0]._open, "the idle connection is closed")
        assert await fetcher.block(CID, providers[:1]) == DATA

    run_with_gateways(stores, check)


def test_a_cancelled_call_leaves_no_half_read_connection(stores):
    async def check(fetcher, gateways, providers):
        asked, left = asyncio.Event(), asyncio.Event()

        async def begins(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + b"hello")
            asked.set()
            with contextlib.suppress(ConnectionResetError):  # what was sent may not have been read
                await reader.read()
            left.set()

        async with provider(begins) as mute:
            call = asyncio.ensure_future(fetcher.block(CID, [mute]))
            await eventually_async(asked.is_set, "the request has arrived")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert fetcher._pools[mute]._idle == []
            assert not fetcher._pools[mute].places.locked()
            await eventually_async(left.is_set, "the connection is closed")

    run_with_gateways(stores, check)


def test_addresses_that_serve_for_nothing_are_forgotten(stores):
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        await fetcher.block(CID, providers[:1])
        async with provider(silent) as mute:
            call = asyncio.ensure_future(fetcher.block(CID, [mute]))
            await eventually_async(lambda: mute in fetcher._pools, "it is asked")
            for port in range(50):
                with pytest.raises(BlockUnavailable):
                    await fetcher.block(CID, [at(f"127.0.0.1:{port}x")])
            # one has a connection, one is being asked, one is the last
            assert set(fetcher._pools) == {providers[0], mute, at("127.0.0.1:49x")}
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await fetcher.block(CID, providers[:1])
        assert gateways[0].counters["connections"] == 1

    run_with_gateways(stores, check)


# --- lines that come and come


def lines_of(answer, longest=100, most=10_000):
    """The lines that a provider gives."""
    async def main():
        found = []
        async with provider(answer) as node:
            lines = ProviderPool(node, None, 20).lines("/ipdc/prints?job=x", longest)
            async with contextlib.aclosing(lines):
                async for line in lines:
                    found.append(line)
                    if len(found) == most:
                        break
        return found

    return asyncio.run(main())


def chunked(*pieces):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def test_lines_of_single_bytes_do_not_keep_the_loop_busy():
    with pytest.raises(ProviderFault, match=r"sent \d+ bytes in \d+ pieces"):
        lines_of(chunked(*[b"x"] * 5000), 1 << 30)
    with pytest.raises(ProviderFault, match=r"sent \d+ bytes in \d+ pieces"):
        lines_of(chunked(*[b"\n"] * 5000))
    line = b'{"task": "m-0", "attempt": [1, 1], "at": 0, "size": 1, "text": "x"}\n'
    assert lines_of(chunked(*[line] * 5000)) == [line[:-1]] * 5000


@pytest.mark.parametrize("pieces", [(b"x" * 101 + b"\n",), (b"x" * 60, b"x" * 60 + b"\nshort\n"), (b"x" * 101,)])
def test_a_line_that_is_too_long_is_given_to_nobody(pieces):
    with pytest.raises(ProviderFault, match="a line of more than 100 bytes"):
        assert not lines_of(chunked(*pieces))
    assert lines_of(chunked(b"x" * 100 + b"\n", b"y" * 100)) == [b"x" * 100]
