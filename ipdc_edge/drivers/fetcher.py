"""Gets blocks and files from other nodes' gateways, and trusts none of them.

Owns the connections to providers: at most two to each, kept open between blocks, closed when idle. Never stores what it
fetched, but tells whoever does (`Keeper`), and never chooses providers: they come with the message that named the CID.
Every block is checked against its CID; a provider that fails, stalls or lies is dropped for that block and the next is
asked. A file that several nodes have comes from all of them at once: `parallel_fetch` says which block from whom.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ipdc_edge.codec.cid import RAW, BadCid, canonical, inlined, parse_cid
from ipdc_edge.codec.unixfs import FILE, MAX_DEPTH, BadNode, parse_node
from ipdc_edge.drivers.block_reading import get_block
from ipdc_edge.drivers.block_rows import KuboFailed
from ipdc_edge.drivers.blocks import ReferenceChanged
from ipdc_edge.drivers.provider import KUBO, Provider, ProviderFault, ProviderPool
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.blocks import BlockStore
    from ipdc_edge.drivers.kubo_provider import KuboPool
    from ipdc_edge.drivers.speeds import Speed

AHEAD = 3 << 20  # bytes fetched ahead of all readers from several providers, beside the one block that each may have


class BlockUnavailable(IpdcError):
    """The block {cid} could not be had: {reasons}."""

    retry = True


class FileTooBig(IpdcError):
    """The file {root} has {size} bytes; at most {limit} are wanted here."""


class NoFile(IpdcError):
    """{root} is a {kind}, not a file."""


class Keeper(Protocol):
    """Hears where the blocks of a file came from. It may keep what it is given (`keeps`: then others may wait for it),
    and must not fail."""

    keeps: bool

    def came(self, cid: str, data: Buffer) -> None:
        """From another node."""

    def was_here(self, cid: str) -> None:
        """From the own store."""


class Unfinished(Protocol):
    """Blocks that came for somebody and are in no store yet."""

    def has(self, cid: str) -> bool:
        """Whether it is among them."""

    def get(self, cid: str) -> bytes | None:
        """The block, verified."""


class Fetcher:
    """Blocks by CID from the own store or from providers. `ssl` is that of tls.client_context; None speaks plainly and
    believes everybody, which only tests of HTTP itself want.

    `patience` seconds may pass until a connection stands and between two pieces of an answer, `deadline` for
    a whole block. Where somebody else can be asked too, he is after a silence of `pause` seconds in the middle of a
    block, or half of what he would need for it.
    """

    def __init__(
        self,
        store: BlockStore,
        ssl: ssl_module.SSLContext | None,
        *,
        patience: float = 10,
        deadline: float = 60,
        pause: float = 0.25,
    ) -> None:
        self.counters = {"blocks": 0, "bytes": 0, "own": 0, "faults": 0}
        self.pause = pause
        self.room = AHEAD  # what is left of it
        self.unfinished: Unfinished | None = None
        self._coming: dict[str, asyncio.Future[None]] = {}  # what is being fetched for somebody who keeps it
        # asked before providers, with their nodes: where this node and one of them have their blocks in Kubo
        self.bitswap: Callable[[str, Sequence[str]], Awaitable[bytes | None]] | None = None
        self.speeds: dict[Provider, Speed] = {}  # of those asked together with others; `speed_of` bounds it
        self._store = store
        self._ssl = ssl
        self._patience = patience
        self._deadline = deadline
        self._pools: dict[Provider, ProviderPool | KuboPool] = {}

    async def block(
        self, cid: str, providers: Sequence[Provider], keeper: Keeper | None = None, swap: bool = True
    ) -> bytes:
        """The block, verified: from the own store, else from the first provider that gives it; without `swap` from
        nobody else, so that it is known who has it. `keeper` is told which it was. BlockUnavailable, BadCid."""
        return bytes(await self.buffer(cid, providers, keeper, swap))

    async def buffer(
        self, cid: str, providers: Sequence[Provider], keeper: Keeper | None = None, swap: bool = True,
        received: Callable[[int], None] | None = None,
    ) -> Buffer:
        """`block`, as it was received: nobody else has it, and it is not copied once more. `received` is told how many
        bytes come from others, as `ask` does."""
        cid = canonical(cid)
        reasons = []
        keeps = keeper is not None and keeper.keeps
        while keeps and (coming := self._coming.get(cid)) is not None:
            await asyncio.wait([coming])  # two tasks beside each other read the block between them
        try:
            data = await self.own(cid)
            if data is not None:
                self.counters["own"] += 1
                if keeper is not None:
                    keeper.was_here(cid)
                return data
        except ReferenceChanged as error:
            reasons.append(str(error).rstrip("."))
        except (OSError, KuboFailed) as error:
            reasons.append(f"the own store: {str(error).rstrip('.')}")
        mine: asyncio.Future[None] | None = None
        if keeps and cid not in self._coming:
            mine = self._coming[cid] = asyncio.get_running_loop().create_future()
        try:
            data = await self._from_others(cid, providers, swap, reasons, received)
            if keeper is not None:
                keeper.came(cid, data)
            return data
        finally:
            if mine is not None:
                del self._coming[cid]
                mine.set_result(None)

    async def _from_others(
        self, cid: str, providers: Sequence[Provider], swap: bool, reasons: list[str],
        received: Callable[[int], None] | None,
    ) -> Buffer:
        if swap and self.bitswap is not None:
            data = await self.bitswap(cid, [provider.node for provider in providers])
            if data is not None:
                return data
        for provider in dict.fromkeys(providers):
            try:
                return await self.ask(provider, cid, received)
            except ProviderFault as error:
                reasons.append(f"{provider.address}: {error}")
        raise BlockUnavailable(cid=cid, reasons="; ".join(reasons) or "it is not here, and nobody was named who has it")

    async def file_blocks(
        self, root: str, start: int, end: int, providers: Sequence[Provider], keeper: Keeper | None = None
    ) -> AsyncIterator[tuple[int, Buffer]]:
        """(offset, bytes) of a UnixFS file, block after block, from the one that holds byte `start`.

        Up to `end` the next block is fetched while the caller works on this one, and while he waits for one of which
        half has come, the one behind it; with several providers the next blocks, as many as AHEAD allows. It goes on
        behind `end` for as long as the caller iterates, because a line may cross it. `keeper` is told of each block of
        its tree that was read. NoFile, BadNode, BlockUnavailable.
        """
        if len(several := tuple(dict.fromkeys(providers))) > 1:
            from ipdc_edge.drivers.parallel_fetch import ParallelFile  # not in the memory of who has only one

            file = ParallelFile(self, canonical(root), start, end, several, keeper)
            try:
                while (part := await file.next_block()) is not None:
                    held, part = [part], None
                    yield held.pop()
            finally:
                await file.close()
            return
        walk = _Walk(self, canonical(root), start, providers, keeper, end=end)
        ahead: asyncio.Task[tuple[int, Buffer] | None] | None = None
        try:
            while True:
                walk.hurry(True)  # the caller holds nothing: of two blocks that are here, both may be on their way
                found = await (walk.next_block() if ahead is None else ahead)
                walk.hurry(False)
                ahead = None
                if found is None:
                    return
                if found[0] + len(found[1]) < end:
                    ahead = asyncio.ensure_future(walk.next_block())
                held, found = [found], None
                yield held.pop()  # so that the block is the caller's alone, who may let go of it before the next
        finally:
            tasks = [task for task in (ahead, walk.following and walk.following.task) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def read_file(self, root: str, providers: Sequence[Provider], limit: int) -> bytes:
        """A whole file of at most `limit` bytes. FileTooBig is raised before any of its leaves is fetched."""
        root = canonical(root)
        walk = _Walk(self, root, 0, providers)
        size = await walk.open()
        if size > limit:
            raise FileTooBig(root=root, size=size, limit=limit)
        parts = []
        while (found := await walk.next_block()) is not None:
            parts.append(found[1])
        return b"".join(parts)

    async def file_size(self, root: str, providers: Sequence[Provider]) -> int:
        """Bytes of a file, from its root alone. NoFile, BadNode, BlockUnavailable."""
        return await _Walk(self, canonical(root), 0, providers, swap=False).open()

    async def close(self) -> None:
        """Close all connections. Calls under way fail."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    def has(self, cid: str) -> bool:
        """Whether the own store is to be asked for a block. OSError."""
        known = inlined(cid) is not None or self._store.size(cid) is not None
        return known or self.unfinished is not None and self.unfinished.has(cid)

    async def own(self, cid: str) -> bytes | None:
        """A block of the own store. ReferenceChanged, OSError, KuboFailed."""
        data = await get_block(self._store, cid)
        if data is None and self.unfinished is not None and self.unfinished.has(cid):
            data = await asyncio.to_thread(self.unfinished.get, cid)
        return data

    async def ask(self, provider: Provider, cid: str, received: Callable[[int], None] | None = None) -> Buffer:
        """A block of one provider, verified and counted; `received` is told how many bytes come, 0 when it
        is its turn. ProviderFault."""
        pool = self._pools.get(provider) or self._new_pool(provider)
        pool.users += 1
        try:
            async with pool.places, asyncio.timeout(self._deadline):
                if received is not None:
                    received(0)
                data = await pool.get(cid, received)
        except TimeoutError:
            self.counters["faults"] += 1
            raise ProviderFault(f"the block did not arrive within {self._deadline:g} s") from None
        except ProviderFault:
            self.counters["faults"] += 1
            raise
        finally:
            pool.users -= 1
        self.counters["blocks"] += 1
        self.counters["bytes"] += len(data)
        return data

    def _new_pool(self, provider: Provider) -> ProviderPool | KuboPool:
        """Makes a pool, and forgets those that serve for nothing now: addresses are others' words and have no end."""
        self._pools = {known: pool for known, pool in self._pools.items() if not pool.unused}
        if provider.node == KUBO:
            from ipdc_edge.drivers.kubo_provider import KuboPool  # in the memory of who has one

            self._pools[provider] = KuboPool(provider)
        else:
            self._pools[provider] = ProviderPool(provider, self._ssl, self._patience)
        return self._pools[provider]


class _Coming:
    """A block on its way: a leaf of `size` bytes, or with None another node."""

    def __init__(self, size: int | None, told: Callable[[], None]) -> None:
        self.task: asyncio.Task[Buffer]
        self._size, self._told = size, told
        self._got = 0

    @property
    def half_here(self) -> bool:
        return self._size is not None and 2 * self._got >= self._size

    def received(self, count: int) -> None:
        """Of it, from another node."""
        self._got += count
        if self.half_here:
            self._told()


class _Walk:
    """Walks a file's tree from an offset, fetching only the nodes on the way and then leaf by leaf. In a hurry it asks
    for the next leaf, where that begins before `end`, when half of one is here: so the link never waits for a block to
    be checked, and its provider not for the next request."""

    def __init__(
        self, fetcher: Fetcher, root: str, start: int, providers: Sequence[Provider], keeper: Keeper | None = None,
        swap: bool = True, end: int = 0,
    ) -> None:
        self._fetcher, self._keeper, self._swap, self._end = fetcher, keeper, swap, end
        self._root = root
        self._start = start
        self._providers = providers
        self.following: _Coming | None = None  # the block of `_next`
        self._next: tuple[int, int, str] | None = None  # a child of the uppermost node that was looked at already
        self._coming: _Coming | None = None  # what is waited for
        self._hurry = False
        self._stack: list[Iterator[tuple[int, int, str]]] = []
        self._inline: tuple[int, Buffer] | None = None  # bytes of the file that stood in an interior block
        self._opened = False

    async def open(self) -> int:
        """Fetch the root; the file's size."""
        self._opened = True
        return await self._enter(0, None, self._root)

    async def next_block(self) -> tuple[int, Buffer] | None:
        """(offset, bytes) of the next leaf that ends behind the start; None at the end of the file."""
        if not self._opened:
            await self.open()
        while True:
            if self._inline is not None:
                found, self._inline = self._inline, None
                if found[1] and found[0] + len(found[1]) > self._start:
                    return found
            if not self._stack:
                return None
            if (child := self._peek()) is None:
                self._stack.pop()
                continue
            self._next = None
            await self._enter(*child)

    def hurry(self, hurry: bool) -> None:
        """Whether the leaf behind the one that comes may come too."""
        self._hurry = hurry
        self._begin_following()

    def _peek(self) -> tuple[int, int, str] | None:
        """The next child of the uppermost node that ends behind the start."""
        while self._next is None and (child := next(self._stack[-1], None)) is not None:
            if child[0] + child[1] > self._start:
                self._next = child
        return self._next

    def _begin_following(self) -> None:
        if not self._hurry or self.following is not None or self._coming is None or not self._coming.half_here:
            return
        child = self._peek() if self._stack else None
        if child is not None and child[0] < self._end and _is_leaf(child[2]):
            self.following = self._begin(*child[1:])

    def _begin(self, size: int | None, cid: str) -> _Coming:
        # behind what has children come those, not its neighbour
        coming = _Coming(size if _is_leaf(cid) else None, self._begin_following)
        coming.task = asyncio.ensure_future(
            self._fetcher.buffer(cid, self._providers, self._keeper, self._swap, coming.received))
        return coming

    async def _enter(self, offset: int, size: int | None, cid: str) -> int:
        """Fetch one node: its own bytes wait in `_inline`, its children on the stack. BadNode if it is not of
        `size`."""
        self._coming, self.following = self.following or self._begin(size, cid), None
        try:
            self._begin_following()
            data = await self._coming.task
        finally:
            self._coming.task.cancel()
            self._coming = None
        length, data, children = open_node(self._root, offset, size, cid, data, len(self._stack))
        if children is not None:
            self._stack.append(children)
        self._inline = offset, data
        return length


def _is_leaf(cid: str) -> bool:
    try:
        return parse_cid(cid).codec == RAW
    except BadCid:  # said when its turn has come
        return False


def open_node(
    root: str, offset: int, size: int | None, cid: str, data: Buffer, depth: int
) -> tuple[int, Buffer, Iterator[tuple[int, int, str]] | None]:
    """(bytes of file below it, the first of them if they stand in it, its children or None) of a file's node that has
    `depth` others above it. NoFile, or BadNode if it is not of `size`."""
    length, children = len(data), None
    if parse_cid(cid).codec != RAW:
        node = parse_node(cid, bytes(data))
        if node.kind != FILE:
            raise NoFile(root=cid, kind=node.kind)
        if depth >= MAX_DEPTH:
            raise BadNode(cid=root, reason=f"more than {MAX_DEPTH} levels")
        length, data, children = node.size, node.data, node.children(offset)
    if size is not None and length != size:
        raise BadNode(cid=cid, reason=f"it holds {length} bytes where its parent says {size}")
    return length, data, children
