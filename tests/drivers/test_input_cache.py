"""Inputs of other nodes that are kept: how much, what goes first, and that they are in nobody's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import FileBuilder
from ipdc_edge.drivers import input_cache
from ipdc_edge.drivers.block_import import BadImport
from ipdc_edge.drivers.block_pins import collect
from ipdc_edge.drivers.block_rows import CACHED
from ipdc_edge.drivers.block_verify import check
from ipdc_edge.drivers.blocks import BlockStore, ReferenceChanged, StoreFull
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.drivers.input_cache import InputCache
from tests.drivers.stores import files
from tests.drivers.stores import kind as kind  # a fixture

SIZE, QUOTA = 1000, 10_000
TASK = input_cache.LEAST  # bytes of a task that is worth it


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(str(tmp_path / "blocks"), QUOTA)
    yield store
    store.close()


def data_of(number: int) -> bytes:
    return b"%03d." % number * (SIZE // 4)


def cid_of(number: int) -> str:
    return raw_cid(data_of(number))


def keep(cache: InputCache, *numbers: int) -> None:
    """One task fetches these blocks."""
    kept = cache.writer(TASK)
    assert kept is not None
    for number in numbers:
        kept.came(cid_of(number), data_of(number))
    kept.close()


def here(store: BlockStore, *numbers: int) -> list[int]:
    return [number for number in numbers if store.has(cid_of(number))]


def test_it_lies_in_files_of_this_node_whatever_the_store(kind, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store = kind.open(str(tmp_path / "other"))
    keep(InputCache(store, 5000), 1, 2)
    assert len(files(store.directory)) == 1 and here(store, 1, 2) == [1, 2] and store.get(cid_of(2)) == data_of(2)
    assert collect(store) is not None
    assert files(store.directory) == [] and here(store, 1, 2) == []
    store.close()


def test_what_a_task_fetched_is_here_for_the_next_one_without_an_fsync(store: BlockStore) -> None:
    cache, before = InputCache(store, 5000), FLASH.fsyncs
    written = FLASH.job("cached") or (0, 0)
    keep(cache, 1, 2)
    assert store.get(cid_of(1)) == data_of(1) and here(store, 1, 2, 3) == [1, 2]
    assert len(files(store.directory)) == 1, "one file for a task"
    after = FLASH.job("cached")
    assert FLASH.fsyncs == before and after is not None and after.written - written[0] == 2 * SIZE
    keep(cache, 1, 2)
    assert len(files(store.directory)) == 1 and FLASH.job("cached") == after, "nothing is written twice"


def test_the_limit_is_kept_and_the_least_recently_used_goes(store: BlockStore) -> None:
    cache = InputCache(store, 4000)
    keep(cache, 1, 2)
    keep(cache, 3, 4)
    kept = cache.writer(TASK)
    assert kept is not None
    kept.was_here(cid_of(1))
    kept.close()
    keep(cache, 5)
    assert here(store, 1, 2, 3, 4, 5) == [1, 2, 5] and cache.size() == 3000
    keep(cache, *range(10, 20))
    assert here(store, *range(20)) == [10, 11, 12, 13], "more than fits of one task: as much as fits"
    assert store.stat()["bytes"] == 4000


def test_it_survives_a_restart_and_the_setting_may_say_less(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path / "blocks"), QUOTA)
    cache = InputCache(store, 4000)
    for number in range(4):
        keep(cache, number)
    store.close()
    store = BlockStore(str(tmp_path / "blocks"), QUOTA)
    cache = InputCache(store, 2000)
    assert here(store, 0, 1, 2, 3) == [2, 3] and cache.size() == 2000
    keep(cache, 4)
    assert here(store, 2, 3, 4) == [3, 4], "the oldest went, and names go on"
    store.close()
    store = BlockStore(str(tmp_path / "blocks"), QUOTA)
    cache = InputCache(store, 0)
    assert not here(store, 3, 4) and cache.writer(TASK) is None and not store.owners()
    store.close()


def test_jobs_never_lack_room_for_it(store: BlockStore) -> None:
    cache = InputCache(store, 4000)
    keep(cache, 1, 2)
    under_way = cache.writer(TASK)
    assert under_way is not None
    for number in (3, 4):
        under_way.came(cid_of(number), data_of(number))
    writer = store.new_file("job")
    for number in range(100, 110):
        writer.append(data_of(number))  # the whole quota
    writer.commit()
    assert not here(store, 1, 2) and store.stat()["bytes"] == QUOTA
    with pytest.raises(StoreFull):
        store.put(cid_of(200), data_of(200), "job")
    under_way.came(cid_of(5), data_of(5))
    under_way.close()
    assert not here(store, 3, 4, 5) and store.stat()["bytes"] == QUOTA and not cache.size()
    store.release("job")
    assert store.stat()["bytes"] == 0 and files(store.directory) == []
    assert not [damage for step in check(store) for damage in step.damage]


def test_nothing_else_goes_for_it(store: BlockStore) -> None:
    cache = InputCache(store, 4000)
    writer = store.new_file("unpinned.x")
    for number in range(100, 109):
        writer.append(data_of(number))
    writer.commit()
    keep(cache, 1, 2)
    assert here(store, 1, 2, *range(100, 109)) == [1, *range(100, 109)]
    assert collect(store) is not None and here(store, 1, 100) == [100], "it goes before what was unpinned"
    assert collect(store) is not None and not here(store, 100)


def test_a_disk_without_room_keeps_nothing_and_fails_nobody(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = InputCache(store, 4000)
    keep(cache, 1)
    cache.give_way(input_cache.FREE)
    assert here(store, 1)
    cache.give_way(input_cache.FREE - 1)
    assert not here(store, 1) and not store.owners()
    assert cache.writer(1 << 60) is None, "no disk has so much"
    kept = cache.writer(TASK)
    assert kept is not None
    kept.came(cid_of(1), data_of(1))
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    kept.came(cid_of(2), data_of(2))
    monkeypatch.undo()
    kept.came(cid_of(3), data_of(3))
    kept.close()
    assert here(store, 1, 2, 3) == [1]
    store.release(store.owners()[0])
    assert store.stat()["bytes"] == 0


def test_a_block_that_came_for_one_task_is_there_for_another_at_once(store: BlockStore) -> None:
    cache = InputCache(store, 4000)
    keep(cache, 9)
    kept, other = cache.writer(TASK), cache.writer(TASK)
    assert kept is not None and other is not None
    for number in (1, 2):
        kept.came(cid_of(number), data_of(number))
    other.came(cid_of(2), data_of(2))
    assert cache.has(cid_of(2)) and cache.get(cid_of(2)) == data_of(2) and cache.size() == 3 * SIZE
    assert not cache.has(cid_of(3)) and cache.get(cid_of(3)) is None
    store.release(max(os.listdir(os.path.join(store.directory, "files"))))
    assert cache.get(cid_of(1)) is None, "it had to go"
    kept.came(cid_of(3), data_of(3))
    kept.close()
    other.close()
    assert not cache.coming and here(store, 1, 2, 3, 9) == [9] and store.stat()["bytes"] == SIZE


def test_little_inputs_are_not_worth_a_file(store: BlockStore) -> None:
    assert InputCache(store, 4000).writer(TASK - 1) is None


def test_inputs_of_another_domain_go(store: BlockStore) -> None:
    keep(InputCache(store, 5000, "home"), 1)
    keep(InputCache(store, 5000, "home"), 2)
    assert here(store, 1, 2) == [1, 2] and InputCache(store, 5000, "home").size() == 2 * SIZE
    assert InputCache(store, 5000, "school").size() == 0 and here(store, 1, 2) == []
    assert files(store.directory) == [] and store.owners() == []


def test_a_task_under_way_keeps_to_a_limit_that_came_meanwhile(store: BlockStore) -> None:
    cache = InputCache(store, 5000)
    kept = cache.writer(TASK)
    assert kept is not None
    kept.came(cid_of(1), data_of(1))
    cache.limit = 0
    cache.shrink()
    kept.close()
    assert here(store, 1) == [] and store.stat()["bytes"] == 0


def test_what_is_kept_is_no_pin_until_it_was_put_durably(store: BlockStore) -> None:
    cache = InputCache(store, 5000)
    keep(cache, 1, 2)
    assert store.hold_all("pin.x", [cid_of(1)]) == [cid_of(1)], "its bytes were never synced"
    writer = store.new_file("pin.x")
    writer.append(data_of(1))
    writer.append(data_of(2))
    writer.commit(durable=True)
    assert store.hold_all("pin.x", [cid_of(1)]) == [] and len(files(store.directory)) == 2
    assert collect(store) is not None and len(files(store.directory)) == 1, "its file goes though nothing in it went"
    assert store.stat()["bytes"] == 2 * SIZE and here(store, 1, 2) == [1, 2] and store.get(cid_of(2)) == data_of(2)


def add(store: BlockStore, path: Path, *numbers: int, owner: str = "pin.mine", bad: bool = False) -> str:
    """The owner of this node has these blocks in a file, and adds that by reference."""
    path.write_bytes(b"".join(map(data_of, numbers)))
    builder = FileBuilder()
    for number in numbers:
        builder.add(cid_of(number), SIZE)
    root, _, interior = builder.finish()
    with open(path, "rb") as file:
        assert store.add_reference(file.fileno(), root, [] if bad else interior, owner) == "reference"
    return root


def test_a_file_that_is_added_by_reference_stands_in_for_what_was_kept_of_it(store: BlockStore, tmp_path: Path) -> None:
    cache = InputCache(store, 5000)
    keep(cache, 1, 2)
    keep(cache, 3)
    keep(cache, 7, 8)
    with pytest.raises(BadImport):
        add(store, tmp_path / "bad", 1, 2, 3, 4, bad=True)
    assert cache.size() == 5000, "what is no file is no reason"
    root = add(store, tmp_path / "input", 1, 2, 3, 4)
    interior = store.size(root)
    assert interior is not None and store.stat()["bytes"] == 2 * SIZE + interior, "nothing lies here twice"
    assert cache.size() == store.owned_bytes(CACHED) == 2 * SIZE
    assert here(store, 7, 8) == [7, 8], "of other files it stays"
    assert store.stat()["references"] == 4 and len(files(store.directory)) == 2
    assert [store.get(cid_of(number)) for number in (1, 2, 3, 4)] == [data_of(number) for number in (1, 2, 3, 4)]
    assert not [damage for step in check(store) for damage in step.damage]
    (tmp_path / "input").unlink()
    with pytest.raises(ReferenceChanged):
        store.get(cid_of(1))


def test_what_a_job_holds_of_such_a_file_stays_where_it_is(store: BlockStore, tmp_path: Path) -> None:
    cache = InputCache(store, 5000)
    keep(cache, 1, 2)
    store.put(cid_of(1), data_of(1), "job")
    add(store, tmp_path / "input", 1, 2)
    (tmp_path / "input").unlink()
    assert store.get(cid_of(1)) == data_of(1), "its bytes are the job's too, and a file may change"
    assert cache.size() == 0 and here(store, 1, 2) == [1, 2]
