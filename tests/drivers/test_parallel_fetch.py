"""A file from several gateways at once: how fast, and what bad providers cost."""

from __future__ import annotations

import asyncio
import os

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers.fetcher import BlockUnavailable
from ipdc_edge.drivers.provider import Provider
from ipdc_edge.drivers.tls import client_context, server_context
from tests.drivers.certificates import Domain
from tests.drivers.providers import (
    CAP,
    FAST,
    MB,
    NEVER,
    at,
    fetching,
    in_each,
    in_time,
    keep_node,
    leaves,
    lose,
    lying,
    nodes,
    provider,
    put,
    put_file,
    read,
    run_bounded,
    silent,
)
from tests.drivers.providers import stores as stores  # a fixture
from tests.waiting import eventually_async

# --- as fast as all together


@pytest.mark.parametrize(("chunk", "links"), [(MB, 1024), (MB, 2), (MB // 4, 3)], ids=["wide", "deep", "small leaves"])
def test_three_capped_providers_are_two_and_a_half_times_as_fast_as_one(stores, chunk, links):
    data = os.urandom(9 * MB)
    root = put_file(stores[1], data, chunk, links)
    took = {}

    async def main():
        for count in (1, 3):
            async with nodes(*[(stores[1], CAP, {})] * count) as (_, providers), fetching(stores[0]) as fetcher:
                now = asyncio.get_running_loop().time
                begun = now()
                assert await read(fetcher, root, len(data), providers) == data
                took[count] = now() - begun
        in_time(2.5 * took[3], took[1])

    run_bounded(main)


def test_who_is_faster_gets_more(stores):
    data = os.urandom(12 * MB)
    root = put_file(stores[1], data, MB, 1024)
    keep_node(stores, root)

    async def main():
        kinds = (stores[1], CAP / 2, {}), (stores[1], CAP, {})
        async with nodes(*kinds) as (links, providers), fetching(stores[0]) as fetcher:
            now = asyncio.get_running_loop().time
            begun = now()
            assert await read(fetcher, root, len(data), providers) == data
            in_time(now() - begun, 0.8 * len(data) / CAP)  # of what the faster would have needed alone
            slower, faster = len(links[0].asked), len(links[1].asked)
            assert 3 <= slower and faster >= slower + 3, (slower, faster)

    run_bounded(main)


def test_small_answers_say_nothing_about_speed(stores):
    """A node of a hundred bytes that might have been a leaf of a megabyte makes nobody slow."""
    data = os.urandom(2 * MB)
    root = put_file(stores[1], data, MB // 4, 3)
    for offset in range(0, len(data), MB // 4):
        keep_node(stores, raw_cid(data[offset : offset + MB // 4]))
    small = put_file(stores[1], os.urandom(1000), 10)

    async def main():
        async with nodes(*[(stores[1], FAST, {})] * 3) as (links, providers), fetching(stores[0]) as fetcher:
            assert await read(fetcher, root, len(data), providers) == data
            await read(fetcher, small, 1000, providers)
            assert all(in_each(links)) and len(fetcher.speeds) == 3
            assert {speed.rate(asyncio.get_running_loop().time()) for speed in fetcher.speeds.values()} == {None}
            big = put_file(stores[1], os.urandom(6 * MB), MB)
            await read(fetcher, big, 6 * MB, providers)
            assert min(speed.rate(asyncio.get_running_loop().time()) for speed in fetcher.speeds.values()) > MB

    run_bounded(main)


# --- bad providers


@pytest.mark.parametrize("place", [0, 2], ids=["asked first", "asked last"])
@pytest.mark.parametrize(
    "bad",
    [
        {"stall": 0}, {"stall": MB // 2}, {"stall": MB - 20_000}, {"cut": 0}, {"cut": MB // 2}, {"rate": CAP / 20},
        {"lies": True}, {"empty": True},
    ],
    ids=lambda bad: "-".join(map(str, bad)) + str(*bad.values()),
)
def test_a_bad_provider_costs_at_most_one_blocks_time(stores, bad, place):
    """Two good ones would take half the blocks' time, and may take one block's more."""
    data = os.urandom(6 * MB)
    root = put_file(stores[1], data, MB, 1024)
    rate = CAP / 2
    options = dict(bad)
    store = stores[2] if options.pop("empty", False) else stores[1]
    lies = options.pop("lies", False)
    kinds = [(stores[1], rate, {})] * 2
    kinds.insert(place, (store, options.pop("rate", rate), options))

    async def main():
        async with nodes(*kinds) as (links, providers), fetching(stores[0]) as fetcher, provider(lying) as liar:
            if lies:
                link = links[place]
                link._to = int(liar.address.rpartition(":")[2])
            now = asyncio.get_running_loop().time
            begun = now()
            assert await read(fetcher, root, len(data), providers) == data
            in_time(now() - begun, (len(data) / 2 + MB) / rate)
            assert links[place].asked
            assert len([cid for cid in links[place].asked if cid != root]) <= 1
            if "rate" not in bad:  # who is only slow is known to be slow, and has done nothing wrong
                assert 1 <= fetcher.counters["faults"] <= len(set(links[place].asked))

    run_bounded(main)


def test_a_late_block_is_asked_of_another_and_the_first_answer_counts(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, 10)
    keep_node(stores, root)

    async def main():
        kinds = [(stores[1], FAST, {})] * 2
        async with nodes(*kinds) as (links, providers), fetching(stores[0], patience=NEVER, deadline=NEVER) as fetcher:
            links[0].gate.clear()
            assert await read(fetcher, root, 60, providers) == data  # else it would wait for ever
            assert links[0].asked[0] == leaves(stores[1], root)[0]
            assert len(links[0].asked) <= 2  # who is silent before its first byte has one more chance
            assert sorted(links[1].asked) == sorted(leaves(stores[1], root))
            assert fetcher.counters["blocks"] == 6 and fetcher.counters["faults"] == len(links[0].asked)

    run_bounded(main)


def test_who_lost_is_let_go_of_and_no_more_than_two_are_asked_at_once(stores):
    data = os.urandom(10)
    leaf = put(stores[1], data)

    async def main():
        kinds = [(stores[1], FAST, {})] * 4
        async with nodes(*kinds) as (links, providers), fetching(stores[0], patience=NEVER, deadline=NEVER) as fetcher:
            for link in links:
                link.gate.clear()
            blocks = fetcher.file_blocks(leaf, 0, 10, providers)
            reading = asyncio.ensure_future(anext(blocks))
            await eventually_async(lambda: links[3].asked, "the last is asked")
            await eventually_async(lambda: links[0].left and links[1].left, "the first two are let go of")
            links[3].gate.set()
            assert await reading == (0, data)
            await eventually_async(lambda: links[2].left, "so is who was asked with it")
            assert in_each(links) == [1, 1, 1, 1]
            await blocks.aclose()

    run_bounded(main)


def test_the_late_answer_counts_when_it_comes_first(stores):
    data = os.urandom(10)
    root = put_file(stores[1], data, 10)

    async def main():
        kinds = [(stores[1], FAST, {})] * 2
        async with nodes(*kinds) as (links, providers), fetching(stores[0], patience=NEVER, deadline=NEVER) as fetcher:
            for link in links:
                link.gate.clear()
            reading = asyncio.ensure_future(read(fetcher, root, 10, providers))
            await eventually_async(lambda: links[1].asked, "the other is asked too")
            links[0].gate.set()
            assert await reading == data
            assert [len(link.asked) for link in links] == [1, 1] and fetcher.counters["blocks"] == 1

    run_bounded(main)


def test_of_several_that_stall_at_once_all_are_replaced(stores):
    data = os.urandom(100)
    root = put_file(stores[1], data, 10, 10)
    keep_node(stores, root)

    async def main():
        kinds = [(stores[1], FAST, {})] * 4
        async with nodes(*kinds) as (links, providers), fetching(stores[0], patience=NEVER, deadline=NEVER) as fetcher:
            for link in links[:3]:
                link.gate.clear()
            every = leaves(stores[1], root)
            assert await read(fetcher, root, 100, providers) == data
            assert all(len(link.asked) <= 2 for link in links[:3]) and sorted(links[3].asked) == sorted(every)

    run_bounded(main)


def test_who_lied_is_never_asked_again_and_who_failed_only_when_nobody_else_is_left(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, 10)
    keep_node(stores, root)
    last = leaves(stores[1], root)[-1]
    half = stores[2]
    for cid in leaves(stores[1], root)[1:5]:
        half.put(cid, stores[1].get(cid), "user")
    lose(stores[1], last)
    for cid in leaves(stores[1], root)[2:4]:
        lose(stores[1], cid)

    async def main():
        async with (
            nodes((stores[1], FAST, {}), (half, FAST, {})) as (links, good),
            nodes((half, FAST, {})) as ((false,), (liar,)),
            provider(lying) as source,
            fetching(stores[0], pause=NEVER) as fetcher,
        ):
            false._to = int(source.address.rpartition(":")[2])
            got = []
            with pytest.raises(BlockUnavailable) as caught:  # in its turn, when all before it are out
                async for _, block in fetcher.file_blocks(root, 0, 60, [*good, liar]):
                    got.append(block)
            assert b"".join(got) == data[:50]
            assert len(false.asked) == 1
            message = str(caught.value)
            assert last in message and message.count("answered 404") == 2 and f"{liar.address}: it lied" in message

    run_bounded(main)


def test_a_file_of_which_each_has_a_part(stores):
    data = os.urandom(100)
    root = put_file(stores[1], data, 10, 10)
    keep_node(stores, root)
    for cid in leaves(stores[1], root)[::2]:
        stores[2].put(cid, stores[1].get(cid), "user")
        lose(stores[1], cid)

    async def main():
        kinds = (stores[1], FAST, {}), (stores[2], FAST, {})
        async with nodes(*kinds) as (links, providers), fetching(stores[0], pause=NEVER) as fetcher:
            assert await read(fetcher, root, 100, providers) == data
            assert sum(in_each(links)) == 10 + fetcher.counters["faults"]

    run_bounded(main)


def test_an_error_comes_in_its_turn(stores):
    data = os.urandom(60)
    root = put_file(stores[1], data, 10, 10)
    keep_node(stores, root)
    gone = leaves(stores[1], root)[3]
    lose(stores[1], gone)

    async def main():
        kinds = [(stores[1], FAST, {})] * 2
        async with nodes(*kinds) as (_, providers), fetching(stores[0], pause=NEVER) as fetcher:
            blocks = fetcher.file_blocks(root, 0, 60, providers)
            assert await anext(blocks) == (0, data[:10])
            await eventually_async(lambda: fetcher.counters["faults"] == 2, "nobody has one of the next")
            assert await anext(blocks) == (10, data[10:20])
            assert await anext(blocks) == (20, data[20:30])
            with pytest.raises(BlockUnavailable, match=gone):
                await anext(blocks)

    run_bounded(main)


def test_every_reason_is_named_of_those_who_could_not_be_reached_too(stores):
    root = put_file(stores[1], bytes(range(60)), 10, 10)

    async def main():
        async with provider(silent) as mute, fetching(stores[0], patience=1, pause=NEVER) as fetcher:
            with pytest.raises(BlockUnavailable) as caught:
                await read(fetcher, root, 60, [mute, at("nonsense"), at("127.0.0.1:1")])
            message = str(caught.value)
            assert "silent for 1 s" in message and "no connection" in message and "not host:port" in message

    run_bounded(main)


def test_members_are_asked_over_tls_and_somebody_else_at_an_address_is_dropped(stores, tmp_path):
    domain = Domain(str(tmp_path / "domain"))
    one, two = domain.admit("one"), domain.admit("two")
    data = os.urandom(3 * MB)
    root = put_file(stores[1], data, MB // 2, 3)

    async def main():
        async with (
            nodes(*[(stores[1], FAST, {})] * 3, ssl=server_context(one)) as (links, places),
            fetching(stores[0], client_context(two), pause=NEVER) as fetcher,
        ):
            providers = [Provider(one.id, place.address) for place in places]
            providers[1] = Provider(two.id, places[1].address)
            assert await read(fetcher, root, len(data), providers) == data
            assert fetcher.counters == {"blocks": 9, "bytes": fetcher.counters["bytes"], "own": 0, "faults": 1}
            assert links[0].passed > MB and links[2].passed > MB > links[1].passed

    run_bounded(main)
