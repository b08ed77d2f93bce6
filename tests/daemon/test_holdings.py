"""Which ranges of files are in a node's store: as a worker tells its masters, and as others are answered."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.values import InputRange
from ipdc_edge.daemon import holdings
from ipdc_edge.daemon.holdings import Holdings, held
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import Fetcher
from tests.drivers.providers import put_file

BLOCK = 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    made = BlockStore(str(tmp_path / "blocks"), 1 << 30)
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[BlockStore]:
    """Where trees are made whose blocks the store has in part."""
    made = BlockStore(str(tmp_path / "other"), 1 << 30)
    yield made
    made.close()


def leaves_to(store: BlockStore, data: bytes, *numbers: int) -> None:
    for number in numbers:
        part = data[number * BLOCK : (number + 1) * BLOCK]
        store.put(raw_cid(part), part, "job")


def interior_to(store: BlockStore, other: BlockStore, data: bytes) -> None:
    leaves = {raw_cid(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)}
    for row in other.rows(0, 1000):
        if row.cid not in leaves:
            block = other.get(row.cid)
            assert block is not None
            store.put(row.cid, block, "job")


def ranges(store: BlockStore, *items: tuple[str, int]) -> tuple[InputRange, ...]:
    fetcher = Fetcher(store, None)
    return asyncio.run(held(fetcher, store, [{"cid": cid, "size": size} for cid, size in items], []))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "CHUNK", BLOCK)


def test_what_is_here_is_told_in_ranges(store: BlockStore, other: BlockStore) -> None:
    data = os.urandom(20 * BLOCK + 10)
    root = put_file(other, data, BLOCK, links=3)
    assert ranges(store, (root, len(data))) == (), "not even its root is here"
    interior_to(store, other, data)
    leaves_to(store, data, 0, 1, 2, 7, 20)
    small, missing = put_file(store, b"x" * 10, BLOCK), raw_cid(b"nowhere")
    found = ranges(store, (missing, 1), (root, len(data)), (small, 10))
    assert found == (InputRange(1, 0, 3000), InputRange(1, 7000, 8000), InputRange(1, 20_000, 20_010),
                     InputRange(2, 0, 10))


def test_a_whole_file_is_one_range_whatever_stands_beside_it(store: BlockStore) -> None:
    data = os.urandom(30 * BLOCK)
    root = put_file(store, data, BLOCK, links=4)
    odd: list[Any] = [None, 7, {}, {"cid": root}, {"cid": 5, "size": 5}, {"cid": root, "size": "5"},
                      {"cid": "../x", "size": 5}, {"cid": root, "size": True}]
    fetcher = Fetcher(store, None)
    items = [*odd, {"cid": root, "size": len(data)}]
    assert asyncio.run(held(fetcher, store, items, [])) == (InputRange(len(odd), 0, len(data)),)


def test_no_more_ranges_are_told_than_a_message_holds_and_the_longest_are(store: BlockStore, other: BlockStore) -> None:
    data = os.urandom(500 * BLOCK)
    root = put_file(other, data, BLOCK, links=50)
    interior_to(store, other, data)
    leaves_to(store, data, *range(0, 500, 2), 499)
    found = ranges(store, (root, len(data)))
    assert len(found) == 200 and found[-1] == InputRange(0, 498_000, 500_000) and list(found) == sorted(found)


def test_a_look_has_a_bound(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "MOST_BLOCKS", 12)
    data = os.urandom(50 * BLOCK)
    root = put_file(store, data, BLOCK, links=10)
    (found,) = ranges(store, (root, len(data)))
    assert found.start == 0 and found.end <= 12 * BLOCK


def test_who_has_gone_is_looked_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "PATIENCE", 0.01)
    cid = raw_cid(b"asked")

    class Slow:
        async def block(self, *_: object) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

    page = Holdings(Slow(), None).page  # type: ignore[arg-type]
    assert json.loads(asyncio.run(asyncio.wait_for(page({"files": cid}), 5))) == {cid: 0}


def test_others_are_answered_how_much_is_here(store: BlockStore, other: BlockStore) -> None:
    whole, part = os.urandom(20 * BLOCK), os.urandom(20 * BLOCK)
    root, half = put_file(store, whole, BLOCK), put_file(other, part, BLOCK)
    interior_to(store, other, part)
    leaves_to(store, part, *range(10))
    page = Holdings(Fetcher(store, None), store).page
    asked = ",".join([root, half, raw_cid(b"nowhere"), "../x", ""])
    assert json.loads(asyncio.run(page({"files": asked}))) == {root: 20_000, half: 10_000, raw_cid(b"nowhere"): 0}
    assert json.loads(asyncio.run(page({}))) == {}
    many = ",".join(raw_cid(b"%d" % number) for number in range(100))
    assert len(json.loads(asyncio.run(page({"files": many})))) == holdings.MOST_ASKED


@pytest.mark.parametrize("answer", ["", "[]", "{", "1", '{"%s": "x"}', '{"%s": -1}', '{"%s": true}', "[" * 5000])
def test_an_answer_that_is_none_counts_for_nothing(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    cid = raw_cid(b"asked")
    told = {"good": json.dumps({cid: 7, "more": 3}), "bad": answer.replace("%s", cid)}

    class Pool:
        def __init__(self, provider: Any, *_: object) -> None:
            self.node = provider.node

        async def page(self, path: str, limit: int) -> bytes:
            assert path == f"/ipdc/holdings?files={cid}"
            return told[self.node].encode()

    monkeypatch.setattr(holdings, "ProviderPool", Pool)
    records = [SimpleNamespace(id=name, gateway=f"{name}:1") for name in ("good", "bad")]
    found = asyncio.run(holdings.ask(None, records, [cid, cid, "../x"]))  # type: ignore[arg-type]
    assert found == {"good": {cid: 7}, "bad": {}}
