"""Who holds which blocks, and how much room there is: what every kind of block store has in common.

Owns the index, the lock around it and the count of bytes. Touches no bytes of blocks, and never waits for anything but
the lock and its own database. Who an owner is stands in `block_rows`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import canonical, inlined
from ipdc_edge.drivers.block_files import ContentWriter, check_owner
from ipdc_edge.drivers.block_index import BlockIndex
from ipdc_edge.drivers.block_rows import CONTENT_FILE, KUBO, LOST, OWN_FILE, REFERENCE, Freed
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipdc_edge.drivers.block_rows import Row


class StoreFull(IpdcError):
    """The block store holds {held} of the {quota} bytes that it may, and {wanted} more do not fit. Raise
    store_quota in ipdc.conf, unpin what you do not need here (ipdc-edge pin --list, then gc), or let jobs end."""

    retry = True


class OwnedBlocks:
    """Owners and quota of one store, whose index is in this directory."""

    def __init__(self, directory: str, quota: int) -> None:
        self.directory = directory
        self.quota = quota
        self._lock = threading.RLock()
        self._writers: dict[ContentWriter, str] = {}
        self.cached: dict[str, int] = {}  # owners of inputs that were kept, and bytes: they go first, in this order
        self._index = BlockIndex(os.path.join(directory, "index.db"))
        self._held = self._index.held_bytes()

    def release(self, owner: str) -> None:
        """Free all that only this owner holds, open content files too. Nothing to do for an unknown owner."""
        check_owner(owner)
        with self._lock:
            for writer in [writer for writer, holder in self._writers.items() if holder == owner]:
                writer.discard()
            self._remove(self._index.release(owner), owner)

    def hold_all(self, owner: str, cids: Iterable[str]) -> list[str]:
        """Keep those blocks for `owner` that are here, without a look at their bytes; the CIDs of the others. A power
        cut takes it back until something durable is done."""
        check_owner(owner)
        with self._lock:
            return self._index.hold_all(owner, [cid for cid in map(canonical, cids) if inlined(cid) is None])

    def holds(self, owner: str, cid: str) -> bool:
        """Whether this owner holds the block."""
        with self._lock:
            return self._index.holds(owner, canonical(cid))

    def transfer(self, old: str, new: str) -> None:
        """What `old` holds is held by `new` from now on, durably; `new` must not hold anything yet."""
        check_owner(new)
        with self._lock:
            self._index.rename_owner(old, new)
        FLASH.moved(old, new)

    def owners(self) -> list[str]:
        """Everyone who holds something, by name."""
        with self._lock:
            return self._index.owners()

    def holders(self) -> list[tuple[str | None, int]]:
        """Everyone who holds something, and the bytes of it; None for blocks that nobody holds."""
        with self._lock:
            return self._index.holders()

    def owned_bytes(self, prefix: str) -> int:
        """The bytes of the blocks that owners hold whose names begin so."""
        with self._lock:
            return self._index.owned_bytes(prefix)

    def rows(self, after: int, most: int) -> list[Row]:
        """The blocks behind the row `after`, in the order in which they came."""
        with self._lock:
            return self._index.rows(after, most)

    def stat(self) -> dict[str, int]:
        """blocks (all that can be read), bytes (of our own files and pins), references, lost (damaged), quota."""
        with self._lock:
            counts = self._index.count()
            return {
                "blocks": counts[OWN_FILE] + counts[CONTENT_FILE] + counts[REFERENCE] + counts[KUBO],
                "bytes": self._held,
                "references": counts[REFERENCE],
                "lost": counts[LOST],
                "quota": self.quota,
            }

    def take_room(self, size: int) -> None:
        """Count `size` more bytes as held, or raise StoreFull."""
        with self._lock:
            self._take_room(size)

    def check_room(self, size: int) -> None:
        """Raise StoreFull already now if so much cannot come."""
        with self._lock:
            self._take_room(size)
            self._held -= size

    def give_room(self, size: int) -> None:
        """Count `size` bytes as held no longer."""
        with self._lock:
            self._held -= size

    def _take_room(self, size: int) -> None:
        if self._held + size > self.quota >= size:
            from ipdc_edge.drivers.block_pins import abandon, collect

            while self._held + size > self.quota and collect(self) is not None:
                pass
            abandon(self, size)
        if self._held + size > self.quota:
            raise StoreFull(held=self._held, quota=self.quota, wanted=size)
        self._held += size

    def _remove(self, freed: Freed, *owners: str) -> None:
        """Remove the bytes whose rows are gone, and the owners' directories where that was all."""
        raise NotImplementedError
