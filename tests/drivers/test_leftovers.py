"""Leftovers of the store, and of systemd's runners; tests/lab/test_leftovers.py looks at the rest on real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers import leftovers
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.leftovers import Leftover
from ipdc_edge.drivers.runner_unit import RunnerUnit


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(str(tmp_path / "store"), 1 << 30)
    yield store
    store.close()


def found(store: BlockStore, *needed: str) -> list[Leftover]:
    return list(leftovers.blocks(store, needed.__contains__))


def test_owners_that_nobody_needs_and_what_each_holds(store: BlockStore) -> None:
    store.put(raw_cid(b"ab"), b"ab", "one")
    store.put(raw_cid(b"ab"), b"ab", "two")
    store.put(raw_cid(b"cde"), b"cde", "two")
    assert found(store, "one", "two") == []
    assert found(store, "one") == [Leftover("blocks", "two", 5)]
    store.release("two")
    assert found(store, "one") == []


def test_files_that_hold_blocks_or_are_being_written_are_needed(store: BlockStore) -> None:
    store.put(raw_cid(b"ab"), b"ab", "one")
    done, under_way = store.new_file("one"), store.new_file("one")
    done.append(b"x")
    done.commit()
    under_way.append(b"y")
    assert found(store, "one") == []
    under_way.discard()
    place = Path(store.directory)
    stray = [place / "new" / "a", place / "files" / "one" / "b", place / raw_cid(b"ab")[-2:] / "c"]
    for path in stray:
        path.write_bytes(b"123")
    assert sorted(found(store, "one")) == sorted(Leftover("files", str(path), 3) for path in stray)


def test_a_block_that_nobody_holds(store: BlockStore) -> None:
    """Nothing makes one; a bug would."""
    store.put(raw_cid(b"ab"), b"ab", "one")
    store._index._db.execute("DELETE FROM holds")
    assert Leftover("blocks", "nobody", 2) in found(store, "one")


def test_units_that_no_runner_has(tmp_path: Path) -> None:
    for name in ("ipdc-runner@3-1.service", "ipdc-runner-net@4-2.service"):
        (tmp_path / name).mkdir()
    (tmp_path / "cgroup.procs").touch()
    runner = RunnerUnit(str(tmp_path), str(tmp_path), "runner.sock", print)
    runner.unit = "ipdc-runner@3-1.service"
    there = [str(tmp_path), str(tmp_path / "none")]
    assert list(leftovers.units(there)) == [Leftover("processes", "ipdc-runner-net@4-2.service")]
