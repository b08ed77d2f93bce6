"""Inputs that came from other nodes, kept for the next job over the same input as long as nobody needs the room.

Owns how much of them there may be, and what goes first: the least recently used. One content file for what one task
fetched, so that it costs a commit a task and no fsync: a power cut may take what came last. It never makes a task fail,
never makes anything else go, and holds no block in memory. How it goes where others want room: `block_pins`.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import verify
from ipdc_edge.drivers.block_rows import CACHED
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from ipdc_edge.drivers.block_files import ContentWriter
    from ipdc_edge.drivers.blocks import BlockStore

LEAST = 64 << 10  # bytes that a task fetches before they are worth a file and its rows
MOST_FILES = 4096  # that are kept: each takes some memory
FREE = 48 << 20  # bytes that the disk has left, or what is kept goes
_FAILURES = (IpdcError, OSError, sqlite3.Error, ValueError)  # of a disk or a store that is full or broken


class InputCache:
    """What is kept of one domain's inputs, at most `limit` bytes of it; none with 0. What came in another domain goes:
    it is not for the members of this one."""

    def __init__(self, store: BlockStore, limit: int, domain: str = "") -> None:
        self.store, self.limit = store, limit
        self._prefix = f"{CACHED}{domain}."
        self.writers: dict[KeptInputs, None] = {}
        self.coming: dict[str, tuple[KeptInputs, int, int]] = {}  # CIDs that these hold already: offset, size
        kept = [owner for owner in store.owners() if owner.startswith(CACHED)]  # by name, so by age
        owners = [owner for owner in kept if owner.startswith(self._prefix)]
        for foreign in kept:
            if foreign not in owners:
                with suppress(*_FAILURES):
                    store.release(foreign)
                    store.cached.pop(foreign, None)
        sizes = dict(store.holders()) if owners else {}
        store.cached.update((owner, sizes.get(owner, 0)) for owner in owners)
        self._number = int(owners[-1].removeprefix(self._prefix), 16) if owners else 0
        self.shrink()

    def has(self, cid: str) -> bool:
        """Whether a block came for a task that is not done yet."""
        return cid in self.coming

    def get(self, cid: str) -> bytes | None:
        """Such a block, checked against its CID."""
        task, offset, size = self.coming.get(cid, (None, 0, 0))
        with suppress(*_FAILURES):
            if task is not None and (data := task.read(offset, size)) is not None:
                verify(cid, data)
                return data
        return None

    def size(self) -> int:
        """Bytes of all that is kept or on its way to be."""
        return sum(self.store.cached.values()) + sum(one.size for one in self.writers)

    def shrink(self, room: int = 0) -> bool:
        """Have so many bytes fit below the limit; whether they do."""
        while (self.size() + room > self.limit or len(self.store.cached) >= MOST_FILES) and self._forget_one():
            pass
        return self.size() + room <= self.limit

    def give_way(self, free: int) -> None:
        """The disk has so much left: when that is little, all goes."""
        if free < FREE:
            while self._forget_one():
                pass

    def writer(self, size: int) -> KeptInputs | None:
        """Where a task that reads so many bytes of inputs puts what it fetches; None where nothing is to be kept."""
        if not self.limit or size < LEAST:
            return None
        with suppress(OSError):
            disk = os.statvfs(self.store.directory)
            if disk.f_bavail * disk.f_frsize >= FREE + size:
                return KeptInputs(self)
        return None

    def new_owner(self) -> str:
        """The next name; they rise, so that the order of age is known after a restart."""
        self._number += 1
        return f"{self._prefix}{self._number:012x}"

    def _forget_one(self) -> bool:
        if not self.store.cached:
            return False
        try:
            owner = next(iter(self.store.cached))
            self.store.release(owner)
        except _FAILURES:
            return False
        self.store.cached.pop(owner, None)
        return True


class KeptInputs:
    """The blocks that one task fetches. `close` must be called, whatever happened."""

    keeps = True

    def __init__(self, cache: InputCache) -> None:
        self._cache, self._store = cache, cache.store
        self._writer: ContentWriter | None = None
        self._cids: list[str] = []
        self._over = False
        cache.writers[self] = None

    @property
    def size(self) -> int:
        """Bytes that it has written."""
        return self._writer.size if self._writer is not None else 0

    def came(self, cid: str, data: bytes) -> None:
        """A block came from another node."""
        try:
            if not self._over and cid not in self._cache.coming and not self._store.has(cid):
                self._over = not self._append(cid, data)
        except _FAILURES:
            self._over = True

    def was_here(self, cid: str) -> None:
        """A block of the own store was read."""
        if self._store.cached:
            from ipdc_edge.drivers import block_pins

            with suppress(*_FAILURES):
                block_pins.used(self._store, cid)

    def _append(self, cid: str, data: bytes) -> bool:
        from ipdc_edge.drivers import block_pins  # not in the memory of who fetches nothing

        cache = self._cache
        if not cache.shrink(len(data)):
            return False
        if self._writer is None:
            self._writer = self._store.new_file(cache.new_owner(), on_disk=True)  # Kubo would have to be waited for
        offset = self._writer.size
        while not block_pins.append(self._store, self._writer, cid, data):
            if not cache.store.cached or not cache._forget_one():  # only what was kept before makes room for it
                return False
        cache.coming[cid] = self, offset, len(data)
        self._cids.append(cid)
        return True

    def read(self, offset: int, size: int) -> bytes | None:
        """What was written there."""
        return self._writer.read_back(offset, size) if self._writer is not None else None

    def close(self) -> None:
        """What came is there for the next task."""
        self._cache.writers.pop(self, None)
        for cid in self._cids:
            self._cache.coming.pop(cid, None)
        self._cids.clear()
        writer, self._writer, self._over = self._writer, None, True
        if writer is None:
            return
        from ipdc_edge.drivers import block_pins

        with suppress(*_FAILURES):
            block_pins.finish(self._store, writer)
        with suppress(*_FAILURES):
            writer.discard()  # nothing, where it was committed
        self._cache.shrink()  # the limit may be less by now
