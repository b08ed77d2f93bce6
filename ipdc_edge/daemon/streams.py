"""The streams between a runner and the block store: what an attempt reads, and what it makes.

Owns the small vocabulary in which an architecture's task names its streams: inputs are a `range` of a file, a `run` of
a manifest, or `local` files (ranges with a `path` by the time that they are read), outputs are `runs` or `files`. What
the bytes mean is the runner's. Nothing is read ahead but one block, or of a file that several nodes have what the
fetcher has room for; nothing is held but that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..codec.answers import RunnerBroken
from ..codec.cid import BadCid, raw_cid
from ..codec.member_list import MOST_MEMBERS
from ..codec.messages import ADDRESS, CID_TEXT
from ..codec.node_id import NODE_ID
from ..codec.runs import MAX_BLOCK, MAX_RUNS, BadRun, encode_manifest, parse_manifest
from ..codec.unixfs import CHUNK, MAX_FILE
from ..core.architecture import BadSpec
from ..drivers.block_files import ContentWriter
from ..drivers.block_reading import in_store
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher
from ..drivers.provider import Provider
from ..errors import IpdcError
from .local_inputs import LocalInputs

if TYPE_CHECKING:
    from ..codec.runs import RunEntry
    from ..drivers.input_cache import InputCache

MOST_INPUTS = 10_000  # of one task: a reduce has one for each map


class Inputs:
    """The input streams of one attempt; the runner asks for the next block of one, and little is read ahead of it."""

    def __init__(
        self, fetcher: Fetcher, local: LocalInputs, params: Mapping[str, Any], cache: InputCache | None = None,
    ) -> None:
        """`params` are checked ones, with this node's own files in the place of what was `local`. What comes from
        others of files is kept in the cache."""
        self.fetcher, self.local = fetcher, local
        self.bytes = 0  # that the runner was given
        self.fetched = 0  # of inputs, that came from other nodes
        self.providers = {node: Provider(node, gateway) for node, gateway in params.get("gateways", {}).items()}
        self.items: list[Mapping[str, Any]] = params["inputs"]
        self.streams: dict[int, AsyncIterator[bytes]] = {}
        ranges = [item["range"] for item in self.items if "range" in item]
        size = sum(one["end"] - one["start"] for one in ranges if "cid" in one)
        self.kept = cache.writer(size) if cache is not None else None
        self.keeps = self.kept is not None

    def came(self, cid: str, data: bytes) -> None:
        """A block of a file came from another node."""
        self.fetched += len(data)
        if self.kept is not None:
            self.kept.came(cid, data)

    def was_here(self, cid: str) -> None:
        """A block of a file was in the own store."""
        if self.kept is not None:
            self.kept.was_here(cid)

    async def read(self, stream: int) -> bytes | None:
        """The next block of a stream, None at its end. FetchFailed names the content that could not be had."""
        if stream not in self.streams:
            if not 0 <= stream < len(self.items):
                raise RunnerBroken(reason=f"it asks for input {stream} of {len(self.items)}")
            self.streams[stream] = self._stream(self.items[stream])
        data = await anext(self.streams[stream], None)
        self.bytes += len(data or b"")
        return data

    def _stream(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        if "run" in item:
            return self._run(item["run"])
        return self.local.read(item["range"]) if "path" in item["range"] else self._range(item["range"])

    async def _range(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        providers = list(self.providers.values())
        try:
            start = item["start"]
            async for offset, data in self.fetcher.file_blocks(item["cid"], start, item["end"], providers, self):
                held = [data if offset >= start else data[start - offset :]]  # strange leaves
                del data
                yield held.pop()  # while the runner works, only what is read ahead is here
        except BlockUnavailable as error:
            raise FetchFailed(item["cid"], f"input {item.get('name', '')}: {error}") from None

    async def _run(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        cid = item["manifest"]
        providers = [self.providers[item["node"]]] if item["node"] in self.providers else []
        try:
            run = parse_manifest(await self.fetcher.block(cid, providers))[item["index"]]
            left = run["bytes"]
            for block in run["blocks"]:
                held = [await self.fetcher.block(block, providers)]
                size = len(held[0])
                left -= size
                if size > MAX_BLOCK or left < 0:  # a merge has memory for blocks of a run's size
                    raise BadRun(f"a block of {size} bytes in a run of {run['bytes']}")
                yield held.pop()  # a stream that waits for the merge keeps no block: there are as many as maps
            if left:
                raise BadRun(f"{left} of {run['bytes']} bytes of a run are in no block")
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error), item["node"]) from None
        except (BadRun, BadCid, IndexError) as error:
            raise FetchFailed(cid, f"its manifest is broken: {error}", item["node"]) from None

    async def close(self) -> None:
        """Let go of connections and blocks in flight."""
        try:
            for stream in self.streams.values():
                await stream.aclose()  # type: ignore[attr-defined]
        finally:
            if self.kept is not None:
                self.kept.close()


def check_params(params: Any) -> None:
    """BadSpec unless what a master says of a task's streams is of the vocabulary above, every field in its bounds."""
    if not isinstance(params, dict):
        raise BadSpec(reason="a task's parameters are not an object")
    inputs, gateways = params.get("inputs"), params.get("gateways", {})
    if not isinstance(inputs, list) or len(inputs) > MOST_INPUTS or not all(map(_is_input, inputs)):
        raise BadSpec(reason=f"inputs {str(inputs)[:100]}")
    if not isinstance(gateways, dict) or len(gateways) > MOST_MEMBERS or not all(
        NODE_ID.fullmatch(node) and isinstance(gateway, str) and ADDRESS.fullmatch(gateway)
        for node, gateway in gateways.items()
    ):
        raise BadSpec(reason=f"gateways {str(gateways)[:100]}")
    outputs = params.get("outputs")
    if not isinstance(outputs, dict) or outputs.get("kind") not in ("runs", "files") or not (
        _is_count(outputs.get("count"), MAX_RUNS) and outputs["count"]
    ):
        raise BadSpec(reason=f"outputs {str(outputs)[:100]}")


def _is_input(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    if "local" in item:
        return isinstance(item["local"], dict) and set(item["local"]) == {"pattern"}
    if "range" in item:
        split = item["range"]
        return isinstance(split, dict) and "path" not in split and is_cid(split.get("cid")) and (
            _is_count(split.get("end"), MAX_FILE) and _is_count(split.get("start"), split["end"])
        )
    run = item.get("run")
    return isinstance(run, dict) and is_cid(run.get("manifest")) and _is_count(run.get("index"), MAX_RUNS - 1) and (
        isinstance(run.get("node"), str)
    )


def is_cid(value: Any) -> bool:
    """Whether a peer's JSON has something like a CID there."""
    return isinstance(value, str) and CID_TEXT.fullmatch(value) is not None


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


class FetchFailed(Exception):
    """Content named by `cid` could not be had from anybody who should have it: `node`, or "" for the job's master."""

    def __init__(self, cid: str, reason: str, node: str = "") -> None:
        self.cid, self.reason, self.node = cid, reason, node
        super().__init__(f"{cid}: {reason}")


class OutputTooBig(IpdcError):
    """the task wrote more than {megabytes} MB, and may write {limit} MB: does the program ever end? If so, allow it
    more: --output-limit"""


class OutputTooBigHere(IpdcError):
    """the task wrote more than {megabytes} MB, half of the {quota} MB that this node keeps: give it smaller splits, or
    the node a larger store_quota"""


class Outputs:
    """The output streams of one attempt, on their way into the store; nobody sees them before `commit`."""

    def __init__(self, store: BlockStore, owner: str, params: Mapping[str, Any], bound: Callable[[], int]) -> None:
        """`bound` says how many bytes there may be by now."""
        self.store, self.owner, self.bound = store, owner, bound
        self.kind, self.count = params["outputs"]["kind"], params["outputs"]["count"]
        self.runs: list[RunEntry] = [{"blocks": [], "bytes": 0, "records": 0} for _ in range(self.count)]
        self.writer: ContentWriter = store.new_file(owner)
        self.rest = bytearray()  # of a file, up to the next leaf
        self.size = 0

    async def write(self, stream: int, data: bytes | memoryview) -> None:
        """Take a block of a run, or the next bytes of a file."""
        if not 0 <= stream < self.count:
            raise RunnerBroken(reason=f"it writes to output {stream} of {self.count}")
        self.size += len(data)
        if self.size > self.bound():
            raise OutputTooBig(megabytes=self.size >> 20, limit=self.bound() >> 20)
        if self.size > self.store.quota // 2:
            raise OutputTooBigHere(megabytes=self.size >> 20, quota=self.store.quota >> 20)
        if self.kind == "runs":
            run = self.runs[stream]
            if len(data) > MAX_BLOCK or run["bytes"] % MAX_BLOCK:
                raise RunnerBroken(reason=f"a block of {len(data)} bytes in a run, or one after a shorter one")
            run["blocks"].append(await in_store(self.store, lambda: self.writer.append(data)))
            run["bytes"] += len(data)
            return
        self.rest += data
        while len(self.rest) >= CHUNK:
            with memoryview(self.rest) as whole, whole[:CHUNK] as leaf:
                await in_store(self.store, lambda leaf=leaf: self.writer.append(leaf))  # type: ignore[misc]
            del self.rest[:CHUNK]

    async def commit(self, records: list[int]) -> tuple[str, int]:
        """(CID, bytes) of the output: the manifest of the runs, or the root of the file."""
        return await in_store(self.store, lambda: self._commit(records))

    def _commit(self, records: list[int]) -> tuple[str, int]:
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
