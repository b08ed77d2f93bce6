"""What is kept because somebody said so: content becomes a pin, is unpinned, and then goes when room is wanted.

Owns the order in which that happens, so that a kill at any moment leaves a sound store with all that is pinned. Inputs
that a worker keeps (`input_cache`) go before. Loaded by who pins or keeps, and when the store is full. A part of
`blocks`, whose lock and index it uses; it never looks at what a CID leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipdc_edge.drivers.block_rows import CACHED, PIN, UNPINNED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_files import ContentWriter
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
    """Free some of what nobody needs: inputs that were kept, the least recently used first, and then what was
    unpinned, the oldest first; None when there is nothing left of it."""
    with store._lock:
        for owner in store.cached:
            # no fsync, as for a job that has ended: what a power cut brings back counts as not here
            freed = store._index.release(owner)
            store.cached.pop(owner, None)
            store._remove(freed, owner)
            return freed
        freed = store._index.collect(UNPINNED, _COLLECTED)
        if freed is not None:
            store._remove(freed)
        return freed


def forget_kept(store: BlockStore, cids: Iterable[str]) -> None:
    """Free the inputs that were kept of which any is among these blocks: they are about to lie elsewhere."""
    found: dict[str, None] = {}
    for cid in cids:
        with store._lock:
            if len(found) == len(store.cached):
                break
            owner = store._index.holder(cid, CACHED)
            if owner in store.cached:
                found[owner] = None
    for owner in found:
        with store._lock:
            store.release(owner)
            store.cached.pop(owner, None)


def abandon(store: BlockStore, room: int) -> None:
    """Give up inputs that are being kept, until there is so much room: somebody needs it more. Their writers see that
    they are not wanted any more."""
    with store._lock:
        for writer, owner in list(store._writers.items()):
            if store._held + room <= store.quota:
                return
            if owner.startswith(CACHED):
                store.abandon_writer(writer)


def append(store: BlockStore, writer: ContentWriter, cid: str, data: Buffer) -> bool:
    """Append a block to a file of inputs that are kept; False where others would have to make room. ValueError where
    it was given up."""
    with store._lock:
        if writer not in store._writers:
            raise ValueError("what was to be kept had to make room")
        if store._held + len(data) > store.quota:
            return False
        writer.append_block(cid, data)
        return True


def finish(store: BlockStore, writer: ContentWriter) -> None:
    """What was appended is kept until room is wanted. Not durably: after a power cut it may not be here."""
    with store._lock:
        if writer in store._writers:
            writer.commit()
            store.cached[writer.owner] = writer.size


def used(store: BlockStore, cid: str) -> None:
    """A block was read: what was kept with it goes last. That is remembered in memory only, for flash wears."""
    with store._lock:
        owner = store._index.holder(cid, CACHED)
        if owner in store.cached:
            store.cached[owner] = store.cached.pop(owner)


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
