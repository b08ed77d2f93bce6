"""Which bytes of files are in a node's own store: what it tells the masters whose jobs it takes, and who asks before a
job is submitted.

Owns the looking, in the index alone: a block counts as here until somebody reads it. Loaded by jobs over larger inputs.
Others' questions and answers are hostile text: a look has a bound, and they wait for each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..codec.cid import RAW, BadCid, parse_cid
from ..codec.messages import CID_TEXT
from ..codec.unixfs import CHUNK, BadNode
from ..core.values import MOST_RANGES, InputRange, NodeRecord
from ..drivers.fetcher import BlockUnavailable, NoFile, open_node
from ..drivers.gateway import HOLDINGS
from ..drivers.provider import Provider, ProviderFault, ProviderPool
from .input_sizes import size_of

if TYPE_CHECKING:
    from ssl import SSLContext

    from ..drivers.blocks import BlockStore
    from ..drivers.fetcher import Fetcher

MOST_INPUTS = 64  # of a job that a worker looks for
MOST_ASKED = 16  # files in one question, and nodes that are asked
MOST_BLOCKS = 20_000  # looked for at a time: 20 GB of a file that Kubo or we have cut
PATIENCE = 1.5  # seconds that a job waits for answers
LOOKED = 3.0  # seconds that a worker looks, with the nodes of the tree that it must fetch for that
MOST_ANSWER = 8 << 10  # bytes
_FAILURES = (BlockUnavailable, BadNode, BadCid, NoFile, OSError)


class _Budget:
    """Blocks that may yet be looked for."""

    def __init__(self) -> None:
        self.left = MOST_BLOCKS


async def held(
    fetcher: Fetcher, store: BlockStore, inputs: Sequence[Mapping[str, Any]], providers: Sequence[Provider],
) -> tuple[InputRange, ...]:
    """Which ranges of these files are here, in as much as there is time to look; interior nodes of their trees are
    fetched from providers."""
    found: list[InputRange] = []
    budget = _Budget()
    with suppress(TimeoutError):
        async with asyncio.timeout(LOOKED):
            for number, item in enumerate(inputs[:MOST_INPUTS]):
                if not size_of(item):
                    continue
                with suppress(*_FAILURES):
                    async for start, end in _spans(fetcher, store, item["cid"], providers, budget):
                        if found and found[-1].number == number and found[-1].end == start:
                            found[-1] = found[-1]._replace(end=end)
                        elif start < end:
                            found.append(InputRange(number, start, end))
    return tuple(sorted(sorted(found, key=lambda one: one.start - one.end)[:MOST_RANGES]))


async def _spans(
    fetcher: Fetcher, store: BlockStore, root: str, providers: Sequence[Provider], budget: _Budget,
) -> AsyncIterator[tuple[int, int]]:
    """(start, end) of the blocks of a file that are here, in order."""
    stack: list[tuple[int, int | None, str, int]] = [(0, None, root, 0)]
    while stack:
        offset, size, cid, depth = stack.pop()
        if size is not None and _is_leaf(cid, size):
            yield offset, offset + size  # it was looked for with those beside it
            continue
        if budget.left <= 0:
            return
        budget.left -= 1
        data = await fetcher.block(cid, providers)
        length, data, children = open_node(root, offset, size, cid, data, depth)
        if children is None:
            yield offset, offset + length
            continue
        listed = list(islice(children, budget.left))
        budget.left -= len(listed)
        leaves = [child[2] for child in listed if _is_leaf(child[2], child[1])]
        here = await asyncio.to_thread(lambda leaves=leaves: [store.has(leaf) for leaf in leaves])  # type: ignore[misc]
        known = dict(zip(leaves, here, strict=True))
        stack += [(at, length, child, depth + 1) for at, length, child in reversed(listed) if known.get(child, True)]


def _is_leaf(cid: str, size: int) -> bool:
    """Also of a node that may have children with no more bytes than a leaf: to read each would take too long."""
    return parse_cid(cid).codec == RAW or size <= CHUNK


class Holdings:
    """Answers other members, one after the other."""

    def __init__(self, fetcher: Fetcher, store: BlockStore) -> None:
        self.fetcher, self.store = fetcher, store
        self._turn = asyncio.Lock()

    async def page(self, query: Mapping[str, str]) -> str:
        """{CID: how many bytes of that file are here} of those that are asked for, JSON."""
        asked = [cid for cid in query.get("files", "").split(",")[:MOST_ASKED] if CID_TEXT.fullmatch(cid)]
        sizes, budget = {}, _Budget()
        async with self._turn:
            with suppress(TimeoutError):  # who asked has gone by then
                async with asyncio.timeout(PATIENCE):
                    for cid in asked:
                        sizes[cid] = 0
                        with suppress(*_FAILURES):
                            async for start, end in _spans(self.fetcher, self.store, cid, [], budget):
                                sizes[cid] += end - start
        return json.dumps(sizes)


async def ask(
    ssl: SSLContext | None, records: Collection[NodeRecord], cids: Sequence[str],
) -> dict[str, dict[str, int]]:
    """{node: {CID: bytes of that file}}, of who answers in time: of the first few files, by the first few nodes."""
    others = list(records)[:MOST_ASKED]
    asked = [cid for cid in dict.fromkeys(cids) if CID_TEXT.fullmatch(cid)][:MOST_ASKED]
    answers = await asyncio.gather(*(_ask_one(ssl, record, asked) for record in others))
    return {record.id: answer for record, answer in zip(others, answers, strict=True)}


async def _ask_one(ssl: SSLContext | None, record: NodeRecord, cids: Sequence[str]) -> dict[str, int]:
    pool = ProviderPool(Provider(record.id, record.gateway), ssl, PATIENCE)
    with suppress(TimeoutError, ProviderFault, ValueError, RecursionError):
        async with asyncio.timeout(PATIENCE):
            answer = json.loads(await pool.page(f"{HOLDINGS}?files={','.join(cids)}", MOST_ANSWER))
            if isinstance(answer, dict):
                return {cid: answer[cid] for cid in cids if type(answer.get(cid)) is int and answer[cid] > 0}
    return {}
