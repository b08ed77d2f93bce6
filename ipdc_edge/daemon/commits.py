"""The effects of the core in their order, each when what was to be saved before it is durable.

Owns what waits, and the rule that a `Save` is durable before any `Send` of the same batch leaves. Carries nothing out
itself, and writes nothing but by the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..core import effects as fx
from ..drivers.ledger import Ledger, LedgerFull
from .background import note

GATHER = 0.015  # seconds in which saves gather for one commit: most of what an empty task takes; the design allows 0.2
FULL_PAUSE = 1.0  # seconds between two tries to write to a full disk


@dataclass(slots=True)
class Batch:
    """The effects of one event, the saves among them, and who waits until they are carried out."""

    saves: list[fx.Save]
    effects: list[fx.Effect]
    done: asyncio.Future[None] | None = None


class Commits:
    """Of one daemon: `carry_out` is called for each batch when it may be; `broken` where the ledger, or that, fails."""

    def __init__(
        self, ledger: Ledger, carry_out: Callable[[list[fx.Effect]], None], broken: Callable[[BaseException], None],
    ) -> None:
        self.ledger, self.carry_out, self.broken = ledger, carry_out, broken
        self.batches: deque[Batch] = deque()  # waiting to be durable, in order
        self.saving: asyncio.Task[None] | None = None

    def take(self, effects: list[fx.Effect]) -> None:
        """Carry effects out in order; a batch with a save, and whatever comes after it, waits until that is
        durable."""
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if not saves and self.saving is None and not self.batches:  # after a save that failed some are left
            return self.carry_out(effects)
        self.batches.append(Batch(saves, effects))
        if self.saving is None:
            self.saving = asyncio.get_running_loop().create_task(self._save())

    async def settled(self) -> None:
        """Returns when everything taken so far was carried out, or never will be."""
        if self.saving is not None:
            done = asyncio.get_running_loop().create_future()
            self.batches.append(Batch([], [], done))
            await asyncio.wait([done, self.saving], return_when=asyncio.FIRST_COMPLETED)

    async def _save(self) -> None:
        try:
            while self.batches:
                await asyncio.sleep(GATHER)
                group = list(self.batches)
                saves = [save for batch in group for save in batch.saves]
                if saves:
                    await self._durably(saves)
                for batch in group:
                    self.batches.popleft()
                    self.carry_out(batch.effects)
                    if batch.done is not None and not batch.done.done():
                        batch.done.set_result(None)
        except BaseException as error:
            self.broken(error)
        finally:
            self.saving = None

    async def _durably(self, saves: list[fx.Save]) -> None:
        """A full disk holds everything up until it has room again: meanwhile nothing is carried out or answered."""
        told = False
        while True:
            try:
                return await self.ledger.save(saves)
            except LedgerFull as error:
                if not told:
                    told = True
                    note(str(error))
            await asyncio.sleep(FULL_PAUSE)
