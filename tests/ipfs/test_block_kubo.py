"""A store whose bytes are in a real Kubo: its garbage collection, its absence, and others who use it too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK
from ipdc_edge.drivers import block_kubo
from ipdc_edge.drivers.block_kubo import InKubo
from ipdc_edge.drivers.block_rows import KUBO, OWN_FILE, KuboFailed, KuboGone, OtherKubo
from ipdc_edge.drivers.block_verify import check
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.importer import import_file
from ipdc_edge.drivers.kubo_rpc import KuboRefused, NoKubo
from tests.drivers.stores import QUOTA, OfKubo
from tests.ipfs.kubo import Kubo
from tests.waiting import eventually

pytestmark = pytest.mark.kubo
JOB, OTHER = "20260101-000000-abcd", "20260101-000001-efgh"


@pytest.fixture
def store(kubo: Kubo, tmp_path: Path) -> Iterator[BlockStore]:
    store = OfKubo(kubo).open(str(tmp_path / "blocks"))
    yield store
    store.close()


def put(store: BlockStore, *data: bytes, owner: str = JOB) -> list[str]:
    writer = store.new_file(owner)
    cids = [writer.append(one) for one in data]
    writer.commit()
    return cids


def collect(kubo: Kubo, store: BlockStore) -> None:
    """Kubo's own collection, once it knows what is not wanted."""
    eventually(store.kubo.settled, "what is not wanted was unpinned", 20)
    kubo.run("repo", "gc", "--quiet")


def test_kubos_collection_takes_what_was_released_and_nothing_else(kubo: Kubo, store: BlockStore) -> None:
    one, two = put(store, b"one", b"two")
    (three,) = put(store, b"three", owner=OTHER)
    store.put(raw_cid(b"four"), b"four", JOB)
    writer = store.new_file(JOB)
    under_way = writer.append(b"not committed")
    collect(kubo, store)
    assert [store.get(cid) for cid in (one, two, three, raw_cid(b"four"))] == [b"one", b"two", b"three", b"four"]
    with pytest.raises(KuboFailed, match="collected"):
        writer.commit()  # nothing had kept it yet
    writer.discard()
    assert not store.has(under_way)
    store.release(OTHER)
    collect(kubo, store)
    assert store.get(one) == b"one" and store.kubo.get(three) is None
    store.release(JOB)
    collect(kubo, store)
    assert store.kubo.get(one) is store.kubo.get(raw_cid(b"four")) is None and store.stat()["bytes"] == 0


def test_a_node_is_kept_whose_leaves_are_in_a_users_file(kubo: Kubo, store: BlockStore, tmp_path: Path) -> None:
    """A pin that went on to them would find nothing, and Kubo collects nothing while a pinned block is missing."""
    path = tmp_path / "input"
    path.write_bytes(b"".join(bytes([number]) * CHUNK for number in range(3)))
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        assert store.add_reference(file.fileno(), root, interior, JOB) == "reference"
    assert store.kubo.get(root) is not None and store.stat()["references"] == 3
    collect(kubo, store)
    assert store.get(root) == dict(interior)[root]
    with open(path, "rb") as file:
        store.add_reference(file.fileno(), root, interior, OTHER, copy=True)
    path.unlink()
    collect(kubo, store)
    assert kubo.run("cat", root) == b"".join(bytes([number]) * CHUNK for number in range(3))


def test_any_number_of_blocks_has_one_pin(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_kubo, "MOST_LINKS", 3)
    cids = put(store, *(b"%d" % number for number in range(10)))
    assert len(list(store.kubo.rpc.pins(store.kubo.name))) == 1
    collect(kubo, store)
    assert [store.get(cid) for cid in cids] == [b"%d" % number for number in range(10)]


def test_pins_of_others_are_none_of_ours(kubo: Kubo, store: BlockStore, tmp_path: Path) -> None:
    """Neither what the machine's owner pinned, nor another node's on the same Kubo."""
    (cid,) = put(store, b"shared")
    kubo.run("pin", "add", cid)
    neighbour = OfKubo(kubo).open(str(tmp_path / "neighbour"))
    put(neighbour, b"shared", b"the neighbour's")
    store.release(JOB)
    store.close()
    again = OfKubo(kubo).open(store.directory)
    again.kubo.begin()
    collect(kubo, again)
    assert neighbour.get(raw_cid(b"the neighbour's")) == b"the neighbour's"
    neighbour.release(JOB)
    collect(kubo, neighbour)
    assert neighbour.kubo.get(raw_cid(b"the neighbour's")) is None and kubo.run("block", "get", cid) == b"shared"
    kubo.run("pin", "rm", cid)
    neighbour.close()
    again.close()


def test_what_an_unclean_end_left_pinned_goes_and_what_somebody_unpinned_is_pinned_again(
        kubo: Kubo, store: BlockStore) -> None:
    kept, *_ = put(store, b"kept", b"kept too")
    pins = {cid for cid, _ in store.kubo.rpc.pins(store.kubo.name)}
    store.kubo.put(raw_cid(b"lost"), b"lost")
    lost = store.kubo.pin(JOB, [raw_cid(b"lost")])  # and a power cut before its row
    kubo.run("pin", "rm", *pins)
    store.close()
    again = OfKubo(kubo).open(store.directory)
    again.kubo.begin()
    assert {cid for cid, _ in again.kubo.rpc.pins(again.kubo.name)} == pins and lost.rpartition("/")[2] not in pins
    again.close()
    again = OfKubo(kubo).open(store.directory)
    again.kubo.begin()
    collect(kubo, again)
    assert again.get(kept) == b"kept" and again.kubo.get(raw_cid(b"lost")) is None
    again.close()


def test_what_kubo_lost_is_found_by_verify_and_may_come_again(kubo: Kubo, store: BlockStore) -> None:
    one, two = put(store, b"is lost", b"stays")
    kubo.run("pin", "rm", *(cid for cid, _ in store.kubo.rpc.pins(store.kubo.name)))
    kubo.run("block", "rm", one)
    assert [damage.cid for step in check(store) for damage in step.damage if damage.cid] == [one]
    assert not store.has(one) and store.get(two) == b"stays" and store.stat()["lost"] == 1
    put(store, b"is lost", owner=OTHER)
    assert store.get(one) == b"is lost" and store.stat()["lost"] == 0
    assert [damage.cid for step in check(store) for damage in step.damage if damage.cid] == []


def test_verify_tells_what_kubo_would_collect(kubo: Kubo, store: BlockStore) -> None:
    put(store, b"not pinned any more")
    kubo.run("pin", "rm", *(cid for cid, _ in store.kubo.rpc.pins(store.kubo.name)))
    (damage,) = [damage for step in check(store) for damage in step.damage]
    assert damage.cid == "" and damage.path.startswith(f"{JOB}/b") and "pin" in damage.reason


def test_a_store_that_changes_its_kind_keeps_what_it_has(kubo: Kubo, tmp_path: Path) -> None:
    directory = str(tmp_path / "blocks")
    store = BlockStore(directory, QUOTA)
    store.put(raw_cid(b"in a file"), b"in a file", JOB)
    store.close()
    store = OfKubo(kubo).open(directory)
    assert store.keeps_in == "kubo" and store.get(raw_cid(b"in a file")) == b"in a file"
    put(store, b"in kubo")
    store.put(raw_cid(b"our own"), b"our own", JOB, on_disk=True)
    places = [row.location.place for row in store.rows(0, 10)]
    assert places == [OWN_FILE, KUBO, OWN_FILE]
    before = store.stat()
    store.close()
    store = BlockStore(directory, QUOTA, InKubo(directory, kubo.rpc), kubo_reads=True)
    assert store.keeps_in == "embedded" and store.stat() == before
    assert store.get(raw_cid(b"in kubo")) == b"in kubo"
    put(store, b"in a file again")
    assert store.kubo.get(raw_cid(b"in a file again")) is None
    store.release(JOB)
    collect(kubo, store)
    assert store.kubo.get(raw_cid(b"in kubo")) is None and store.stat()["bytes"] == 0
    store.close()


def test_who_waits_for_a_kubo_that_is_started_again_gets_on(kubo: Kubo, store: BlockStore) -> None:
    (cid,) = put(store, b"before")
    kubo.stop(kill=True)
    found: list[object] = []
    waiting = [threading.Thread(target=lambda: found.append(store.get(cid))),
               threading.Thread(target=lambda: found.extend(put(store, b"after")))]
    store.kubo._patience = 120.0
    for thread in waiting:
        thread.start()
    eventually(lambda: store.kubo._gone_since is not None, "they have noticed", 20)
    kubo.start()
    for thread in waiting:
        thread.join()
    assert sorted(map(str, found)) == sorted(map(str, [b"before", raw_cid(b"after")]))


def test_a_kubo_that_stays_away_is_waited_for_once_and_only_by_who_needs_it(kubo: Kubo, store: BlockStore) -> None:
    (cid,) = put(store, b"there")
    store.put(raw_cid(b"own"), b"own", JOB, on_disk=True)
    kubo.stop(kill=True)
    store.kubo._patience = 1.0
    began = time.monotonic()
    with pytest.raises(KuboGone, match=rf"127\.0\.0\.1:{kubo.rpc[1]} .*ipfs daemon"):
        store.get(cid)
    assert time.monotonic() - began > 1.0
    for _ in range(50):  # more than patience would allow if each waited
        with pytest.raises(KuboGone):
            store.open_block(cid)
    writer = store.new_file(OTHER)
    with pytest.raises(KuboGone):
        writer.append(b"nowhere to go")
    writer.discard()
    assert time.monotonic() - began < 20
    assert store.has(cid) and store.get(raw_cid(b"own")) == b"own" and store.stat()["lost"] == 0
    store.hold_all(OTHER, [cid])
    store.release(JOB)
    store.release(OTHER)
    assert store.stat()["bytes"] == 0 and not store.kubo.settled()
    kubo.start()
    assert store.kubo.version()
    collect(kubo, store)
    assert store.kubo.get(cid) is None


def test_the_end_of_a_daemon_waits_for_nobody(kubo: Kubo, store: BlockStore) -> None:
    (cid,) = put(store, b"there")
    kubo.stop(kill=True)
    store.kubo._patience = 600.0
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            store.get(cid)
        except KuboGone as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: store.kubo._gone_since is not None, "it waits", 20)
    store.close()
    thread.join(30)
    kubo.start()
    assert len(ended) == 1


def pins(store: BlockStore) -> list[str]:
    return sorted(cid for cid, _ in store.kubo.rpc.pins(store.kubo.name))


def test_what_nobody_wants_is_unpinned_when_kubo_is_there_again_whoever_notices(kubo: Kubo, store: BlockStore) -> None:
    """That it could not be unpinned is all that tells of Kubo's absence here."""
    (cid,) = put(store, b"not wanted")
    kubo.stop(kill=True)
    store.release(JOB)
    eventually(lambda: not store.kubo._unpinning, "it was tried", 20)
    assert not store.kubo.settled()
    kubo.start()
    assert store.kubo.version()
    collect(kubo, store)
    assert store.kubo.get(cid) is None


@pytest.mark.parametrize("fault", [NoKubo, KuboRefused])
def test_a_pin_that_was_lifted_to_mend_a_block_comes_back_whatever_happens(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch, fault: type[NoKubo | KuboRefused]) -> None:
    data = b"damaged, and then " + fault.__name__.encode()  # pins of earlier tests keep theirs
    bad, good = put(store, data, b"beside it")
    before = pins(store)
    OfKubo(kubo).damage(store, bad, "change")
    assert store.get(bad) is None and list(store.kubo._damaged) == [bad]
    put_block, turns = store.kubo.rpc.put_block, iter(range(9))

    def refuses_once(*words: object) -> str:
        if next(turns) == 1:  # the second time, so in the middle of mending
            raise fault(address="x", reason="restarts")
        return put_block(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(store.kubo.rpc, "put_block", refuses_once)
    if fault is KuboRefused:
        with pytest.raises(KuboFailed):
            put(store, data)
    put(store, data)
    assert set(before) < set(pins(store)) and not store.kubo._damaged and not store.kubo._lifted
    collect(kubo, store)
    assert (store.get(bad), store.get(good)) == (data, b"beside it")


def test_a_block_is_mended_by_one_of_those_who_put_it(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (cid,) = put(store, b"damaged for two")
    OfKubo(kubo).damage(store, cid, "change")
    assert store.get(cid) is None
    put_block, mend, mended, second = store.kubo.rpc.put_block, store.kubo._mend, [], threading.Event()

    def counted(*words: object) -> str:
        if threading.current_thread() is thread:
            second.set()
        return put_block(*words)  # type: ignore[arg-type]

    def slow(*words: object) -> None:
        mended.append(words)
        if len(mended) == 1:
            thread.start()
            assert second.wait(20)
        mend(*words)  # type: ignore[arg-type]

    thread = threading.Thread(target=lambda: put(store, b"damaged for two", owner=OTHER))
    monkeypatch.setattr(store.kubo.rpc, "put_block", counted)
    monkeypatch.setattr(store.kubo, "_mend", slow)
    put(store, b"damaged for two")
    thread.join()
    assert len(mended) == 1 and store.get(cid) == b"damaged for two"


def test_a_pin_that_kubo_refuses_or_cannot_complete_is_no_end_of_all_writing(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (gone,) = put(store, b"is gone")
    put(store, b"still there")
    before = pins(store)
    kubo.run("pin", "rm", *before)
    kubo.run("block", "rm", gone)
    store.close()
    again = OfKubo(kubo).open(store.directory)
    again.kubo.known([*again.pins_in_kubo(), f"{JOB}/no-cid-at-all"])
    pinned, pin = [], again.kubo.rpc.pin
    monkeypatch.setattr(again.kubo.rpc, "pin", lambda cid, *words: (pinned.append(cid), pin(cid, *words))[1])
    put(again, b"new", owner=OTHER)
    assert len(set(before) & set(pins(again))) == 1 and len(pins(again)) == 2
    assert len(pinned) == 2  # that of the lost one, which would wait for it, was not asked for
    again.close()


def test_another_kubo_in_its_place_is_named_and_nothing_is_lost(
        kubo: Kubo, store: BlockStore, tmp_path: Path) -> None:
    one, _ = put(store, b"in the first", b"and another")
    before, here = pins(store), kubo.call("id")["ID"]
    other = Kubo(tmp_path)
    other.start()
    try:
        foreign = InKubo(str(tmp_path / "blocks"), other.rpc)
        there = foreign.rpc.identity()["ID"]
        writer = store.new_file(OTHER)
        writer.append(b"under way")
        store.kubo.rpc = foreign.rpc  # while the daemon runs
        words = f"is {there}, and this node's blocks are in another one, {here}.*kubo_api"
        asks = [lambda: store.get(one), lambda: store.open_block(one), writer.commit, lambda: list(check(store)),
                lambda: store.kubo.damaged(one, before[0])]
        for ask in asks:
            with pytest.raises(OtherKubo, match=words):
                ask()
        writer.discard()
        assert store.stat()["lost"] == 0 and store.has(one) and not store.kubo._damaged
        store.close()
        again = BlockStore(store.directory, QUOTA, foreign)
        for ask in (again.kubo.begin, lambda: again.get(one)):
            with pytest.raises(OtherKubo, match=words):
                ask()
        assert again.stat()["lost"] == 0 and list(foreign.rpc.pins("ipdc-edge")) == []
        again.close()
    finally:
        other.stop()
    again = OfKubo(kubo).open(store.directory)
    again.kubo.begin()
    assert pins(again) == before and again.get(one) == b"in the first"
    again.close()


def test_who_is_discarded_during_its_commit_leaves_no_pin(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, pin = store.new_file(JOB), store.kubo.rpc.pin
    writer.append(b"too late")

    def discarded(*words: object) -> bool:
        done = pin(*words)  # type: ignore[arg-type]
        writer.discard()
        return done

    monkeypatch.setattr(store.kubo.rpc, "pin", discarded)
    with pytest.raises(ValueError, match="discarded"):
        writer.commit()
    eventually(store.kubo.settled, "what is not wanted was unpinned", 20)
    assert pins(store) == [] and store.stat()["bytes"] == 0


def test_a_commit_that_failed_after_its_pin_makes_no_second_one(
        kubo: Kubo, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, commit = store.new_file(JOB), store.commit_writer
    cid = writer.append(b"once")
    monkeypatch.setattr(store, "commit_writer", lambda *words: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        writer.commit()
    monkeypatch.setattr(store, "commit_writer", commit)
    writer.commit()
    assert len(pins(store)) == 1 and store.get(cid) == b"once"
