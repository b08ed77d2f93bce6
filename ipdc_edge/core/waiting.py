"""The tasks of one stage that wait, in the order of leasing, and which of them are open to whoever has room.

Owns the order. What is kept for somebody stands in it too, but not among what is open: who looks for a task for anybody
does not walk past it, however much it is. Decides neither: `leases.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

FEW = 16  # tasks that are looked at before all others


class Waiting:
    """Ids of tasks, `all` and `open` in the same order."""

    def __init__(self) -> None:
        self.all: dict[str, None] = {}
        self.open: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self.all)

    def __contains__(self, ident: str) -> bool:
        return ident in self.all

    def append(self, ident: str) -> None:
        """It waits, behind all others; it is kept for nobody."""
        self.all[ident] = self.open[ident] = None

    def remove(self, ident: str) -> None:
        """It does not wait, or not any more."""
        self.all.pop(ident, None)
        self.open.pop(ident, None)

    def put_first(self, ident: str) -> None:
        """It waits before all others; it is kept for nobody."""
        self.remove(ident)
        self.all = {ident: None, **self.all}
        self.open = {ident: None, **self.open}

    def reserve(self, kept: Callable[[str], bool]) -> None:
        """Looks through all: what is kept, and what is open, from now on."""
        self.open = {ident: None for ident in self.all if not kept(ident)}

    def walk(self) -> Iterator[str]:
        """What is open; it may be removed on the way. The first few are nearly always enough, so the others are not
        looked at before."""
        first = [ident for ident, _ in zip(self.open, range(FEW))]
        yield from first
        seen = set(first)
        yield from [ident for ident in self.open if ident not in seen]
