"""Pins, what was unpinned, and the quota, over a store of each kind."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers.block_pins import collect, compact, settle, sparse, unpin
from ipdc_edge.drivers.block_verify import check
from ipdc_edge.drivers.blocks import BlockStore, StoreFull
from tests.drivers.stores import kind as kind  # a fixture

SIZE, QUOTA = 1000, 6500  # of a block; six blocks fit
JOB = "20260101-000000-abcd"


@pytest.fixture
def store(kind, tmp_path):
    store = kind.open(str(tmp_path / "blocks"), QUOTA)
    yield store
    store.close()


def data_of(number: int) -> bytes:
    return b"%03d." % number * (SIZE // 4)


def pin(store: BlockStore, root: str, numbers: list[int]) -> None:
    """As an import does: all of it, or nothing."""
    owner = "adding." + root
    try:
        missing = store.hold_all(owner, [raw_cid(data_of(number)) for number in numbers])
        writer = store.new_file(owner)
        for number in numbers:
            if raw_cid(data_of(number)) in missing:
                writer.append(data_of(number))
        writer.commit(durable=True)
        settle(store, owner, "pin." + root)
    except BaseException:
        store.release(owner)
        raise


TREES = {"x": [0, 1], "y": [1, 2, 3], "z": [4, 5, 6, 7], "w": [0, 7]}


@given(st.lists(st.one_of(
    st.tuples(st.sampled_from(["pin", "unpin"]), st.sampled_from(sorted(TREES))),
    st.tuples(st.sampled_from(["put", "release", "collect"]), st.integers(0, 7)),
), max_size=14))
def test_the_quota_is_kept_and_so_is_what_is_pinned(kind, tmp_path_factory, steps):
    store = kind.open(str(tmp_path_factory.mktemp("store")), QUOTA)
    pinned: set[str] = set()
    job: set[int] = set()
    for what, which in steps:
        try:
            if what == "pin":
                pin(store, which, TREES[which])
                pinned.add(which)
            elif what == "unpin":
                assert unpin(store, which) == (which in pinned)
                pinned.discard(which)
            elif what == "put":
                store.put(raw_cid(data_of(which)), data_of(which), JOB)
                job.add(which)
            elif what == "release":
                store.release(JOB)
                job.clear()
            else:
                while collect(store) is not None:
                    pass
                with suppress(StoreFull):
                    for path in sparse(store, 10):
                        assert compact(store, path) > 0
                    assert sparse(store, 10) == []
        except StoreFull:
            assert what in ("pin", "put")
            assert store.owned_bytes("unpinned.") == 0, "there was something to free"
        size = kind.size(store)
        assert size == store.stat()["bytes"] <= QUOTA
        kept = {number for tree in pinned for number in TREES[tree]} | job
        assert all(store.get(raw_cid(data_of(number))) == data_of(number) for number in kept)
        if what == "collect":
            assert store.stat()["blocks"] == len(kept)
    assert [damage for step in check(store) for damage in step.damage] == []
    store.close()


def test_the_oldest_goes_first_and_no_more_than_must(store):
    for root, number in (("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4), ("f", 5)):
        pin(store, root, [number])
    for root in "eab":
        unpin(store, root)
    store.put(raw_cid(data_of(6)), data_of(6), JOB)
    assert [store.has(raw_cid(data_of(number))) for number in range(7)] == [False, *[True] * 6]


def test_what_can_never_fit_costs_nothing_else(store):
    pin(store, "a", [0])
    unpin(store, "a")
    with pytest.raises(StoreFull):
        store.check_room(QUOTA + 1)
    assert store.has(raw_cid(data_of(0)))


def test_collecting_goes_piece_by_piece(kind, store, monkeypatch):
    from ipdc_edge.drivers import block_pins

    monkeypatch.setattr(block_pins, "_COLLECTED", 2)
    pin(store, "a", [0, 1, 2, 3, 4])
    unpin(store, "a")
    found = []
    while (freed := collect(store)) is not None:
        found.append((freed.blocks, freed.size))
    assert found == [(2, 0), (2, 0), (1, 5 * SIZE)]
    assert store.owners() == [] and kind.kept(store) == []


def test_a_block_that_stays_does_not_keep_the_room_of_all_others(kind, store):
    """Small files of one import share a file on disk."""
    pin(store, "big", [0, 1, 2, 3, 4])
    pin(store, "small", [3])
    unpin(store, "big")
    assert [freed.size for freed in iter(lambda: collect(store), None)] == [0]
    (path,) = sparse(store, 10)
    assert compact(store, path) == 4 * SIZE
    assert store.stat()["bytes"] == SIZE == kind.size(store)
    assert store.get(raw_cid(data_of(3))) == data_of(3) and sparse(store, 10) == []
    store.close()
    store = kind.open(store.directory, QUOTA)
    assert store.get(raw_cid(data_of(3))) == data_of(3) and store.stat()["bytes"] == SIZE
    assert unpin(store, "small") and [freed.size for freed in iter(lambda: collect(store), None)] == [SIZE]
    assert kind.kept(store) == []


def test_who_reads_while_a_block_is_moved_gets_it(store, monkeypatch):
    pin(store, "big", [0, 1, 2])
    pin(store, "small", [1])
    unpin(store, "big")
    list(iter(lambda: collect(store), None))
    locate, moves = store._index.locate, []

    def located(cid):
        found = locate(cid)
        if not moves:
            moves.append(None)
            compact(store, sparse(store, 1)[0])  # between the look into the index and the file's opening
        return found

    monkeypatch.setattr(store._index, "locate", located)
    assert store.get(raw_cid(data_of(1))) == data_of(1)
    assert store.stat()["lost"] == 0


def test_damage_is_not_moved(kind, store):
    pin(store, "big", [0, 1, 2, 3])
    pin(store, "small", [1, 2])
    unpin(store, "big")
    list(iter(lambda: collect(store), None))
    assert len(kind.kept(store)) == 1
    kind.damage(store, raw_cid(data_of(1)), "change")
    assert compact(store, sparse(store, 1)[0]) == 3 * SIZE
    assert store.get(raw_cid(data_of(1))) is None and store.stat()["lost"] == 1
    assert store.get(raw_cid(data_of(2))) == data_of(2)


def test_looking_through_all_of_it_takes_the_same_memory_for_any_number_of_blocks(tmp_path):
    peaks = []
    for count in (300, 6000):
        store = BlockStore(str(tmp_path / f"{count}"), 64 << 20)
        writer = store.new_file(JOB)
        for number in range(count):
            writer.append(b"%d" % number)
        writer.commit()
        for number in range(count // 10):
            store.put(raw_cid(b"own %d" % number), b"own %d" % number, JOB)
        tracemalloc.start()
        assert sum(step.blocks for step in check(store)) == count + count // 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        store.close()
    assert peaks[1] < peaks[0] + 100_000, peaks
