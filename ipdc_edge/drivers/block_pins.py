"""What is kept because somebody said so: content becomes a pin, is unpinned, and then goes when room is wanted.

Owns the order in which that happens, so that a kill at any moment leaves a sound store with all that is pinned. Loaded
by who pins, and when the store is full. A part of `blocks`, whose lock and index it uses; it never looks at what a CID
leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipdc_edge.drivers.block_rows import PIN, UNPINNED

if TYPE_CHECKING:
    from ipdc_edge.drivers.block_owners import OwnedBlocks
    from ipdc_edge.drivers.block_rows import Freed
    from ipdc_edge.drivers.blocks import BlockStore

_COLLECTED = 256  # blocks that go at a time, while the store is locked
_MOVED = "moved"  # where content files lie that `compact` made


def settle(store: BlockStore, old: str, new: str) -> None:
    """What `old` holds is held by `new`, durably. Where `new` is known already it has all that it needs, and `old` is
    released."""
    with store._lock:
        if store._index.has_owner(new):
            store.release(old)
        else:
            store.transfer(old, new)


def unpin(store: BlockStore, root: str) -> bool:
    """Content is kept no longer than there is room; False where it was not pinned."""
    with store._lock:
        if not store._index.has_owner(PIN + root):
            return False
        settle(store, PIN + root, UNPINNED + root)
        return True


def collect(store: OwnedBlocks) -> Freed | None:
    """Free some of what was unpinned, the oldest first; None when there is nothing left of it."""
    with store._lock:
        freed = store._index.collect(UNPINNED, _COLLECTED)
        if freed is not None:
            store._remove(freed)
        return freed


def sparse(store: BlockStore, most: int) -> list[str]:
    """Content files of which most was freed while some block in them is wanted."""
    with store._lock:
        return store._index.sparse_files(most)


def compact(store: BlockStore, old: str) -> int:
    """Have what is left in such a file lie in one that is as long as it must be: the bytes that this freed. StoreFull,
    DiskFull where there is no room for the copies."""
    with store._lock:
        left = store._index.blocks_of(old)
    writer = store.new_file(_MOVED)
    try:
        for cid in left:
            data = store.get(cid)
            if data is not None:  # else it went, or its bytes are lost
                writer.append_block(cid, data)
        return writer.commit_moved(old)
    finally:
        writer.discard()
