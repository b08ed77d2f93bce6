"""What is done to a disk while its n-th write fails: steps over real files, and what must be so after each.

A workload opens what it works on in its first step. Every step is something that a caller asks for and that is told to
have been done, or not; so a step that failed may be done again. Owns no faults: those come from disk_errors.py.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
from collections.abc import Callable
from typing import Any

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.effects import Save, Tell
from ipdc_edge.core.events import Event
from ipdc_edge.drivers import block_pins
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.importer import Importer
from ipdc_edge.drivers.ledger import Ledger

QUOTA = 64 << 20
LEAF = 4096  # bytes of a leaf here
JOB, OTHER, WAITING, NEXT = "20260101-000000-abcd", "20260101-000001-efgh", "submission-1", "20260101-000002-ijkl"


def data_of(name: str, size: int) -> bytes:
    """Bytes that are the same in every run, and of no other name."""
    return (name.encode() + b" ") * (size // (len(name) + 1)) + bytes(size % (len(name) + 1))


def files_below(directory: str) -> dict[str, int]:
    """Size of every file by its path, without those of SQLite."""
    found = {}
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if ".db" not in name:
                found[os.path.relpath(path, directory)] = os.lstat(path).st_size
    return found


class Workload:
    """`steps` in their order; `done` holds the names of those that were told to be done."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.done: list[str] = []
        self.undeletable = False  # the disk refused to remove something

    def steps(self) -> list[Callable[[], None]]:
        """What is asked for, one after the other."""
        raise NotImplementedError

    def again(self) -> None:
        """What a caller does between a step that failed and its second try."""
        gc.collect()  # what could not be opened is closed, as by the end of the process that it leads to

    def look(self, directory: str) -> None:
        """AssertionError unless a process that starts over a copy of the files finds what was acknowledged, and nothing
        that looks whole without being it."""
        raise NotImplementedError

    def state(self) -> object:
        """All that there is after a new start: the same as after a quiet run."""
        raise NotImplementedError

    def leftovers(self) -> object:
        """What lies there that the running process does not know of; falsy when there is nothing."""
        return None


class NotDone(Exception):
    """An event told that something failed, with its reason."""

    def __init__(self, event: Event) -> None:
        super().__init__(getattr(event, "reason", ""))


class StoreWorkload(Workload):
    """The block store: all ways in which blocks come, change their place and go."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.blocks = {raw_cid(data): data for data in (data_of(name, 3000) for name in "abcdefghijkl")}
        self.cids = dict(zip("abcdefghijkl", self.blocks))
        self.held: dict[str, str] = {}  # cid -> owner, of what was acknowledged
        self.store: BlockStore | None = None
        self.source = os.path.join(directory, "source")
        with open(self.source, "wb") as file:
            file.write(data_of("source", 2 * LEAF + 500))
        with open(self.source, "rb") as file:
            importer = Importer(file, LEAF)
            self.interior = list(importer.blocks())
            self.root = importer.root
        self.blocks |= dict(self.interior)

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "blocks")

    def steps(self) -> list[Callable[[], None]]:
        return [self.open, self.put, self.put_durably, self.make_durable, self.write_file, self.write_file_durably,
                self.add_reference, self.add_copy, self.transfer, self.put_again, self.release, self.damage, self.pin,
                self.unpin, self.collect, self.compact, self.close]

    def _put(self, name: str, owner: str, durable: bool) -> None:
        assert self.store is not None
        cid = self.cids[name]
        self.store.put(cid, self.blocks[cid], owner, durable)
        self.held[cid] = owner

    def open(self) -> None:
        self.store = BlockStore(self.path, QUOTA)
        _survives_power_cuts(self.store._index._db)

    def put(self) -> None:
        self._put("a", JOB, False)

    def put_durably(self) -> None:
        self._put("b", JOB, True)

    def make_durable(self) -> None:
        self._put("a", JOB, True)

    def _write_file(self, names: str, durable: bool) -> None:
        assert self.store is not None
        writer = self.store.new_file(JOB)
        try:
            for name in names:
                writer.append(self.blocks[self.cids[name]])
            writer.commit(durable)
        finally:
            writer.discard()
        self.held |= {self.cids[name]: JOB for name in names}

    def write_file(self) -> None:
        self._write_file("cd", False)

    def write_file_durably(self) -> None:
        """Over one block that is here but might not survive a power cut."""
        if "e-put" not in self.done:
            self._put("e", JOB, False)
            self.done.append("e-put")
        self._write_file("ef", True)

    def add_reference(self) -> None:
        assert self.store is not None
        with open(self.source, "rb") as file:
            assert self.store.add_reference(file.fileno(), self.root, self.interior, WAITING) == "reference"
        self.held[self.root] = WAITING

    def add_copy(self) -> None:
        assert self.store is not None
        upload = self.store.new_import("user")
        try:
            with open(self.source, "rb") as file:
                assert upload.copy(file.fileno(), LEAF)[0] == self.root
        finally:
            upload.discard()
        self.held[self.root] = "user"

    def transfer(self) -> None:
        assert self.store is not None
        self.store.transfer(WAITING, NEXT)

    def put_again(self) -> None:
        self._put("g", OTHER, False)

    def release(self) -> None:
        assert self.store is not None
        self.held.pop(self.cids["g"], None)  # no longer promised from here on, whatever comes
        self.store.release(OTHER)

    def pin(self) -> None:
        """Three blocks in one file are content that was added; another pin wants one of them too."""
        assert self.store is not None
        owners = self.store.owners()
        if "pin.ijk" not in owners:
            writer = self.store.new_file("adding.ijk")
            try:
                for name in "ijk":
                    writer.append(self.blocks[self.cids[name]])
                writer.commit(durable=True)
            finally:
                writer.discard()
            block_pins.settle(self.store, "adding.ijk", "pin.ijk")
            self.held |= {self.cids[name]: "pin.ijk" for name in "ijk"}
        if "pin.j" not in owners:
            self.store.hold_all("pinning.j", [self.cids["j"]])
            block_pins.settle(self.store, "pinning.j", "pin.j")

    def unpin(self) -> None:
        assert self.store is not None
        for name in "ik":
            self.held.pop(self.cids[name], None)
        block_pins.unpin(self.store, "ijk")

    def collect(self) -> None:
        assert self.store is not None
        while block_pins.collect(self.store) is not None:
            pass

    def compact(self) -> None:
        assert self.store is not None
        for path in block_pins.sparse(self.store, 10):
            block_pins.compact(self.store, path)

    def damage(self) -> None:
        """The disk lost a block's bytes: found out and put again."""
        assert self.store is not None
        cid = self.cids["b"]
        path = os.path.join(self.path, cid[-2:], cid)
        if "damaged" not in self.done:
            self.held.pop(cid)
            os.truncate(path, 10)  # not `open`: it is no write of the store's
            self.done.append("damaged")
        assert self.store.get(cid) in (None, self.blocks[cid])
        self._put("b", JOB, True)

    def close(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = None

    def _check(self, store: BlockStore, path: str) -> None:
        for cid in self.held:
            assert store.get(cid) == self.blocks[cid], f"{cid} was acknowledged and is not here"
        for name, cid in self.cids.items():
            whole = cid in self.held or name == "b" or not store.has(cid) or store.get(cid) == self.blocks[cid]
            assert whole, f"{name} looks as if it were here"
        size = sum(files_below(path).values())
        assert size == store.stat()["bytes"], f"{size} bytes lie there, {store.stat()['bytes']} are counted"

    def look(self, directory: str) -> None:
        path = os.path.join(directory, "blocks")
        store = BlockStore(path, QUOTA)
        try:
            if "b" in self.cids and "damaged" not in self.done:
                self._check(store, path)
            else:
                for cid in self.held:
                    assert store.get(cid) == self.blocks[cid], f"{cid} was acknowledged and is not here"
            assert not os.listdir(os.path.join(path, "new"))
        finally:
            store.close()

    def state(self) -> object:
        store = BlockStore(self.path, QUOTA)
        try:
            self._check(store, self.path)
            sizes = sorted(files_below(self.path).values())
            read = {cid: store.get(cid) is not None for cid in self.blocks}  # it checks every byte
            return store.owners(), store.stat(), sizes, read
        finally:
            store.close()

    def leftovers(self) -> object:
        if self.store is None:
            return None
        size, counted = sum(files_below(self.path).values()), self.store.stat()["bytes"]
        return size != counted and f"{size} bytes lie there, {counted} are counted: {files_below(self.path)}"


class LedgerWorkload(Workload):
    """The ledger: births, saves of two jobs, their stories, an end."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.ledger: Ledger | None = None
        self.births: list[int] = []
        self.saved: dict[tuple[str, str], Any] = {}
        self.batches = [
            [Save("job", JOB, {"n": 1}), Save("task", f"{JOB}/map-00000", {"state": "waiting"})],
            [Save("task", f"{JOB}/map-00000", {"state": "done"}), Save("worker", f"{JOB}/node", {"x": "y" * 5000})],
            [Save("job", OTHER, {"n": 2})],
            [Save("ended", OTHER, {"id": OTHER, "state": "succeeded"}), Save("task", f"{JOB}/map-00001", {"s": 1})],
        ]

    @property
    def path(self) -> str:
        return os.path.join(self.directory, "ledger.db")

    def steps(self) -> list[Callable[[], None]]:
        return [self.open, self.birth, self.save_0, self.save_1, self.save_2, self.save_3, self.close]

    def open(self) -> None:
        self.ledger = Ledger(self.path)
        _survives_power_cuts(self.ledger.database)

    def again(self) -> None:
        """A daemon whose ledger fails ends and starts anew; only for room does it wait. Here always."""
        if self.ledger is not None:
            self.ledger.reader.close()
            self.ledger.database.close()
            self.ledger = None
        super().again()

    def _opened(self) -> Ledger:
        if self.ledger is None:
            self.open()
        assert self.ledger is not None
        return self.ledger

    def birth(self) -> None:
        number = self._opened().next_birth()
        assert not self.births or number > self.births[-1], "a birth number came twice"
        self.births.append(number)

    def _save(self, number: int) -> None:
        ledger = self._opened()
        for kind in ("accepted", "leased", "failed"):
            ledger.stories.tell(Tell(JOB, kind, f"map-{number:05d}"), 1.0)
        asyncio.run(ledger.save(self.batches[number]))
        for save in self.batches[number]:
            self.saved[save.kind, save.key] = save.value
            if save.kind == "ended":
                self.saved = {at: value for at, value in self.saved.items() if at[1] != save.key or at[0] == "ended"}

    def save_0(self) -> None:
        self._save(0)

    def save_1(self) -> None:
        self._save(1)

    def save_2(self) -> None:
        self._save(2)

    def save_3(self) -> None:
        self._save(3)

    def close(self) -> None:
        self._opened().close()
        self.ledger = None

    def _found(self, ledger: Ledger) -> dict[tuple[str, str], Any]:
        found = {(save.kind, save.key): save.value for save in ledger.unfinished()}
        return found | {("ended", str(view["id"])): view for view in ledger.ended_jobs(10)}

    def look(self, directory: str) -> None:
        ledger = Ledger(os.path.join(directory, "ledger.db"))
        try:
            found = self._found(ledger)
            allowed = [self.saved]  # or with the next batch, which was not acknowledged, whole
            saved = dict(self.saved)
            for number in range(len(self.batches)):
                if f"save_{number}" not in self.done:
                    self._after(saved, self.batches[number])
                    allowed.append(saved)
                    break
            assert found in allowed, f"{found}: neither all that was saved nor that with one more batch: {allowed}"
            assert not self.births or ledger.next_birth() > self.births[-1], "a birth number would come twice"
        finally:
            ledger.close()

    @staticmethod
    def _after(saved: dict[tuple[str, str], Any], batch: list[Save]) -> None:
        for save in batch:
            if save.kind == "ended":
                for at in [at for at in saved if at[1].partition("/")[0] == save.key]:
                    del saved[at]
            saved[save.kind, save.key] = save.value

    def state(self) -> object:
        ledger = Ledger(self.path)
        try:
            found = self._found(ledger)
            assert found == self.saved, f"{found}: not what was acknowledged, {self.saved}"
            return self.saved, ledger.database.execute("PRAGMA integrity_check").fetchall()
        finally:
            ledger.close()


def _survives_power_cuts(database: sqlite3.Connection) -> None:
    """SQLite stays in its old mode, and says nothing, where its log cannot be made."""
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
