"""Content that no node of the domain has and the Kubo of this machine can reach: where it is looked for, and how it is
taken in.

Owns the order: own store, other nodes, Kubo last; so a Kubo that is not there costs one refused connection. What is
taken in becomes content of this node like any other, checked block by block, within the quota, held for who asked; so
workers fetch it from here. Loaded when something was found nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ..drivers.fetcher import BlockUnavailable
from ..drivers.kubo_provider import answers, provider_of
from ..drivers.provider import Provider
from .trees import Keeper

if TYPE_CHECKING:
    from .daemon import Daemon

PROGRESS_PAUSE = 0.2  # seconds between two words of how far it is

Tell = Callable[[dict[str, object]], Awaitable[None]]


async def sources(daemon: Daemon, cid: str, providers: Sequence[Provider]) -> Sequence[Provider]:
    """Who is to be asked for what `cid` leads to: these providers, or Kubo alone where none of them has its block and
    Kubo does. BlockUnavailable, which says of everybody why not."""
    if not await asyncio.to_thread(answers, daemon.settings.kubo_api):
        return providers
    try:
        await daemon.fetcher.block(cid, providers, swap=False)
        return providers
    except BlockUnavailable as elsewhere:
        reasons = str(elsewhere.details["reasons"])
    try:
        return [await found(daemon, cid)]
    except BlockUnavailable as error:
        raise BlockUnavailable(cid=cid, reasons=f"{reasons}; {error.details['reasons']}") from None


async def found(daemon: Daemon, cid: str) -> Provider:
    """Kubo, when it has this block or was given it by its own network. BlockUnavailable."""
    kubo = provider_of(daemon.settings.kubo_api)
    if not await asyncio.to_thread(answers, daemon.settings.kubo_api):
        raise BlockUnavailable(cid=cid, reasons=f"no Kubo answers at {kubo.address}")
    await daemon.kubo().meet()
    await daemon.fetcher.block(cid, [kubo])
    return kubo


async def take_in(daemon: Daemon, cid: str, owner: str, tell: Tell) -> None:
    """Has all that the CID leads to come from Kubo, held by `owner`. `tell` gets {"fetching", "blocks", "fetched",
    "bytes"} now and then. BlockUnavailable, BadNode, TooWide, StoreFull, DiskFull."""
    keeper = Keeper(daemon.store, daemon.fetcher, owner, [provider_of(daemon.settings.kubo_api)])
    told = 0.0
    async for _ in keeper.keep(cid):
        if daemon.loop.time() - told > PROGRESS_PAUSE:
            told = daemon.loop.time()
            await tell({"fetching": cid, **keeper.counts()})
