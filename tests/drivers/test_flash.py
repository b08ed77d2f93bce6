"""What is written and synced is counted, for whom, and what an idle time took."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.effects import Save
from ipdc_edge.drivers import durable, flash
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.flash import FLASH, Flash, Idle, Job
from ipdc_edge.drivers.ledger import Ledger


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced by os.fsync and os.fdatasync from now on."""
    found: list[str] = []

    def noting(real):  # type: ignore[no-untyped-def]
        def sync(descriptor: int) -> None:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)
        return sync

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    return found


def share(job: str) -> Job:
    return FLASH.job(job) or Job()


def test_each_fsync_of_the_store_is_counted_for_its_owner(tmp_path: Path, syncs: list[str]) -> None:
    store = BlockStore(str(tmp_path / "store"), 1 << 30)
    before = FLASH.fsyncs
    try:
        for durably, job in ((False, "flash-a"), (True, "flash-b")):
            data = job.encode() * 100
            store.put(raw_cid(data), data, f"{job}.QmMaster", durably)
            writer = store.new_file(f"{job}.QmMaster")
            writer.append(job.encode() * 1000)
            writer.commit(durably)
            commits = 2 if durably else 0  # SQLite's own: the block's and the file's
            assert share(job) == (7 * 1100, len(syncs) + commits)
        assert len(syncs) == 6 and FLASH.fsyncs - before == len(syncs) + 2
        writer = store.new_file("flash-b.QmMaster")
        writer.append(b"x")
        writer.flush()
        assert share("flash-b").fsyncs == 9
        writer.discard()
    finally:
        store.close()


def test_content_of_a_submission_is_its_jobs(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path / "store"), 1 << 30)
    try:
        store.put(raw_cid(b"input"), b"input", "submit-f1a5f1a5f1a5f1a5")
        store.transfer("submit-f1a5f1a5f1a5f1a5", "flash-c")
        assert share("flash-c") == (5, 1) and FLASH.job("submit-f1a5f1a5f1a5f1a5") is None
    finally:
        store.close()


def test_a_commit_of_the_ledger_is_counted_once_and_for_each_of_its_jobs(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger.db"))
    try:
        before = FLASH.fsyncs
        saves = [Save("job", "flash-d", {"a": 1}), Save("task", "flash-d/m-0", {}), Save("job", "flash-e", {})]
        asyncio.run(ledger.save(saves))
        assert FLASH.fsyncs - before == 1
        assert share("flash-d") == (len('{"a":1}') + 2, 1) and share("flash-e") == (2, 1)
    finally:
        ledger.close()


def test_files_and_directories_that_are_made_durable_are_counted(tmp_path: Path, syncs: list[str]) -> None:
    before = FLASH.fsyncs
    durable.sync_directory(str(tmp_path), "flash-f")
    with open(tmp_path / "x", "wb") as file:
        durable.sync_file(file.fileno())
    assert syncs == [str(tmp_path), str(tmp_path / "x")]
    assert FLASH.fsyncs - before == 2 and share("flash-f") == (0, 1)


def test_the_kernel_counts_what_this_process_writes() -> None:
    before = flash.process_writes()
    disk = os.open(os.path.dirname(__file__), os.O_TMPFILE | os.O_RDWR)  # /tmp may be memory
    try:
        os.write(disk, os.urandom(4 << 20))
        os.fsync(disk)
        assert flash.process_writes() - before >= 4 << 20
    finally:
        os.close(disk)


def test_jobs_that_are_remembered_are_bounded() -> None:
    counted = Flash()
    for number in range(flash.MOST_JOBS + 10):
        counted.wrote(f"job{number}", 1)
        counted.wrote("first", 1)
    assert counted.job("job0") is None and counted.job(f"job{flash.MOST_JOBS + 9}") == Job(1, 0)
    assert counted.job("first") == Job(flash.MOST_JOBS + 10, 0), "the one that was written for last stays"


class Disk:
    def __init__(self) -> None:
        self.written = 0
        self.counted = Flash(lambda: self.written)

    def pass_time(self, begin: float, end: float, each: int, busy: bool = False) -> None:
        """Looks every five seconds; so many bytes and a fsync a minute."""
        for second in range(int(begin), int(end) + 1, 5):
            if second % 60 == 0:
                self.written += each
                self.counted.synced()
            self.counted.look(float(second), busy)


def test_an_idle_time_is_told_from_when_the_last_job_ended() -> None:
    disk = Disk()
    disk.pass_time(0, 295, 1000, busy=True)
    assert disk.counted.idle(295.0) is None
    disk.pass_time(300, 1500, 10)
    assert disk.counted.idle(1500.0) == Idle(1200.0, 200, 20)
    disk.pass_time(1505, 1600, 1000, busy=True)
    assert disk.counted.idle(1600.0) is None and disk.counted.last == Idle(1205.0, 200, 20)


def test_no_more_than_an_hour_is_looked_back_on() -> None:
    disk = Disk()
    disk.pass_time(0, 36_000, 10)
    idle = disk.counted.idle(36_000.0)
    assert idle is not None and 3600 <= idle.seconds <= 3660 and idle.written == idle.seconds // 60 * 10
    assert len(disk.counted._samples) <= 62
