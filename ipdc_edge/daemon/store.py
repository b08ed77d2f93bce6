"""Which block store this node has, by its settings, and how it begins where that is in Kubo.

Owns the choice. A daemon starts without its Kubo, which may come up later than it: until then what needs a block of
there fails after some seconds, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import os

from ..drivers.block_rows import KUBO_NAME, KuboFailed
from ..drivers.blocks import BlockStore
from ..home import Home
from ..settings import Settings
from .background import note

IN_KUBO = "store:kubo"  # what such a node's record says among its capabilities
AGAIN = 5.0  # seconds between two looks whether Kubo is there


def open_store(home: Home, settings: Settings) -> BlockStore:
    """The store, with Kubo where new blocks go there, or some went before the setting was changed."""
    store = _store(home, settings, settings.quota(home.state))
    if settings.store_quota is None:  # or what it holds, kept inputs too, would make it smaller from start to start
        store.quota = settings.quota(home.state, store.stat()["bytes"])
    return store


def _store(home: Home, settings: Settings, quota: int) -> BlockStore:
    into_kubo = settings.store == "kubo"
    if not into_kubo and not os.path.exists(os.path.join(home.blocks, KUBO_NAME)):
        return BlockStore(home.blocks, quota)
    from ..drivers.block_kubo import InKubo  # not in the memory of who has none

    return BlockStore(home.blocks, quota, InKubo(home.blocks, settings.kubo_api), kubo_reads=not into_kubo)


async def begin(store: BlockStore) -> None:
    """Have Kubo's pins be those that this node wants, as soon as it is there, and say what it is, or that it is
    missing."""
    kubo = store.kubo
    if kubo is None:
        return
    loop, told = asyncio.get_running_loop(), False
    while True:
        try:
            await loop.run_in_executor(kubo.threads, kubo.begin)
            version = await loop.run_in_executor(kubo.threads, kubo.version)
        except KuboFailed as error:
            if not told:
                told = True
                note(str(error))
            await asyncio.sleep(AGAIN)
        else:
            return note(f"Kubo {version} at {kubo.rpc.address} keeps this node's blocks")
