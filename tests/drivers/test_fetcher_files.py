"""Files by the fetcher from one real gateway after the other; from several at once: test_parallel_fetch.py."""

from __future__ import annotations

import asyncio
import os

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK, BadNode, FileBuilder, parse_node
from ipdc_edge.drivers.fetcher import BlockUnavailable, FileTooBig, NoFile
from ipdc_edge.drivers.importer import Importer
from tests.drivers.providers import leaves, lose, put, put_file, put_what_is_no_file, put_wrapped, run_with_gateways
from tests.drivers.providers import stores as stores  # a fixture
from tests.waiting import eventually_async

DATA = b"hello world"
CID = raw_cid(DATA)


def test_a_file_is_read_from_any_offset(stores):
    data = os.urandom(1000)
    root = put_file(stores[1], data, 10)

    async def check(fetcher, gateways, providers):
        for start in (0, 1, 9, 10, 11, 499, 990, 999):
            blocks = [found async for found in fetcher.file_blocks(root, start, 1000, providers)]
            assert blocks[0][0] == start // 10 * 10
            assert blocks == [(at, data[at : at + 10]) for at in range(blocks[0][0], 1000, 10)]
        assert [found async for found in fetcher.file_blocks(root, 1000, 2000, providers)] == []

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


def test_it_is_one_block_ahead_up_to_the_end_and_goes_on_behind_it(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, links=10)
    leaves = [raw_cid(data[at : at + 10]) for at in range(0, 60, 10)]
    other = put(stores[1], DATA)

    async def check(fetcher, gateways, providers):
        asked, block = [], fetcher.buffer

        async def noted(cid, providers, keeper=None, swap=True, received=None):
            asked.append(cid)
            return await block(cid, providers, keeper, swap, received)

        fetcher.buffer = noted
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

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


def test_a_file_of_one_leaf_and_an_empty_one(stores):
    put(stores[1], DATA)
    empty = put(stores[1], b"")

    async def check(fetcher, gateways, providers):
        assert [found async for found in fetcher.file_blocks(CID, 0, 5, providers)] == [(0, DATA)]
        assert [found async for found in fetcher.file_blocks(CID, 10, 11, providers)] == [(0, DATA)]
        assert [found async for found in fetcher.file_blocks(CID, 11, 12, providers)] == []
        assert [found async for found in fetcher.file_blocks(empty, 0, 5, providers)] == []
        assert await fetcher.read_file(empty, providers, 0) == b""

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


def test_a_file_with_inline_leaves_as_older_tools_make_them(stores):
    builder = FileBuilder()
    for part in (b"hello ", b"world"):
        builder.add(put_wrapped(stores[1], part), len(part))
    root, _, ((_, block),) = builder.finish()
    stores[1].put(root, block, "user")

    async def check(fetcher, gateways, providers):
        assert await fetcher.read_file(root, providers, 11) == DATA
        assert [found async for found in fetcher.file_blocks(root, 7, 8, providers)] == [(6, b"world")]

    run_with_gateways(stores, check)


def test_a_file_over_the_limit_is_not_fetched(stores):
    root = put_file(stores[1], bytes(1000), 10)

    async def check(fetcher, gateways, providers):
        with pytest.raises(FileTooBig, match="1000 bytes; at most 999"):
            await fetcher.read_file(root, providers, 999)
        assert gateways[0].counters["blocks"] == 1

    run_with_gateways(stores, check)


def test_a_missing_leaf_ends_the_file_with_its_name(stores):
    root = put_file(stores[1], DATA, 4)
    gone = leaves(stores[1], root)[1]
    lose(stores[1], gone)

    async def check(fetcher, gateways, providers):
        blocks = fetcher.file_blocks(root, 0, 11, providers)
        assert await anext(blocks) == (0, b"hell")
        with pytest.raises(BlockUnavailable, match=gone):
            await anext(blocks)

    run_with_gateways(stores, check)


def test_sizes_that_lie_and_things_that_are_no_file(stores):
    root, directory, deep = put_what_is_no_file(stores[1])

    async def check(fetcher, gateways, providers):
        with pytest.raises(BadNode, match="2 bytes where its parent says 3"):
            await fetcher.read_file(root, providers, 100)
        with pytest.raises(NoFile, match="directory"):
            await fetcher.read_file(directory, providers, 100)
        with pytest.raises(BadNode, match="16 levels"):
            await fetcher.read_file(deep, providers, 100)

    run_with_gateways(stores, check)


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

    run_with_gateways(stores, check)


def test_while_somebody_waits_for_a_leaf_of_which_half_is_here_the_next_is_asked_for(stores):
    data = os.urandom(4 * CHUNK)
    root = put_file(stores[1], data, CHUNK, links=2)  # two nodes of two leaves each
    leaves = [raw_cid(data[at : at + CHUNK]) for at in range(0, 4 * CHUNK, CHUNK)]

    async def check(fetcher, gateways, providers):
        asked, ask = [], fetcher.ask
        seen = {}  # of each leaf: how many of its bytes were here, and how many blocks were on their way

        async def noted(provider, cid, received=None):
            asked.append(cid)
            got = 0

            def told(count):
                nonlocal got
                got += count
                received(count)
                seen.setdefault(cid, []).append((got, under_way()))

            return await ask(provider, cid, told)

        def under_way():
            return sum(task.get_coro().__name__ == "buffer" for task in asyncio.all_tasks())

        fetcher.ask = noted
        blocks = fetcher.file_blocks(root, 0, 4 * CHUNK, providers[:1])
        assert await anext(blocks) == (0, data[:CHUNK])
        # alone until half of it was here, then one more; never a third
        assert {count for got, count in seen[leaves[0]] if 2 * got < CHUNK} == {1}
        assert {count for got, count in seen[leaves[0]] if 2 * got >= CHUNK} == {2}
        rest = [part async for part in blocks]
        assert [(offset, bytes(part)) for offset, part in rest] == [
            (at, data[at : at + CHUNK]) for at in range(CHUNK, 4 * CHUNK, CHUNK)]
        assert [cid for cid in asked if cid in leaves] == leaves  # each once, in order
        assert max(count for one in seen.values() for _, count in one) == 2
        await eventually_async(lambda: not under_way(), "nothing is on its way any more")

    run_with_gateways(stores, check)


def test_a_reader_who_goes_leaves_no_block_on_its_way(stores):
    data = os.urandom(6 * CHUNK)
    root = put_file(stores[1], data, CHUNK, links=10)

    async def check(fetcher, gateways, providers):
        blocks = fetcher.file_blocks(root, 0, 6 * CHUNK, providers[:1])
        assert await anext(blocks) == (0, data[:CHUNK])
        await blocks.aclose()
        assert not [task for task in asyncio.all_tasks() if task.get_coro().__name__ in ("buffer", "next_block")]
        last = data[-CHUNK:]
        assert await fetcher.block(raw_cid(last), providers[:1]) == last  # and its connections are good

    run_with_gateways(stores, check)
