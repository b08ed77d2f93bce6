"""The fetcher against real gateways over loopback, and against providers that fail, stall, and lie."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from ipdc_edge.codec.cid import BadCid, raw_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK, BadNode, FileBuilder, directory_block, parse_node
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher, FileTooBig, NoFile
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.importer import Importer, import_file
from ipdc_edge.drivers.provider import ProviderFault, ProviderPool
from tests.drivers.providers import always_continuing, at, crumbs, dripping, endless, provider, put, put_file, silent
from tests.waiting import eventually_async

DATA = b"hello world"
CID = raw_cid(DATA)
NOWHERE = at("127.0.0.1:1")


@pytest.fixture()
def stores(tmp_path):
    """Three stores: the fetcher's own, which is empty, and two that are served."""
    stores = [BlockStore(str(tmp_path / name), 64 << 20) for name in ("own", "first", "second")]
    yield stores
    for store in stores:
        store.close()


def run(stores, check, gateway_options=None, **options):
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

    run(stores, check, {"pages": {"/page": page}})


# --- blocks


def test_the_own_store_is_asked_first(stores):
    put(stores[0], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, providers) == DATA
        assert await fetcher.block("bafkqaaa", []) == b""
        assert gateways[0].counters["connections"] == 0
        assert fetcher.counters == {"blocks": 0, "bytes": 0, "own": 2, "faults": 0}

    run(stores, check)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, CHUNK, MAX_BLOCK])
def test_a_block_comes_from_a_gateway(stores, size):
    data = os.urandom(size)
    cid = put(stores[1], data)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(cid, providers) == data
        assert gateways[0].counters == {"blocks": 1, "bytes": size, "refused": 0, "connections": 1}
        assert not stores[0].has(cid)  # fetching is not keeping

    run(stores, check)


def test_the_next_provider_is_asked_when_one_fails(stores):
    put(stores[2], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, [NOWHERE, at("nonsense"), at("127.0.0.1:99999"), *providers]) == DATA
        assert gateways[0].counters["refused"] == 1 and gateways[1].counters["blocks"] == 1
        assert fetcher.counters["faults"] == 4

    run(stores, check)


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

    run(stores, check)


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

    run(stores, check)


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
    run(stores, check, **{silent: {"patience": 1}, dripping: {"deadline": 1}}.get(answer, {}))


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

    run(stores, check)


def test_a_connection_that_the_provider_closed_while_idle_is_no_fault(stores):
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        assert await fetcher.block(CID, providers[:1]) == DATA
        assert len(gateways[0]._open) == 1
        await gateways[0].close()
        await gateways[0].start()
        assert await fetcher.block(CID, providers[:1]) == DATA
        assert gateways[0].counters["connections"] == 2 and fetcher.counters["faults"] == 0

    run(stores, check)


def test_an_idle_connection_is_closed_by_us(stores, monkeypatch):
    monkeypatch.setattr("ipdc_edge.drivers.provider._IDLE", 0.05)
    put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        await fetcher.block(CID, providers[:1])
        assert len(gateways[0]._open) == 1
        await eventually_async(lambda: not gateways[0]._open, "the idle connection is closed")
        assert await fetcher.block(CID, providers[:1]) == DATA

    run(stores, check)


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

    run(stores, check)


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

    run(stores, check)


# --- files


def test_a_file_is_read_from_any_offset(stores):
    data = os.urandom(1000)
    root = put_file(stores[1], data, 10)

    async def check(fetcher, gateways, providers):
        for start in (0, 1, 9, 10, 11, 499, 990, 999):
            blocks = [found async for found in fetcher.file_blocks(root, start, 1000, providers)]
            assert blocks[0][0] == start // 10 * 10
            assert blocks == [(at, data[at : at + 10]) for at in range(blocks[0][0], 1000, 10)]
        assert [found async for found in fetcher.file_blocks(root, 1000, 2000, providers)] == []

    run(stores, check)


def test_a_block_is_its_readers_alone(stores):
    """While a runner works on it, a daemon on a small board holds the one that is read ahead and no other."""
    from ipdc_edge.daemon.local_inputs import LocalInputs
    from ipdc_edge.daemon.streams import Inputs

    data = os.urandom(30)
    root = put_file(stores[1], data, 10)

    def held(generator):
        return [value for value in generator.ag_frame.f_locals.values() if data[:10] in (value, *_parts(value))]

    async def check(fetcher, gateways, providers):
        blocks = fetcher.file_blocks(root, 0, 30, providers)
        assert await anext(blocks) == (0, data[:10])
        assert not held(blocks)
        await blocks.aclose()
        params = {"inputs": [{"range": {"cid": root, "start": 0, "end": 30}}],
                  "gateways": {providers[0].node: providers[0].address}}
        inputs = Inputs(fetcher, LocalInputs([]), params)
        assert await inputs.read(0) == data[:10]
        assert not held(inputs.streams[0])
        await inputs.close()

    run(stores, check)


def _parts(value):
    return value if isinstance(value, tuple | list) else ()


def test_only_the_needed_blocks_are_fetched(stores):
    data = os.urandom(810)
    root = put_file(stores[1], data, 10)  # 81 leaves under 3 levels of 3 and a root

    async def check(fetcher, gateways, providers):
        async for offset, _ in fetcher.file_blocks(root, 405, 420, providers[:1]):
            if offset == 420:
                break
        # the root, two levels, the node over 390 to 420, leaves at 400 and 410, its neighbour, leaf 420
        assert gateways[0].counters["blocks"] == 1 + 2 + 1 + 2 + 1 + 1

    run(stores, check)


def test_it_is_one_block_ahead_up_to_the_end_and_goes_on_behind_it(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, links=10)
    leaves = [raw_cid(data[at : at + 10]) for at in range(0, 60, 10)]
    other = put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        asked, block = [], fetcher.block

        async def noted(cid, providers, keeper=None, swap=True):
            asked.append(cid)
            return await block(cid, providers, keeper, swap)

        fetcher.block = noted
        served = gateways[0].counters
        blocks = fetcher.file_blocks(root, 0, 20, providers[:1])
        assert await anext(blocks) == (0, data[:10])
        # the root, the first leaf, and without being asked the second
        await eventually_async(lambda: served["blocks"] == 3, "the block ahead is served")
        assert await anext(blocks) == (10, data[10:20])
        # what would be fetched by itself has its turn in the loop before this one has crossed the network
        assert await fetcher.block(other, providers[:1]) == DATA
        assert asked == [root, *leaves[:2], other]  # behind the end nothing comes by itself
        assert await anext(blocks) == (20, data[20:30])
        assert await anext(blocks) == (30, data[30:40])
        assert asked == [root, *leaves[:2], other, *leaves[2:4]] and served["blocks"] == 6
        await blocks.aclose()

    run(stores, check)


class Ear:
    """Hears where blocks came from, and keeps what came."""

    keeps = True

    def __init__(self):
        self.came_here, self.were_here, self.kept = [], [], {}

    def came(self, cid, data):
        self.came_here.append(cid)
        self.kept[cid] = data

    def was_here(self, cid):
        self.were_here.append(cid)

    def has(self, cid):
        return cid in self.kept

    get = property(lambda self: self.kept.get)


@pytest.mark.parametrize("several", [False, True])
def test_who_keeps_a_file_hears_of_each_of_its_blocks(stores, several):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, links=10)
    assert put_file(stores[2], data, 10, links=10) == root
    leaves = [raw_cid(data[at : at + 10]) for at in range(0, 60, 10)]
    put(stores[0], data[20:30])

    async def check(fetcher, gateways, providers):
        ear = Ear()
        fetcher.unfinished = ear
        who = providers if several else providers[:1]
        assert b"".join([part async for _, part in fetcher.file_blocks(root, 0, 30, who, ear)]) == data
        assert sorted(ear.came_here) == sorted({root, *leaves} - {leaves[2]}) and ear.were_here == [leaves[2]]
        served = sum(gateway.counters["blocks"] for gateway in gateways)
        again = Ear()
        assert b"".join([part async for _, part in fetcher.file_blocks(root, 0, 30, who, again)]) == data
        assert not again.came_here and sorted(again.were_here) == sorted([root, *leaves]), "what is kept counts as here"
        assert sum(gateway.counters["blocks"] for gateway in gateways) == served

    run(stores, check)


def test_two_who_keep_what_they_read_fetch_a_block_once(stores):
    """Tasks beside each other read the block between their splits."""
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, links=10)

    async def check(fetcher, gateways, providers):
        fetcher.unfinished = ear = Ear()
        blocks = [fetcher.file_blocks(root, 0, 60, providers[:1], ear) for _ in range(3)]

        async def whole(parts):
            return b"".join([part async for _, part in parts])

        assert await asyncio.gather(*map(whole, blocks)) == [data] * 3
        assert len(ear.came_here) == 7 == gateways[0].counters["blocks"] and not fetcher._coming
        await gateways[0].close()
        ear.kept.clear()
        failures = await asyncio.gather(*(fetcher.block(root, providers[:1], ear) for _ in range(3)),
                                        return_exceptions=True)
        assert all(isinstance(error, BlockUnavailable) for error in failures) and not fetcher._coming

    run(stores, check)


def test_a_file_of_one_leaf_and_an_empty_one(stores):
    put(stores[1], DATA)
    empty = put(stores[1], b"")

    async def check(fetcher, gateways, providers):
        assert [found async for found in fetcher.file_blocks(CID, 0, 5, providers)] == [(0, DATA)]
        assert [found async for found in fetcher.file_blocks(CID, 10, 11, providers)] == [(0, DATA)]
        assert [found async for found in fetcher.file_blocks(CID, 11, 12, providers)] == []
        assert [found async for found in fetcher.file_blocks(empty, 0, 5, providers)] == []
        assert await fetcher.read_file(empty, providers, 0) == b""

    run(stores, check)


def test_a_real_file_by_reference_crosses_whole(stores, tmp_path):
    data = os.urandom(3 * CHUNK + 17)
    (tmp_path / "input").write_bytes(data)
    with open(tmp_path / "input", "rb") as file:
        importer = Importer(file)
        interior = list(importer.blocks())
        stores[1].add_reference(file.fileno(), importer.root, interior, "user")

    async def check(fetcher, gateways, providers):
        assert await fetcher.read_file(importer.root, providers, 1 << 30) == data
        assert gateways[0].counters["blocks"] == 5
        assert gateways[0].counters["bytes"] == len(data) + sum(len(block) for _, block in interior)

    run(stores, check)


def test_a_file_with_inline_leaves_as_older_tools_make_them(stores):
    def inline(data):
        size = bytes([len(data)])
        unixfs = b"\x08\x02\x12" + size + data + b"\x18" + size
        block = b"\x0a" + bytes([len(unixfs)]) + unixfs
        from ipdc_edge.codec.unixfs import dag_pb_cid

        stores[1].put(dag_pb_cid(block), block, "user")
        return dag_pb_cid(block)

    builder = FileBuilder()
    for part in (b"hello ", b"world"):
        builder.add(inline(part), len(part))
    root, _, ((_, block),) = builder.finish()
    stores[1].put(root, block, "user")

    async def check(fetcher, gateways, providers):
        assert await fetcher.read_file(root, providers, 11) == DATA
        assert [found async for found in fetcher.file_blocks(root, 7, 8, providers)] == [(6, b"world")]

    run(stores, check)


def test_a_file_over_the_limit_is_not_fetched(stores):
    root = put_file(stores[1], bytes(1000), 10)

    async def check(fetcher, gateways, providers):
        with pytest.raises(FileTooBig, match="1000 bytes; at most 999"):
            await fetcher.read_file(root, providers, 999)
        assert gateways[0].counters["blocks"] == 1

    run(stores, check)


def test_a_missing_leaf_ends_the_file_with_its_name(stores):
    root = put_file(stores[1], DATA, 4)
    gone = parse_node(root, stores[1].get(root)).links[1].cid
    path = os.path.join(stores[1].directory, gone[-2:], gone)
    os.unlink(path)

    async def check(fetcher, gateways, providers):
        blocks = fetcher.file_blocks(root, 0, 11, providers)
        assert await anext(blocks) == (0, b"hell")
        with pytest.raises(BlockUnavailable, match=gone):
            await anext(blocks)

    run(stores, check)


def test_sizes_that_lie_and_things_that_are_no_file(stores):
    builder = FileBuilder()
    builder.add(put(stores[1], b"abc"), 3)
    builder.add(put(stores[1], b"de"), 3)
    root, _, ((_, block),) = builder.finish()
    stores[1].put(root, block, "user")
    directory, block = directory_block([("a", root, 1)])
    stores[1].put(directory, block, "user")
    deep = put(stores[1], b"x")
    for _ in range(20):
        chain = FileBuilder()
        chain.add(deep, 1)
        deep, block = chain._close(0)
        stores[1].put(deep, block, "user")

    async def check(fetcher, gateways, providers):
        with pytest.raises(BadNode, match="2 bytes where its parent says 3"):
            await fetcher.read_file(root, providers, 100)
        with pytest.raises(NoFile, match="directory"):
            await fetcher.read_file(directory, providers, 100)
        with pytest.raises(BadNode, match="16 levels"):
            await fetcher.read_file(deep, providers, 100)

    run(stores, check)


def test_half_the_blocks_here_and_half_there(stores):
    data = os.urandom(300)
    root = put_file(stores[1], data, 10)
    put_file(stores[2], data[:150], 10)
    stores[0].put(root, stores[1].get(root), "user")
    for link in parse_node(root, stores[1].get(root)).links[1:]:
        stores[0].put(link.cid, stores[1].get(link.cid), "user")

    async def check(fetcher, gateways, providers):
        assert await fetcher.read_file(root, providers[::-1], 300) == data
        assert gateways[0].counters["blocks"] and gateways[1].counters["blocks"] and fetcher.counters["own"]

    run(stores, check)
