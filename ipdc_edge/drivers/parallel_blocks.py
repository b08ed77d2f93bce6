"""The blocks of a file that comes from several providers at once: where each stands, and who is asked for it.

Owns what is known of one block and of one request, and when that one is late. Asks nobody: `parallel_fetch` does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import RAW, parse_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK
from ipdc_edge.drivers.block_reading import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.provider import Provider
    from ipdc_edge.drivers.speeds import Speed


class Block:
    """One node of the file in the line, from when it is known to when its bytes go out."""

    def __init__(self, offset: int, size: int | None, cid: str, depth: int) -> None:
        self.offset, self.size, self.cid, self.depth = offset, size, cid, depth
        self.bare = parse_cid(cid).codec == RAW
        # what has children, and nothing behind it is known before it came; a smaller node may be a leaf
        self.interior = not self.bare and (size is None or size > CHUNK)
        self.known = size is not None and not self.interior  # whether its bytes are, before it comes
        self.weight = min(size, MAX_BLOCK) if size is not None and self.known else SMALL
        self.reserved = 0  # bytes of the fetcher's room
        self.here: bool | None = None  # whether the own store has it; None is not looked yet
        self.reading: asyncio.Task[None] | None = None
        self.requests: list[Request] = []
        self.failed: dict[Provider, str] = {}  # who does not give it, and why
        self.fault = ""  # of the own store
        self.data: Buffer | None = None
        self.opened = False  # `data` are bytes of the file, not those of a node
        self.error: Exception | None = None


class Request:
    """One block on its way from one provider. Its times are counted in the ticks that this process had, so that a busy
    machine does not make a provider late."""

    def __init__(self, block: Block, provider: Provider, speed: Speed) -> None:
        self.block, self.provider, self.speed = block, provider, speed
        self.begun = False  # whether the provider's connections have a place for it
        self.counted = False  # whether its time tells of the provider's speed
        self.got = 0
        self.waited = self.silent = 0.0  # seconds since it was asked, and since something came
        self.task: asyncio.Task[None] | None = None

    def received(self, count: int) -> None:
        """Called for each piece, and with 0 when the request has a place."""
        self.begun = True
        self.got += count
        self.silent = 0.0
        now = asyncio.get_running_loop().time()
        self.speed.received(count, now)
        if self.got > SMALL and not self.counted:
            self.count(now)

    def count(self, now: float) -> None:
        """It is not small."""
        self.counted = True
        self.speed.count(now)

    def stalled(self, expected: float, pause: float) -> bool:
        """Whether it is silent for longer than blocks that take others `expected` seconds make probable."""
        return self.silent > max(pause, expected / 2 if self.got else expected)

    def late(self, expected: float, pause: float) -> bool:
        """Whether another who needs `expected` seconds will probably be there before it, and would have been."""
        if self.got and self.waited > max(2 * pause, expected):
            left = self.block.weight - self.got
            return not self.block.known or left * self.waited > expected * self.got or self.stalled(expected, pause)
        return self.stalled(expected, pause)


class Source:
    """The children of a node that are not yet in the line."""

    def __init__(self, children: Iterator[tuple[int, int | None, str]], depth: int) -> None:
        self._children, self._depth = children, depth
        self._next: Block | None = None

    def peek(self, start: int) -> Block | None:
        """The next child that ends behind `start`."""
        while self._next is None and (child := next(self._children, None)) is not None:
            offset, size, cid = child
            if size is None or offset + size > start:
                self._next = Block(offset, size, cid, self._depth)
        return self._next

    def take(self) -> None:
        """The child that was shown is in the line."""
        self._next = None
