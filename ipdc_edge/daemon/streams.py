"""The streams between a runner and the block store: what an attempt reads, and what it makes.

Owns the small vocabulary in which an architecture's task names its streams: inputs are a `range` of a file or
a `run` of a manifest, outputs are `runs` or `files`. What the bytes mean is the runner's. Nothing is read
ahead but one block, nothing is held but that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from ..codec.answers import RunnerBroken
from ..codec.cid import raw_cid
from ..codec.runs import MAX_BLOCK, MAX_RUNS, BadRun, encode_manifest, parse_manifest
from ..codec.unixfs import CHUNK
from ..core.architecture import BadSpec
from ..drivers.block_files import ContentWriter
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher

if TYPE_CHECKING:
    from ..codec.runs import RunEntry


class Inputs:
    """The input streams of one attempt; the runner asks for the next block of one, nothing is read ahead of
    it but one block."""

    def __init__(self, fetcher: Fetcher, params: Mapping[str, Any]) -> None:
        self.fetcher, self.gateways = fetcher, params.get("gateways") or {}
        self.items: list[Mapping[str, Any]] = params["inputs"]
        self.streams: dict[int, AsyncIterator[bytes]] = {}

    async def read(self, stream: int) -> bytes | None:
        """The next block of a stream, None at its end. FetchFailed names the content that could not be had."""
        if stream not in self.streams:
            if not 0 <= stream < len(self.items):
                raise RunnerBroken(reason=f"it asks for input {stream} of {len(self.items)}")
            item = self.items[stream]
            self.streams[stream] = self._range(item["range"]) if "range" in item else self._run(item["run"])
        return await anext(self.streams[stream], None)

    async def _range(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        providers = list(self.gateways.values())
        try:
            start = item["start"]
            async for offset, data in self.fetcher.file_blocks(item["cid"], start, item["end"], providers):
                yield data if offset >= start else data[start - offset :]  # strange leaves
        except BlockUnavailable as error:
            raise FetchFailed(item["cid"], str(error)) from None

    async def _run(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        cid = item["manifest"]
        providers = [self.gateways[item["node"]]] if item["node"] in self.gateways else []
        try:
            run = parse_manifest(await self.fetcher.block(cid, providers))[item["index"]]
            for block in run["blocks"]:
                yield await self.fetcher.block(block, providers)
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None
        except (BadRun, IndexError) as error:
            raise FetchFailed(cid, f"its manifest is broken: {error}") from None

    async def close(self) -> None:
        """Let go of connections and blocks in flight."""
        for stream in self.streams.values():
            await stream.aclose()  # type: ignore[attr-defined]


class FetchFailed(Exception):
    """Content named by `cid` could not be had from anybody who should have it."""

    def __init__(self, cid: str, reason: str) -> None:
        self.cid, self.reason = cid, reason
        super().__init__(f"{cid}: {reason}")


class Outputs:
    """The output streams of one attempt, on their way into the store; nobody sees them before `commit`."""

    def __init__(self, store: BlockStore, owner: str, params: Mapping[str, Any]) -> None:
        self.store, self.owner = store, owner
        self.kind, self.count = params["outputs"]["kind"], params["outputs"]["count"]
        if self.kind not in ("runs", "files") or type(self.count) is not int or not 1 <= self.count <= MAX_RUNS:
            raise BadSpec(reason=f"outputs {str(params['outputs'])[:100]}")
        self.runs: list[RunEntry] = [{"blocks": [], "bytes": 0, "records": 0} for _ in range(self.count)]
        self.writer: ContentWriter = store.new_file(owner)
        self.rest = bytearray()  # of a file, up to the next leaf
        self.size = 0

    async def write(self, stream: int, data: bytes | memoryview) -> None:
        """Take a block of a run, or the next bytes of a file."""
        if not 0 <= stream < self.count:
            raise RunnerBroken(reason=f"it writes to output {stream} of {self.count}")
        self.size += len(data)
        if self.kind == "runs":
            run = self.runs[stream]
            if len(data) > MAX_BLOCK or run["bytes"] % MAX_BLOCK:
                raise RunnerBroken(reason=f"a block of {len(data)} bytes in a run, or one after a shorter one")
            run["blocks"].append(self.writer.append(data))
            run["bytes"] += len(data)
            return
        self.rest += data
        while len(self.rest) >= CHUNK:
            with memoryview(self.rest) as view:
                self.writer.append(view[:CHUNK])
            del self.rest[:CHUNK]

    def commit(self, records: list[int]) -> tuple[str, int]:
        """(CID, bytes) of the output: the manifest of the runs, or the root of the file."""
        if self.kind == "runs":
            for run, count in zip(self.runs, records):
                run["records"] = count
            self.writer.commit()
            manifest = encode_manifest(self.runs)
            cid = raw_cid(manifest)
            self.store.put(cid, manifest, self.owner)
            return cid, self.size
        if self.rest or not self.size:
            self.writer.append(bytes(self.rest))
        return self.writer.commit_file()

    def discard(self) -> None:
        """Drop what was written, unless it was committed."""
        self.writer.discard()
