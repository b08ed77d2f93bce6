"""The disk of a simulated node: its ledger, and the order in which the daemon carries effects out.

Owns the rule of `daemon/daemon.py`: saves gather for a moment, one commit makes them durable, and whatever comes in the
same batch or after it waits with them. A crash takes what was not durable together with all that waited; the commit
under way may have come through or not. A full disk holds everything up until it has room again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from ipdc_edge.core import effects as fx

GATHER = 0.02  # about as the daemon does
FULL_PAUSE = 1.0  # likewise
FSYNC = (0.002, 0.04)  # seconds of one commit ...
STALL, STALLS = 0.8, 0.05  # ... and now and then, on an SD card


class Disk:
    """One node's. `after` schedules a call; `carry_out` is told effects in their order, once they may leave."""

    def __init__(
        self, random: Random, after: Callable[..., None], carry_out: Callable[[list[fx.Effect]], None],
        durable: Callable[[fx.Save], None],
    ) -> None:
        self.random, self.after, self.carry_out, self.durable = random, after, carry_out, durable
        self.rows: dict[tuple[str, str], fx.Save] = {}
        self.full = False
        self.was_full = False  # ever
        self.batches: list[list[fx.Effect]] = []
        self.saving = False
        self.writing: list[fx.Save] = []  # handed to the disk, not yet acknowledged by it
        self.boot = 0
        self.commits = 0

    def batch(self, effects: list[fx.Effect]) -> None:
        """The effects of one event."""
        if not self.saving and not any(isinstance(effect, fx.Save) for effect in effects):
            return self.carry_out(effects)
        self.batches.append(effects)
        if not self.saving:
            self.saving = True
            self.after(GATHER, self._gathered, self.boot)

    def _gathered(self, boot: int) -> None:
        if boot == self.boot:
            self._write(boot, len(self.batches))

    def _write(self, boot: int, count: int) -> None:
        if boot != self.boot:
            return
        self.writing = [effect for batch in self.batches[:count] for effect in batch if isinstance(effect, fx.Save)]
        if self.writing and self.full:
            self.writing = []
            return self.after(FULL_PAUSE, self._write, boot, count)
        low, high = FSYNC
        seconds = low + (high - low) * self.random.random() if self.writing else 0.0
        if self.writing and self.random.random() < STALLS:
            seconds = STALL
        self.after(seconds, self._written, boot, count)

    def _written(self, boot: int, count: int) -> None:
        if boot != self.boot:
            return
        self._keep()
        group, self.batches = self.batches[:count], self.batches[count:]
        for batch in group:
            self.carry_out(batch)
        if self.batches:
            self.after(GATHER, self._gathered, boot)
        else:
            self.saving = False

    def _keep(self) -> None:
        """What was handed over is durable; of an ended job only how it ended is kept, as the ledger does."""
        self.commits += bool(self.writing)
        for save in self.writing:
            self.rows[save.kind, save.key] = save
            if save.kind == "ended":
                gone = [row for row in self.rows if row[0] != "ended" and row[1].partition("/")[0] == save.key]
                for row in gone:
                    del self.rows[row]
            self.durable(save)
        self.writing = []

    def crash(self) -> None:
        """The power is gone. What the disk was busy with may be on it all the same, but nobody was told."""
        self.boot += 1
        if self.writing and self.random.random() < 0.5:
            self._keep()
        self.batches, self.saving, self.writing = [], False, []

    def unfinished(self) -> list[fx.Save]:
        """What a start reads: all saves but of ended jobs, in the ledger's order, and as JSON gives them back."""
        rows = sorted(self.rows.values(), key=lambda save: (save.key.partition("/")[0], save.kind, save.key))
        return [fx.Save(save.kind, save.key, _again(save.value)) for save in rows if save.kind != "ended"]


def _again(value: Any) -> Any:
    return json.loads(json.dumps(value))
