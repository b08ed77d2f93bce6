"""How fast providers deliver: what was measured of each, with the latest counting most.

Owns the arithmetic and how many providers are remembered; the memory itself is the fetcher's, so that every file learns
from the others. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipdc_edge.drivers.provider import Provider

MOST_SPEEDS = 64  # providers whose speed is remembered
_HALF = 2.0  # seconds after which what was measured counts half
_FORGOTTEN = 60.0  # seconds without a block after which a speed says nothing any more


class Speed:
    """Smoothed bytes a second of one provider, over all blocks that are under way from it at the same time."""

    def __init__(self) -> None:
        self.left = 0  # bytes still to come of what it was asked for
        self._under_way = 0  # blocks whose time is counted
        self._bytes = self._seconds = self._at = 0.0

    def rate(self, now: float) -> float | None:
        """None while nothing is known, or not any more."""
        self._pass(now)
        if not self._under_way and now - self._at > _FORGOTTEN:
            self._bytes = self._seconds = 0.0
        return max(1.0, self._bytes / self._seconds) if self._bytes and self._seconds else None

    def begin(self, size: int) -> None:
        """A block of that size is asked for."""
        self.left += size

    def count(self, now: float) -> None:
        """From here the time of a block counts. That of small ones says nothing about speed."""
        self.rate(now)
        self._at = now
        self._under_way += 1

    def received(self, count: int, now: float) -> None:
        """So many bytes of a block came."""
        self.left -= count
        self._pass(now)
        if self._under_way:
            self._bytes += count

    def end(self, size: int, got: int, counted: bool, now: float) -> None:
        """A block that was begun came, or will not come; `got` bytes of it did."""
        self.left -= size - got
        if counted:
            self._pass(now)
            self._under_way -= 1

    def _pass(self, now: float) -> None:
        if self._under_way:
            kept = 0.5 ** ((now - self._at) / _HALF)
            self._bytes *= kept
            self._seconds = (self._seconds + now - self._at) * kept
            self._at = now


def speed_of(speeds: dict[Provider, Speed], provider: Provider) -> Speed:
    """A provider's speed from a fetcher's memory, which keeps those that were used last."""
    speeds[provider] = speed = speeds.pop(provider, None) or Speed()
    for known in list(speeds)[:-MOST_SPEEDS]:
        del speeds[known]
    return speed
