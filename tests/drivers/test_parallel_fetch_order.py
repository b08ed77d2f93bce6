"""A file from several gateways at once: in which order, how far ahead, and what stays behind."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import BadNode, FileBuilder
from ipdc_edge.daemon.local_inputs import LocalInputs
from ipdc_edge.daemon.streams import Inputs
from ipdc_edge.drivers.fetcher import AHEAD, BlockUnavailable, NoFile
from ipdc_edge.drivers.importer import import_file
from ipdc_edge.drivers.parallel_fetch import MOST_BLOCKS, MOST_NODES
from ipdc_edge.drivers.speeds import MOST_SPEEDS
from tests.drivers.providers import (
    CAP,
    FAST,
    MB,
    NEVER,
    at,
    fetching,
    in_each,
    keep_node,
    leaves,
    nodes,
    put,
    put_file,
    put_what_is_no_file,
    put_wrapped,
    read,
    run_bounded,
)
from tests.drivers.providers import stores as stores  # a fixture
from tests.waiting import eventually_async

# --- order, and no more than is needed


def test_any_part_of_any_tree_comes_in_order(stores):
    data = os.urandom(1000)
    for chunk, links in ((10, 2), (10, 3), (33, 5), (100, 10)):
        root = put_file(stores[1], data, chunk, links)

        async def main(root=root):
            kinds = [(stores[1], FAST, {})] * 3
            async with nodes(*kinds) as (_, providers), fetching(stores[0], pause=NEVER) as fetcher:
                for start in (0, 1, 99, 100, 511, 999, 1000):
                    assert await read(fetcher, root, 1000, providers, start) == data[start:]

        run_bounded(main)


def test_only_what_is_needed_is_asked_for_and_each_once(stores):
    data = os.urandom(810)
    root = put_file(stores[1], data, 10, 3)  # 81 leaves under 3 levels of 3 and a root

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            asked = lambda: [cid for link in links for cid in link.asked]  # noqa: E731
            blocks = fetcher.file_blocks(root, 405, 420, providers)
            for at_byte in (400, 410):
                assert await anext(blocks) == (at_byte, data[at_byte : at_byte + 10])
            # what would come by itself has its turn in the loop before this one has crossed the network
            other = put(stores[1], b"other")
            assert await fetcher.block(other, providers[:1]) == b"other"
            # the root, two levels, the node over 390 to 420, leaves at 400 and 410
            assert len(asked()) == 1 + 2 + 1 + 2 + 1
            assert await anext(blocks) == (420, data[420:430])  # a line crosses the end: a node, and one leaf
            assert await fetcher.block(other, providers[:1]) == b"other"
            assert len(asked()) == 7 + 2 + 1
            await blocks.aclose()
            assert len({*asked()}) == 9

    run_bounded(main)


def test_what_is_here_is_asked_of_nobody(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, 10)
    for cid in [root, *leaves(stores[1], root)[::2]]:
        keep_node(stores, cid)

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            assert await read(fetcher, root, 60, providers) == data
            assert sorted(cid for link in links for cid in link.asked) == sorted(leaves(stores[1], root)[1::2])
            assert fetcher.counters["own"] == 4 and fetcher.counters["blocks"] == 3

    run_bounded(main)


def test_what_has_changed_here_is_asked_of_others(stores, tmp_path):
    data = os.urandom(2 * MB + 17)
    for store, name in zip(stores, ("mine", "theirs")):
        (tmp_path / f"{name}.txt").write_bytes(data)
        with open(tmp_path / f"{name}.txt", "rb") as file:
            root, _, interior = import_file(file)
            store.add_reference(file.fileno(), root, interior, "user")
    (tmp_path / "mine.txt").write_bytes(data[:MB] + bytes(MB + 17))

    async def main():
        kinds = [(stores[1], FAST, {})] * 2
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            assert await read(fetcher, root, len(data), providers) == data
            assert sum(in_each(links)) == 2 and fetcher.counters["own"] == 2
            with pytest.raises(BlockUnavailable, match=r"mine\.txt.*no connection"):
                await read(fetcher, root, len(data), [at("127.0.0.1:1"), at("127.0.0.1:2")])

    run_bounded(main)


def test_what_is_no_file_and_sizes_that_lie_end_it(stores):
    root, directory, deep = put_what_is_no_file(stores[1])

    async def main():
        kinds = [(stores[1], FAST, {})] * 2
        async with nodes(*kinds) as (_, providers), fetching(stores[0], pause=NEVER) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 6, providers)
            assert await anext(blocks) == (0, b"abc")
            with pytest.raises(BadNode, match="2 bytes where its parent says 3"):
                await anext(blocks)
            with pytest.raises(NoFile, match="directory"):
                await read(fetcher, directory, 6, providers)
            with pytest.raises(BadNode, match="16 levels"):
                await read(fetcher, deep, 1, providers)
            assert await read(fetcher, put(stores[1], b""), 5, providers) == b""
            assert await read(fetcher, put(stores[1], b"one"), 3, providers, 1) == b"ne"

    run_bounded(main)


# --- how far ahead


def test_it_is_as_far_ahead_as_the_room_allows_and_no_farther(stores):
    size = 9 * MB
    roots = [put_file(stores[1], os.urandom(size), MB, 1024) for _ in range(2)]
    for root in roots:
        keep_node(stores, root)
    blocks_ahead = 1 + AHEAD // MB

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            counters = fetcher.counters
            files = [fetcher.file_blocks(root, 0, size, providers) for root in roots]
            first, second = files
            await anext(first)
            await eventually_async(lambda: counters["blocks"] == 1 + blocks_ahead, "the room is full")
            assert fetcher.room == 0
            await anext(second)  # of another file there is one ahead in any case
            await eventually_async(lambda: counters["blocks"] == 1 + blocks_ahead + 2, "one is ahead")
            await fetcher.block(raw_cid(put_one(stores)), providers[:1])  # had more been asked for, it would be there
            assert sum(in_each(links)) == 1 + blocks_ahead + 2 + 1
            await first.aclose()
            assert fetcher.room == AHEAD
            await anext(second)
            await eventually_async(lambda: counters["blocks"] == 2 * (1 + blocks_ahead) + 1 + 1, "the room is its own")
            await second.aclose()

    run_bounded(main)


def put_one(stores):
    put(stores[1], b"one")
    return b"one"


def test_small_blocks_are_counted(stores):
    root = put_file(stores[1], os.urandom(1000), 10, 100)
    keep_node(stores, root)

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 1000, providers)
            await anext(blocks)
            await eventually_async(lambda: fetcher.counters["blocks"] == 1 + MOST_BLOCKS, "so many are here")
            await fetcher.block(raw_cid(put_one(stores)), providers[:1])
            assert sum(in_each(links)) == 1 + MOST_BLOCKS + 1
            await blocks.aclose()

    run_bounded(main)


def test_one_provider_named_twice_is_one(stores):
    root = put_file(stores[1], os.urandom(60), 10, 10)

    async def main():
        async with nodes((stores[1], FAST, {})) as ((link,), (only,)), fetching(stores[0]) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 60, [only, only])
            await anext(blocks)
            await eventually_async(lambda: fetcher.counters["blocks"] == 3, "one is ahead")
            await fetcher.block(raw_cid(put_one(stores)), [only])
            assert len(link.asked) == 1 + 1 + 1 + 1 and not fetcher.speeds
            await blocks.aclose()

    run_bounded(main)


def put_wrapped_file(stores, data):
    """A file as older tools make it: each leaf's ten bytes are wrapped into a node. Only the root is here."""
    builder = FileBuilder()
    for offset in range(0, len(data), 10):
        builder.add(put_wrapped(stores[1], data[offset : offset + 10]), 10)
    root, _, ((_, block),) = builder.finish()
    stores[0].put(root, block, "user")
    return root


def test_nodes_that_are_as_big_as_they_like_are_few(stores):
    root = put_wrapped_file(stores, os.urandom(100))

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 100, providers)
            await anext(blocks)
            await eventually_async(lambda: fetcher.counters["blocks"] == 1 + MOST_NODES, "so many are here")
            await fetcher.block(raw_cid(put_one(stores)), providers[:1])
            assert sum(in_each(links)) == 1 + MOST_NODES + 1
            await blocks.aclose()

    run_bounded(main)


def test_all_are_asked_at_once_also_for_nodes_that_are_leaves(stores):
    """Whether such a one has children is known only when it is here."""
    data = os.urandom(60)
    root = put_wrapped_file(stores, data)

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            for link in links:
                link.gate.clear()
            reading = asyncio.ensure_future(read(fetcher, root, 60, providers))
            await eventually_async(lambda: all(in_each(links)), "each is asked for one")
            assert len({cid for link in links for cid in link.asked}) == 3
            for link in links:
                link.gate.set()
            assert await reading == data
            assert await read(fetcher, root, 60, providers, 25) == data[25:]

    run_bounded(main)


def test_a_block_is_its_readers_alone(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, 10)
    gateways = {}

    async def main():
        kinds = [(stores[1], FAST, {})] * 3
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 60, providers)
            for _ in range(6):
                found = [(await anext(blocks))[1]]
                count = sys.getrefcount(found[0])
                assert count == 2  # the list's, and the call's
            await blocks.aclose()
            params = {"inputs": [{"range": {"cid": root, "start": 15, "end": 60}}], "gateways": gateways}
            gateways.update((str(number), one.address) for number, one in enumerate(providers))
            inputs = Inputs(fetcher, LocalInputs([]), params)
            got = b""
            while (part := await inputs.read(0)) is not None:
                got += part
            assert got == data[15:] and all(in_each(links))
            await inputs.close()

    run_bounded(main)


# --- what stays behind


@pytest.mark.parametrize("when", ["at once", "in the middle"])
def test_a_file_that_is_let_go_of_leaves_nothing_under_way(stores, when):
    root = put_file(stores[1], os.urandom(9 * MB), MB, 1024)

    async def main():
        async with nodes(*[(stores[1], CAP, {})] * 3) as (links, providers), fetching(stores[0]) as fetcher:
            before = asyncio.all_tasks()
            blocks = fetcher.file_blocks(root, 0, 9 * MB, providers)
            if when == "in the middle":
                await anext(blocks)
                await eventually_async(lambda: all(in_each(links)), "all are asked")
                assert fetcher.room < AHEAD
                await blocks.aclose()
                assert not any(speed.left for speed in fetcher.speeds.values())
            else:
                reading = asyncio.ensure_future(anext(blocks))
                await eventually_async(lambda: sum(in_each(links)), "somebody is asked")
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await fetcher.close()
            await eventually_async(lambda: asyncio.all_tasks() <= before, "connections are closed, on both sides")

    run_bounded(main)


def test_the_memory_of_speeds_is_bounded(stores):
    root = put_file(stores[1], os.urandom(60), 10, 10)

    async def main():
        async with nodes((stores[1], FAST, {})) as (_, providers), fetching(stores[0], pause=NEVER) as fetcher:
            for port in range(2 * MOST_SPEEDS):
                assert len(await read(fetcher, root, 60, [*providers, at(f"127.0.0.1:{port}x")])) == 60
            assert len(fetcher.speeds) == MOST_SPEEDS and providers[0] in fetcher.speeds

    run_bounded(main)
