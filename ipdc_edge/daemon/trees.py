"""Walks through what a CID leads to: the entries of a directory, and all blocks below for who pins.

Owns the order of the walks and their bounds. Never holds more than a few nodes' links and the inner nodes that wait.
Every block was checked against its CID by the fetcher; that a sharded directory has each name where its hash puts it is
checked here, and that it is no deeper than hashes are long, so that no few blocks can lead to endlessly many entries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from ..codec import dag_cbor
from ..codec.cid import DAG_CBOR, RAW, BadCid, parse_cid
from ..codec.dag_pb import Link
from ..codec.hamt import HASH_BITS, prefix_length, slot
from ..codec.unixfs import DIRECTORY, FILE, BadNode, Node, parse_node
from ..errors import IpdcError

if TYPE_CHECKING:
    from ..drivers.block_files import ContentWriter
    from ..drivers.blocks import BlockStore
    from ..drivers.fetcher import Fetcher
    from ..drivers.provider import Provider

T = TypeVar("T")
MOST_WAITING = 100_000  # inner nodes whose turn has not come
AT_ONCE = 4  # blocks that are fetched together
MOST_AHEAD = 256  # entries that wait for one before them
UNCOMMITTED = 32 << 20  # fetched bytes that become the node's own at once
UNCOMMITTED_BLOCKS = 4096
HELD_AT_ONCE = 512  # blocks


class TooWide(IpdcError):
    """{root} cannot be pinned here: more than {limit} directories or inner nodes wait at once. Pin its parts."""


async def node_of(fetcher: Fetcher, cid: str, providers: Sequence[Provider]) -> Node:
    """The block read as UnixFS. BadNode, BlockUnavailable."""
    return parse_node(cid, await fetcher.block(cid, providers))


async def entries(
    fetcher: Fetcher, root: str, node: Node, providers: Sequence[Provider]
) -> AsyncIterator[dict[str, object]]:
    """{"name", "cid", "kind", "size" in bytes of a file, "target" of a symlink} of every entry, in their order. `kind`
    is "other" for what is no UnixFS and "missing" for what nobody gives; both have the size that the directory tells.

    What an entry is stands in its own block, unless that is a raw leaf: those blocks are asked for AT_ONCE at a time.
    """
    ahead: deque[tuple[str, Link, asyncio.Task[dict[str, object]] | None]] = deque()
    asked = 0
    try:
        async with aclosing(_named(fetcher, root, node, providers)) as named:
            async for name, link in named:
                task = None
                if parse_cid(link.cid).codec != RAW:
                    task = asyncio.ensure_future(_kind(fetcher, link, providers))
                    asked += 1
                ahead.append((name, link, task))
                while ahead and (ahead[0][2] is None or asked == AT_ONCE or len(ahead) == MOST_AHEAD):
                    asked -= ahead[0][2] is not None
                    yield await _told(*ahead.popleft())
        while ahead:
            yield await _told(*ahead.popleft())
    finally:
        tasks = [task for _, _, task in ahead if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _told(name: str, link: Link, task: asyncio.Task[dict[str, object]] | None) -> dict[str, object]:
    leaf = {"kind": FILE, "size": link.tsize, "target": None}
    return {"name": name, "cid": link.cid, **(leaf if task is None else await task)}


async def _named(
    fetcher: Fetcher, root: str, node: Node, providers: Sequence[Provider]
) -> AsyncIterator[tuple[str, Link]]:
    """Every entry and its own name, through the nodes of a sharded directory; those of one level are asked for AT_ONCE
    at a time too."""
    stack = [_Level(root, node, [])]
    try:
        while stack:
            level = stack[-1]
            link = next(level.links, None)
            if link is None:
                stack.pop()
            elif node.fanout and len(link.name) == prefix_length(node.fanout):
                if (len(level.path) + 2) * (node.fanout.bit_length() - 1) > HASH_BITS:
                    raise BadNode(cid=link.cid, reason=f"it is deeper in {root} than any name's hash leads")
                below = await level.next_shard(fetcher, providers)
                if below.kind != DIRECTORY or below.fanout != node.fanout or not below.links:
                    raise BadNode(cid=link.cid, reason=f"it is no node of the sharded directory {root}")
                stack.append(_Level(link.cid, below, [*level.path, int(link.name, 16)]))
            else:
                yield (link.name[prefix_length(node.fanout) :] if node.fanout else link.name), link
    finally:
        tasks = [task for level in stack for task in level.asked]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Level:
    """A node on the way, whose links are gone through, and the nodes below it that were asked for already."""

    def __init__(self, cid: str, node: Node, path: list[int]) -> None:
        self.links = _links(cid, node, path)
        self.path = path
        self.asked: deque[asyncio.Task[Node]] = deque()
        self._shards = node.shards()

    async def next_shard(self, fetcher: Fetcher, providers: Sequence[Provider]) -> Node:
        """The node below it whose turn is now."""
        while len(self.asked) < AT_ONCE and (shard := next(self._shards, None)) is not None:
            self.asked.append(asyncio.ensure_future(node_of(fetcher, shard.cid, providers)))
        return await self.asked.popleft()


def _links(cid: str, node: Node, path: list[int]) -> Iterator[Link]:
    """The node's links; BadNode for a name that its hash puts elsewhere."""
    if not node.fanout:
        return iter(node.links)
    skip = prefix_length(node.fanout)
    for link in node.links:
        if len(link.name) > skip:
            name = link.name[skip:].encode("utf-8", "surrogateescape")
            slots = [*path, int(link.name[:skip], 16)]
            try:
                placed = all(slot(name, depth, node.fanout) == at for depth, at in enumerate(slots))
            except ValueError:
                placed = False
            if not placed:
                raise BadNode(cid=cid, reason=f"the entry {link.name[skip:]!a} is not where its hash puts it")
    return iter(node.links)


async def _kind(fetcher: Fetcher, link: Link, providers: Sequence[Provider]) -> dict[str, object]:
    from ..drivers.fetcher import BlockUnavailable

    try:
        node = await node_of(fetcher, link.cid, providers)
    except BadNode:
        return {"kind": "other", "size": link.tsize, "target": None}
    except BlockUnavailable:
        return {"kind": "missing", "size": link.tsize, "target": None}
    target = node.data.decode("utf-8", "surrogateescape") if node.kind not in (FILE, DIRECTORY) else None
    return {"kind": node.kind, "size": node.size, "target": target}


class Keeper:
    """Holds all that a CID leads to for one owner, who held nothing before; what is not here is fetched.

    What it holds is durable with the next durable step of the store. What is here by reference stays so.
    """

    def __init__(self, store: BlockStore, fetcher: Fetcher, owner: str, providers: Sequence[Provider]) -> None:
        self._store = store
        self._fetcher = fetcher
        self._owner = owner
        self._providers = providers
        self._writer: ContentWriter | None = None
        self._fresh: dict[str, None] = {}  # what was fetched and is not committed yet
        self._blocks = self._fetched = self._bytes = 0

    def counts(self) -> dict[str, object]:
        """{"blocks": held, "fetched": of these, "bytes": that were fetched}."""
        return {"blocks": self._blocks, "fetched": self._fetched, "bytes": self._bytes}

    async def keep(self, root: str) -> AsyncIterator[None]:
        """Do it; a turn of the iteration is a few blocks. BlockUnavailable, BadNode, TooWide, StoreFull, DiskFull."""
        await in_thread(lambda: self._store.hold_all(self._owner, []))
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            if self._known(cid):
                continue
            data = await self._fetcher.block(cid, self._providers)
            if await self._hold([cid]):
                await self._take([(cid, data)])
            links = _children(cid, data)
            del data
            leaves = dict.fromkeys(link for link in links if parse_cid(link).codec == RAW)
            inner = dict.fromkeys(link for link in links if link not in leaves and not self._known(link))
            waiting += reversed(inner)
            if len(waiting) > MOST_WAITING:
                raise TooWide(root=root, limit=MOST_WAITING)
            for some in _pieces([leaf for leaf in leaves if leaf not in self._fresh], HELD_AT_ONCE):
                for few in _pieces(await self._hold(some), AT_ONCE):
                    await self._take(await self._fetch(few))
                    yield
            yield
        await in_thread(self._commit)

    def _known(self, cid: str) -> bool:
        return cid in self._fresh or self._store.holds(self._owner, cid)

    async def _hold(self, cids: Sequence[str]) -> list[str]:
        missing = await in_thread(lambda: self._store.hold_all(self._owner, cids))
        self._blocks += len(cids) - len(missing)
        return missing

    async def _fetch(self, cids: Sequence[str]) -> list[tuple[str, bytes]]:
        tasks = [asyncio.ensure_future(self._fetcher.block(cid, self._providers)) for cid in cids]
        try:
            return list(zip(cids, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, blocks: list[tuple[str, bytes]]) -> None:
        await in_thread(lambda: self._append(blocks))

    def _append(self, blocks: list[tuple[str, bytes]]) -> None:
        for cid, data in blocks:
            if self._writer is None:
                self._writer = self._store.new_file(self._owner)
            self._writer.append_block(cid, data)
            self._fresh[cid] = None
            self._blocks += 1
            self._fetched += 1
            self._bytes += len(data)
        if self._writer is not None and (
                self._writer.size > UNCOMMITTED or len(self._fresh) > UNCOMMITTED_BLOCKS):
            self._commit()

    def _commit(self) -> None:
        if self._writer is not None:
            self._writer.commit(durable=True)
            self._writer = None
            self._fresh.clear()


async def in_thread(work: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """`work` in a thread, to its end even where nobody waits for it any more: what comes next finds nothing half done.
    `stop` makes that end come sooner."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it is nobody's
        raise


def _pieces(items: Sequence[str], length: int) -> Iterator[Sequence[str]]:
    return (items[at : at + length] for at in range(0, len(items), length))


def _children(cid: str, data: bytes) -> list[str]:
    """The CIDs in a block. BadNode for a codec whose links nobody here reads."""
    codec = parse_cid(cid).codec
    if codec != DAG_CBOR:
        return [link.cid for link in parse_node(cid, data).links]
    try:
        return list(dag_cbor.links(data))
    except (ValueError, BadCid) as error:
        raise BadNode(cid=cid, reason=f"it is no dag-cbor: {error}") from None
