"""Which blocks a CAR answer consists of: those on a path, and what is below its end, in depth-first order.

Owns the walk over the own store. Never holds more than the nodes on the way down: a leaf is given as an open file.
Never asks other nodes: what is not here is missing.

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/ (path, dag-scope, entity-bytes, dups)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipdc_edge.codec import dag_cbor, hamt
from ipdc_edge.codec.cid import DAG_CBOR, DAG_PB, RAW, BadCid, canonical, inlined, parse_cid
from ipdc_edge.codec.unixfs import DIRECTORY, FILE, MAX_FILE, BadNode, dag_pb_links, parse_node
from ipdc_edge.drivers.block_files import BlockReader, InlinedBlock
from ipdc_edge.drivers.block_reading import get_block, open_block
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from ipdc_edge.drivers.blocks import BlockStore

MOST_SEEN = 16384  # blocks of an answer without duplicates, each of which is remembered in about 200 bytes
MAX_LEVELS = 32  # of a DAG; each that is open holds one parsed node


class Child(NamedTuple):
    """A block: its CID, whether the link to it is of version 0, and the offset in its file where it begins."""

    cid: str
    version_0: bool = False
    offset: int = 0


class NotThere(IpdcError):
    """Nothing is at {path} below {cid}."""


class Missing(IpdcError):
    """The block {cid} is not here."""


class TooMany(IpdcError):
    """Without duplicates an answer has at most {limit} blocks; ask with dups=y, or by entity-bytes."""


class Unfit(IpdcError):
    """The block {cid} cannot be walked through: {reason}."""


class Span(NamedTuple):
    """Bytes of a file: both ends included, negative ones count from its end, `last` None is the end."""

    first: int = 0
    last: int | None = None

    def of(self, size: int) -> tuple[int, int]:
        """(first, end) in a file of this size; empty where the span lies outside."""
        first = max(0, self.first + size) if self.first < 0 else self.first
        last = size - 1 if self.last is None else self.last + size if self.last < 0 else self.last
        return first, min(size, last + 1)


class CarWalk:
    """One answer: `resolve` first, which may say that there is none, then `blocks`."""

    def __init__(self, store: BlockStore, root: str, path: Sequence[bytes], scope: str = "all",
                 span: Span | None = None, duplicates: bool = True) -> None:
        self.roots: list[str] = []  # of each segment of the path
        self._store = store
        self._root = canonical(root)
        self._path = path
        self._scope = scope
        self._span = span
        self._first, self._end = 0, MAX_FILE  # bytes of the file at the end of the path that are wanted
        self._way = [Child(self._root, root.startswith("Qm"))]  # blocks on the path, its end the last
        self._seen: dict[str, bool] | None = None if duplicates else {}  # and whether what is below was given too

    async def resolve(self) -> None:
        """Walk the path. NotThere, Missing, Unfit."""
        here, left, depth = self._way[0], list(self._path), 0
        self.roots = [here.cid]
        while left:
            try:
                below, used, depth = self._step(here, await self._read(here.cid), left, depth)
            except KeyError:
                raise NotThere(path=ascii(b"/".join(self._path).decode("utf-8", "replace")), cid=self._root) from None
            except (ValueError, BadCid, BadNode) as error:
                raise Unfit(cid=here.cid, reason=error) from None
            if below is None:
                break  # the path ends inside this block
            here = below
            if used:
                self.roots.append(here.cid)
            del left[:used]
            self._way.append(here)
        if self._store.size(here.cid) is None:
            raise Missing(cid=here.cid)
        if self._span is not None and self._scope == "entity" and parse_cid(here.cid).codec == DAG_PB:
            try:
                node = parse_node(here.cid, await self._read(here.cid))
            except BadNode as error:
                raise Unfit(cid=here.cid, reason=error) from None
            if node.kind == FILE:
                self._first, self._end = self._span.of(node.size)

    async def blocks(self) -> AsyncGenerator[tuple[Child, BlockReader], None]:
        """Each block of the answer, open; whoever takes it closes it. Missing, TooMany, Unfit in the middle."""
        for child in self._way[:-1]:
            if self._new(child.cid):
                yield child, InlinedBlock(await self._read(child.cid))
        stack: list[Iterator[Child]] = [iter(self._way[-1:])]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                continue
            child, cid = following, following.cid
            if self._seen is not None and self._seen.get(cid) and self._span is None:
                continue  # with a span, another part of it may be wanted this time
            if parse_cid(cid).codec == RAW or self._scope == "block":
                if self._new(cid):
                    yield child, await self._open(cid)
                continue
            data = await self._read(cid)
            if self._new(cid):
                yield child, InlinedBlock(data)
            if self._seen is not None:
                self._seen[cid] = True
            try:
                children = list(self._below(child, data))
            except (ValueError, BadCid, BadNode) as error:
                raise Unfit(cid=cid, reason=error) from None
            if len(stack) == MAX_LEVELS:
                raise Unfit(cid=cid, reason=f"it lies deeper than {MAX_LEVELS} levels")
            stack.append(iter(children))

    def _new(self, cid: str) -> bool:
        """Whether this block is to be given; one that stands in its own CID never is."""
        if inlined(cid) is not None:
            return False
        if self._seen is None:
            return True
        if cid in self._seen:
            return False
        if len(self._seen) == MOST_SEEN:
            raise TooMany(limit=MOST_SEEN)
        self._seen[cid] = False
        return True

    def _step(self, here: Child, data: bytes, left: list[bytes], depth: int) -> tuple[Child | None, int, int]:
        """(next block, names used up, depth in a sharded directory); no block where the path ends in this one.
        KeyError where it leads nowhere."""
        codec = parse_cid(here.cid).codec
        if codec == DAG_CBOR:
            found, used = dag_cbor.follow(data, left)
            return Child(found) if found else None, used, 0
        node = parse_node(here.cid, data)
        if node.kind != DIRECTORY:
            raise KeyError(left[0])
        name = left[0].decode("utf-8", "surrogateescape")
        number = ""
        if node.fanout:
            number = f"{hamt.slot(left[0], depth, node.fanout):0{hamt.prefix_length(node.fanout)}X}"
        for link in node.links:
            if link.name == number + name:
                return Child(link.cid, link.version_0), 1, 0
            if number and link.name == number:
                return Child(link.cid, link.version_0), 0, depth + 1
        raise KeyError(left[0])

    def _below(self, here: Child, data: bytes) -> Iterator[Child]:
        """The blocks below one, as far as they are wanted."""
        codec = parse_cid(here.cid).codec
        if codec == DAG_CBOR and self._scope == "all":
            yield from map(Child, dag_cbor.links(data))
        elif codec == DAG_PB and self._scope == "all":
            yield from (Child(link.cid, link.version_0) for link in dag_pb_links(here.cid, data))
        elif codec == DAG_PB:
            node = parse_node(here.cid, data)
            if node.kind == FILE:
                for (at, size, cid), link in zip(node.children(here.offset), node.links, strict=True):
                    if at < self._end and at + size > self._first:
                        yield Child(cid, link.version_0, at)
            elif node.kind == DIRECTORY:
                yield from (Child(link.cid, link.version_0) for link in node.shards())

    async def _read(self, cid: str) -> bytes:
        data = await get_block(self._store, cid)
        if data is None:
            raise Missing(cid=cid)
        return data

    async def _open(self, cid: str) -> BlockReader:
        block = await open_block(self._store, cid)
        if block is None:
            raise Missing(cid=cid)
        return block
