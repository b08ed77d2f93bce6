"""Blocks of the own store for who may not wait: small ones are read and hashed at once, big ones in a thread, and
whatever Kubo has to answer in a thread that is for that.

Never decides who gets them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipdc_edge.drivers.block_files import BlockReader
    from ipdc_edge.drivers.blocks import BlockStore

T = TypeVar("T")
SMALL = 64 << 10  # bytes that may be hashed in the loop: well under a millisecond on a PC, a few on a board


async def get_block(store: BlockStore, cid: str) -> bytes | None:
    """`store.get`."""
    size = store.size(cid)
    if size is None:
        return None
    if store.kubo is not None:
        return await in_store(store, lambda: store.get(cid))
    return store.get(cid) if size <= SMALL else await asyncio.to_thread(store.get, cid)


async def in_store(store: BlockStore, work: Callable[[], T]) -> T:
    """What writes a little to the store: at once, or in a thread where Kubo has to answer; then to its end even where
    nobody waits for it any more, so that what comes next finds nothing half done."""
    if store.kubo is None:
        return work()
    running = asyncio.get_running_loop().run_in_executor(store.kubo.threads, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it is nobody's
        raise


async def open_block(store: BlockStore, cid: str) -> BlockReader | None:
    """`store.open_block`; when the waiting is cancelled, the open file is still closed."""
    size = store.size(cid)
    if size is None:
        return None
    if size <= SMALL and store.kubo is None:
        return store.open_block(cid)
    threads = store.kubo.threads if store.kubo is not None else None
    opening = asyncio.get_running_loop().run_in_executor(threads, store.open_block, cid)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[BlockReader | None]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        block = opening.result()
        if block is not None:
            block.close()
