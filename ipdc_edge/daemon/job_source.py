"""What a job is made of, as its master gives it: the description, the code, long parameters.

Owns how that comes to a worker and is checked, and what is here of the job's inputs. A peer's words are bounded before
anybody works on them. Runs nothing: `tasks.py` does.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ..codec.bundle import bundle_items
from ..codec.frames import MAX_PAYLOAD
from ..codec.messages import load
from ..core.architecture import Architecture, BadSpec, spec_of
from ..core.values import InputRange, JobKey, JobSpec
from ..drivers.block_reading import in_store
from ..drivers.block_rows import outlives
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher
from ..drivers.provider import Provider
from .input_sizes import LARGE, size_of
from .streams import FetchFailed

MOST_JSON = MAX_PAYLOAD - (256 << 10)  # bytes of a peer's JSON as a runner is given it, with room for names of code


def owner_of(key: JobKey) -> str:
    """Under which name the store keeps what this node holds as a worker of a job."""
    return f"{key.job}.{key.master}"


class JobSource:
    """Gets what masters have of the jobs that this node works on. BlockUnavailable, BadCid, BadNode where they do not
    give it."""

    def __init__(
        self, node_id: str, store: BlockStore, fetcher: Fetcher, architectures: Mapping[str, Architecture],
        gateway_of: Callable[[str], str],
    ) -> None:
        self.node_id, self.store, self.fetcher, self.architectures = node_id, store, fetcher, architectures
        self.gateway_of = gateway_of

    def master(self, key: JobKey) -> list[Provider]:
        """Who has the job's description, code and parameters, wherever it is now."""
        return [Provider(key.master, self.gateway_of(key.master))]

    async def block(self, key: JobKey, cid: str) -> bytes:
        """A block that the job needs. FetchFailed."""
        try:
            return await self.fetcher.block(cid, self.master(key))
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None

    async def spec(self, key: JobKey, cid: str) -> JobSpec:
        """The description, when the code that it names is here too. BadSpec for one that this node cannot work on."""
        spec = spec_of(cid, json_of(await self.fetcher.block(cid, self.master(key))))
        if spec.app not in self.architectures:
            raise BadSpec(reason=f"no architecture {spec.app[:40]!r} here")
        self.architectures[spec.app].check(spec)
        for name, file, size in bundle_items(spec.body):
            await self._keep_code(key, name, file, size)
        return spec

    async def held(self, key: JobKey, spec: JobSpec) -> tuple[InputRange, ...]:
        """What is here of the job's inputs; a node that keeps nothing does not look."""
        inputs = spec.body.get("inputs")
        if not isinstance(inputs, list) or sum(map(size_of, inputs)) < LARGE:
            return ()
        if key.master != self.node_id and not any(map(outlives, self.store.owners())):
            return ()
        from .holdings import held  # rarely needed

        return await held(self.fetcher, self.store, inputs, self.master(key))

    async def _keep_code(self, key: JobKey, name: str, cid: str, size: int) -> None:
        """Bring one file of a job's code here, so that the next runner need not ask the master again. BadSpec when it
        is not as big as was said."""
        writer = self.store.new_file(owner_of(key))
        try:
            async for _, data in self.fetcher.file_blocks(cid, 0, size, self.master(key)):
                if writer.size + len(data) > size:
                    break
                await in_store(self.store, lambda data=data: writer.append(data))  # type: ignore[misc]
            else:
                if writer.size == size:
                    await in_store(self.store, writer.commit_file)
                    return
            raise BadSpec(reason=f"its code file {name} has not the {size} bytes that were told")
        finally:
            writer.discard()

    async def code(self, key: JobKey, cid: str, size: int) -> AsyncIterator[bytes]:
        """A code file in pieces, exactly `size` bytes."""
        left = size
        try:
            async for _, data in self.fetcher.file_blocks(cid, 0, size, self.master(key)):
                left -= len(data)
                if left < 0:
                    break
                yield data
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None
        if left:
            raise FetchFailed(cid, f"it has not the {size} bytes that were told")


def json_of(block: bytes) -> Any:
    """A peer's JSON that can be handed on to a runner: in ASCII, up to three times as long as in UTF-8."""
    try:
        value = load(block)
    except ValueError as error:
        raise BadSpec(reason=f"a block is not JSON: {str(error)[:100]}") from None
    size = len(json.dumps(value, separators=(",", ":")))
    if size > MOST_JSON:
        raise BadSpec(reason=f"a block is JSON of {size} bytes; at most {MOST_JSON}")
    return value
