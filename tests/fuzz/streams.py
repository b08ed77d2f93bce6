"""What stands around the targets that talk over a connection or read from a store: all of it in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ipdc_edge.codec.cid import inlined, raw_cid
from ipdc_edge.codec.runs import encode_manifest
from ipdc_edge.codec.unixfs import MAX_BLOCK, directory_block
from ipdc_edge.daemon.job_source import json_of as json_block
from ipdc_edge.daemon.local_inputs import LocalInputs
from ipdc_edge.daemon.streams import FetchFailed, Inputs, Outputs, check_params
from ipdc_edge.drivers.block_files import BlockReader
from ipdc_edge.drivers.fetcher import BlockUnavailable
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider, ProviderFault, ProviderPool, _Connection, _Stale
from ipdc_edge.drivers.stream import Stream

BLOCK = b"leaf"
LEAF = raw_cid(BLOCK)
FOLDER, FOLDER_BLOCK = directory_block([("a", LEAF, 4), ("b b", LEAF, 4)])
MANIFEST = encode_manifest([{"blocks": [LEAF], "bytes": 4, "records": 1}] * 2)
_loops: list[asyncio.AbstractEventLoop] = []


def _wait(work: Coroutine[Any, Any, None]) -> None:
    if not _loops:
        loop = asyncio.new_event_loop()
        # one thread, begun by the seeds: the stacks of more would count as memory that an input takes (engine.bounded)
        loop.set_default_executor(ThreadPoolExecutor(1))
        _loops.append(loop)
    _loops[0].run_until_complete(work)


class Wire:
    """A StreamWriter and its transport in one, of a connection of which the other side has sent all it will."""

    def __init__(self) -> None:
        self.transport = self
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    async def drain(self) -> None: ...

    async def wait_closed(self) -> None: ...


def arrived(data: bytes) -> asyncio.StreamReader:
    """A reader that has all of `data`, and then its end."""
    reader = asyncio.StreamReader(limit=8 << 10)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


class Answer(Wire):
    """The transport of a stream whose other side answers the first thing that it hears, and closes."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.paused, self.stream = data, False, Stream(1.0)
        self.stream.transport = self  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        if not self.written:
            asyncio.get_running_loop().call_soon(self._arrive)
        super().write(data)

    def _arrive(self) -> None:
        """As much as is wanted now, and more in the loop's next turn."""
        if self.paused:
            return
        if not self.data:
            self.stream.eof_received()
            return
        buffer = self.stream.get_buffer(-1)
        count = min(len(buffer), len(self.data))
        buffer[:count], self.data = self.data[:count], self.data[count:]
        self.stream.buffer_updated(count)
        asyncio.get_running_loop().call_soon(self._arrive)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._arrive)

    def abort(self) -> None:
        self.paused = True


class OneBlock(BlockReader):
    """A block that lies in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, 0, len(data))
        self.data = data

    def read(self, limit: int) -> bytes:
        piece, self.data = self.data[:limit], self.data[limit:]
        return piece


class FewBlocks:
    """A store with a leaf and a directory in it, beside the blocks that are in their names."""

    blocks = {LEAF: BLOCK, FOLDER: FOLDER_BLOCK}
    kubo = None  # as of a store that keeps all on its disk

    def size(self, cid: str) -> int | None:
        data = self.get(cid)
        return None if data is None else len(data)

    def get(self, cid: str) -> bytes | None:
        return self.blocks.get(cid, inlined(cid))

    def open_block(self, cid: str) -> OneBlock | None:
        data = self.get(cid)
        return None if data is None else OneBlock(data)


def gateway(data: bytes) -> None:
    """All that a member can send to the gateway on one connection. Every answer is one, and nothing stays open."""
    async def serve() -> None:
        made = Gateway(FewBlocks(), "", 0, None, lambda node: True, lambda line: None, patience=1.0)  # type: ignore[arg-type]
        wire = Wire()
        await made._let_in(arrived(data), wire, "peer")  # type: ignore[arg-type]
        assert not wire.written or wire.written.startswith(b"HTTP/1.1 "), bytes(wire.written[:100])
        assert not made._open, "a connection stays"

    _wait(serve())


def provider(data: bytes) -> None:
    """All that a provider can answer. What is taken is the block that was asked for."""
    async def ask() -> None:
        pool = ProviderPool(Provider("node", "a:1"), None, 1.0)
        connection = _Connection(Answer(data).stream, "a:1", 1.0)
        try:
            block = await pool._ask(connection, LEAF)
        except ProviderFault as fault:
            assert len(str(fault)) < 1000, "a provider's words are bounded"
        except _Stale:
            pass
        else:
            assert block == BLOCK
        pool.close()

    _wait(ask())


class Content:
    """A fetcher that has one manifest, one leaf, and files of two blocks."""

    async def block(self, cid: str, providers: list[Provider]) -> bytes:
        if not isinstance(cid, str) or len(cid) > 128:
            raise BlockUnavailable(cid=str(cid)[:100], reasons="no such block")
        return MANIFEST

    async def file_blocks(
        self, cid: str, start: int, end: int, providers: list[Provider], keeper: object = None
    ) -> AsyncIterator[tuple[int, bytes]]:
        if not isinstance(cid, str):
            raise BlockUnavailable(cid=str(cid)[:100], reasons="no such block")
        for offset in range(max(0, start), min(end, start + 2 * MAX_BLOCK), MAX_BLOCK):
            yield offset, BLOCK


class NoFile:
    """A store of which nothing is kept."""

    kubo, quota = None, 1 << 40

    def new_file(self, owner: str) -> NoFile:
        return self

    def append(self, data: bytes) -> str:
        return LEAF

    def discard(self) -> None: ...


def params(data: bytes) -> None:
    """What a master can tell a worker of a task's streams, up to where the runner takes over."""
    async def streams() -> None:
        value = json_block(data)
        if not isinstance(value, dict):  # codec/messages.py refuses a command without an object
            return
        check_params(value)
        local = LocalInputs(["/usr/share/common-licenses"])  # of base-files, which every Debian has
        inputs = Inputs(Content(), local, await local.expanded(value))  # type: ignore[arg-type]
        try:
            outputs = Outputs(NoFile(), "owner", value, lambda: 1 << 30)  # type: ignore[arg-type]
            json.dumps(value)
            for stream in range(min(8, len(inputs.items))):
                while await inputs.read(stream) is not None:
                    pass
                await outputs.write(min(stream, outputs.count - 1), BLOCK)
        except FetchFailed as failed:
            assert isinstance(failed.cid, str), "a failure names content"
        finally:
            await inputs.close()

    _wait(streams())
