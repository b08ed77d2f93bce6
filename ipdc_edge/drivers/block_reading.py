"""Blocks of the own store for who may not wait: small ones are read and hashed at once, big ones in a thread.

Never decides who gets them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipdc_edge.drivers.block_files import BlockReader
    from ipdc_edge.drivers.blocks import BlockStore

SMALL = 64 << 10  # bytes that may be hashed in the loop: well under a millisecond on a PC, a few on a board


async def get_block(store: BlockStore, cid: str) -> bytes | None:
    """`store.get`."""
    size = store.size(cid)
    if size is None:
        return None
    return store.get(cid) if size <= SMALL else await asyncio.to_thread(store.get, cid)


async def open_block(store: BlockStore, cid: str) -> BlockReader | None:
    """`store.open_block`; when the waiting is cancelled, the open file is still closed."""
    size = store.size(cid)
    if size is None:
        return None
    if size <= SMALL:
        return store.open_block(cid)
    opening = asyncio.ensure_future(asyncio.to_thread(store.open_block, cid))
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
