"""A file from several providers at once: blocks come from all of them as fast as each can, and go out in order.

Owns which block is asked of whom and when. Each provider has one block under way for a file (nodes without bytes of the
file come beside it), and the next goes to whoever is expected to deliver it first. The first block that is awaited is
asked for a second time when it is late by what the others' speed makes probable; the first verified answer counts and
the other request is cancelled. Who fails is dropped for the rest of the file, and asked again only for a block that
nobody else gives; who lies, never.

Memory: the block that comes next, as with one provider; beside it AHEAD bytes of blocks over all files of a fetcher;
one node of each file's tree that is on its way; and one block of each file that is asked for a second time. Never opens
connections, never looks into a block before it is verified, never holds one that went out: `fetcher` does the rest.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from ipdc_edge.drivers.block_reading import SMALL
from ipdc_edge.drivers.block_rows import KuboFailed
from ipdc_edge.drivers.blocks import ReferenceChanged
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher, open_node
from ipdc_edge.drivers.parallel_blocks import Block, Request, Source
from ipdc_edge.drivers.provider import ProviderFault, ProviderLied
from ipdc_edge.drivers.speeds import speed_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.fetcher import Keeper
    from ipdc_edge.drivers.provider import Provider

MOST_BLOCKS = 8  # of one file under way or waiting for their turn, however small they are
MOST_NODES = 4  # of these what may have children, since its bytes are known only when they come
_NODES = 2  # requests of one file at one provider, with nodes that hold no bytes of it
_TICK = 0.05  # seconds between two looks at what is late
_ASSUMED = float(1 << 20)  # bytes a second of providers as long as nobody's speed is known


class ParallelFile:
    """The blocks of one file from the one that holds byte `start`. `next_block` has one caller at a time; `close` must
    be called, whatever happened."""

    def __init__(self, fetcher: Fetcher, root: str, start: int, end: int, providers: Sequence[Provider],
                 keeper: Keeper | None = None) -> None:
        self._keeper = keeper
        self._fetcher, self._root, self._start, self._end = fetcher, root, start, end
        self._speeds = {provider: speed_of(fetcher.speeds, provider) for provider in providers}
        self._dropped: dict[Provider, str] = {}
        self._liars: set[Provider] = set()
        self._forgiven: set[Provider] = set()
        # In the order of the file: blocks, and behind a node's own bytes the children of it that are to come.
        self._line: list[Block | Source] = [Source(iter([(0, None, root)]), 0)]
        self._requests: dict[Request, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = False  # somebody waits for the next block
        self._wake, self._turned = asyncio.Event(), asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._broken: Exception | None = None
        self._now = asyncio.get_running_loop().time()

    async def next_block(self) -> tuple[int, Buffer] | None:
        """(offset, bytes) of the next leaf that ends behind the start; None at the end of the file. NoFile, BadNode,
        BlockUnavailable."""
        self._wanted = True
        self._wake.set()
        if self._worker is None:
            self._worker = asyncio.ensure_future(self._work())
        while self._line:
            first = self._line[0]
            if isinstance(first, Block):
                if first.error is not None:
                    raise first.error
                if first.opened and first.data is not None:
                    self._remove(first)
                    self._wanted = False
                    self._wake.set()
                    data, first.data = first.data, None  # a request that is being cancelled still knows the block
                    return first.offset, data
            if self._broken is not None:
                raise self._broken
            self._turned.clear()
            await self._turned.wait()
        return None

    async def close(self) -> None:
        """Cancel what is under way and give back the room that it has."""
        tasks = [*self._tasks, *([self._worker] if self._worker is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in list(self._line):
            if isinstance(entry, Block):
                self._remove(entry)
        self._line.clear()

    async def _work(self) -> None:
        try:
            while True:
                self._wake.clear()
                self._tell_time()
                self._open_and_draw()
                self._ask_all()
                self._turned.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK if self._requests else None):
                        await self._wake.wait()
        except Exception as error:  # the reader's to see
            self._broken = error
            self._turned.set()

    def _tell_time(self) -> None:
        before, self._now = self._now, asyncio.get_running_loop().time()
        passed = min(self._now - before, 2 * _TICK)
        for request in self._requests:
            request.waited += passed
            request.silent += passed

    # -- the line

    def _blocks(self) -> list[Block]:
        return [entry for entry in self._line if isinstance(entry, Block)]

    def _open_and_draw(self) -> None:
        """Opens the nodes that came and puts their children into the line, as far as may be fetched now."""
        at = 0
        while at < len(self._line):
            entry = self._line[at]
            if isinstance(entry, Source):
                block = entry.peek(self._start)
                if block is None:
                    del self._line[at]
                elif self._may_come(block, at):
                    entry.take()
                    self._line.insert(at, block)
                else:
                    return
                continue
            if at == 0 and entry.reserved:  # the one that may always be here
                self._reserve(entry, 0)
            if entry.error is not None:
                return
            if entry.data is not None and not entry.opened:
                self._open(entry, at)
                continue
            if entry.data is None and entry.interior:
                return
            at += 1

    def _may_come(self, block: Block, at: int) -> bool:
        if block.offset >= self._end and not (self._wanted and at == 0):
            return False
        if block.here is None:
            self._look_here(block)
        if at == 0:
            return True
        blocks = self._blocks()
        if len(blocks) >= MOST_BLOCKS or not block.bare and sum(not b.bare for b in blocks) >= MOST_NODES:
            return False
        if not block.here and not block.interior:  # what is here is read when its turn has come
            if block.weight > self._fetcher.room:
                return False
            self._reserve(block, block.weight)
        return True

    def _look_here(self, block: Block) -> None:
        block.here = False
        try:
            block.here = self._fetcher.has(block.cid)
        except OSError as error:
            block.fault = f"the own store: {error}"

    def _reserve(self, block: Block, size: int) -> None:
        self._fetcher.room += block.reserved - size
        block.reserved = size

    def _open(self, block: Block, at: int) -> None:
        """A block that came stands at `at`: what it has of the file stays there, its children come behind it."""
        assert block.data is not None
        try:
            _, data, children = open_node(self._root, block.offset, block.size, block.cid, block.data, block.depth)
        except Exception as error:  # what a peer's node makes of the parser ends this file where it stands
            block.data, block.error = None, error
            return
        if children is not None:
            self._line.insert(at + 1, Source(children, block.depth + 1))
        if data and block.offset + len(data) > self._start:
            block.data, block.opened = data, True
        else:
            self._remove(block)

    def _remove(self, block: Block) -> None:
        self._line.remove(block)
        self._reserve(block, 0)

    # -- whom to ask

    def _ask_all(self) -> None:
        """Asks for every block of the line that is to be asked for now."""
        planned = dict.fromkeys(self._speeds, 0)  # bytes of blocks that wait for a provider who is busy
        rates = self._rates()
        first = True  # of those that are still to come
        for at, block in enumerate(self._blocks()):
            if block.data is not None or block.error is not None:
                continue
            if block.here:
                if at == 0 and block.reading is None:
                    block.reading = self._start_task(self._read(block))
            elif not block.requests or first and self._is_late(block, rates):
                self._ask_best(block, rates, planned)
            first = False

    def _rates(self) -> dict[Provider, float]:
        """Bytes a second of everybody; who is unknown may be the best."""
        rates = {provider: speed.rate(self._now) for provider, speed in self._speeds.items()}
        best = max((rate for rate in rates.values() if rate is not None), default=_ASSUMED)
        return {provider: best if rate is None else rate for provider, rate in rates.items()}

    def _others(self, block: Block) -> list[Provider]:
        """Who is good, and not asked for the block."""
        asked = {request.provider for request in block.requests}
        return [p for p in self._speeds if p not in self._dropped and p not in asked and p not in block.failed]

    def _is_late(self, block: Block, rates: dict[Provider, float]) -> bool:
        others = self._others(block)
        if not others:
            return False
        expected = self._expected(block, rates, others)
        return all(request.late(expected, self._fetcher.pause) for request in block.requests)

    def _expected(self, block: Block, rates: dict[Provider, float], providers: Sequence[Provider]) -> float:
        """Seconds until the first of them would have it, behind what each was asked for already."""
        return min((self._speeds[provider].left + block.weight) / rates[provider] for provider in providers)

    def _ask_best(self, block: Block, rates: dict[Provider, float], planned: dict[Provider, int]) -> None:
        candidates = self._others(block)
        if not candidates:  # nor has anybody been asked who could still give it
            candidates = [p for p in self._dropped if p not in self._liars and p not in block.failed]
        if not candidates:
            block.error = self._unavailable(block)
            return
        best = min(candidates, key=lambda p: (self._speeds[p].left + planned[p] + block.weight) / rates[p])
        busy = [request for request in self._requests if request.provider == best]
        if len(busy) >= _NODES or not block.interior and any(not request.block.interior for request in busy):
            planned[best] += block.weight
            return
        if len(block.requests) > 1:  # never more than two
            self._lose(block.requests[0], self._expected(block, rates, candidates))
        request = Request(block, best, self._speeds[best])
        block.requests.append(request)
        self._requests[request] = None
        request.speed.begin(block.weight)
        if block.bare and block.known and block.weight > SMALL:
            request.count(self._now)
        request.task = self._start_task(self._ask(request))
        request.task.add_done_callback(lambda task: self._forget(request))

    def _unavailable(self, block: Block) -> BlockUnavailable:
        reasons = [block.fault] if block.fault else []
        for provider in self._speeds:
            reasons.append(f"{provider.address}: {block.failed.get(provider) or self._dropped[provider]}")
        return BlockUnavailable(cid=block.cid, reasons="; ".join(reasons))

    # -- what comes of it

    def _start_task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self, block: Block) -> None:
        """One block of the own store."""
        try:
            block.data = await self._fetcher.own(block.cid)
        except ReferenceChanged as error:
            block.fault = str(error).rstrip(".")
        except (OSError, KuboFailed) as error:
            block.fault = f"the own store: {str(error).rstrip('.')}"
        except Exception as error:
            block.error = error
        block.here = False
        self._fetcher.counters["own"] += block.data is not None
        if self._keeper is not None and block.data is not None:
            self._keeper.was_here(block.cid)
        self._wake.set()

    async def _ask(self, request: Request) -> None:
        block = request.block
        try:
            data = await self._fetcher.ask(request.provider, block.cid, request.received)
        except ProviderFault as fault:
            self._fail(request, fault)
        except Exception as error:
            block.error = error
        else:
            if self._keeper is not None and block.data is None:
                self._keeper.came(block.cid, data)
            block.data = data
            for other in [other for other in block.requests if other is not request]:
                self._lose(other, request.waited)

    def _forget(self, request: Request) -> None:
        """It came, failed, or was cancelled, maybe before it began."""
        del self._requests[request]
        if request in request.block.requests:
            request.block.requests.remove(request)
        request.speed.end(request.block.weight, request.got, request.counted, asyncio.get_running_loop().time())
        self._wake.set()

    def _fail(self, request: Request, fault: ProviderFault) -> None:
        self._dropped[request.provider] = request.block.failed[request.provider] = str(fault)
        if isinstance(fault, ProviderLied):
            self._liars.add(request.provider)

    def _lose(self, request: Request, expected: float) -> None:
        """Another was faster. Who was silent meanwhile is not asked again; who was slow is known to be."""
        provider, pause = request.provider, self._fetcher.pause
        if request.begun and request.stalled(expected, pause):
            self._fetcher.counters["faults"] += 1
            if not request.got and request.silent < 2 * pause and provider not in self._forgiven:
                self._forgiven.add(provider)  # a first connection takes its time
            else:
                self._dropped[provider] = f"it was silent for {request.silent:.1f} s while others were not"
        request.block.requests.remove(request)
        assert request.task is not None
        request.task.cancel()
