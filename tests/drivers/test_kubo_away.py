"""A node whose Kubo has gone: who wants blocks is told so or asks others, and the loop goes on. No Kubo is needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers.block_kubo import InKubo
from ipdc_edge.drivers.block_reading import get_block, in_store, open_block
from ipdc_edge.drivers.block_rows import KUBO, File, KuboFailed, KuboGone
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider, ProviderFault, ProviderPool
from tests.waiting import eventually, eventually_async

DATA = b"in Kubo"
CID = raw_cid(DATA)
JOB = "20260101-000000-abcd"


@pytest.fixture
def away(tmp_path: Path) -> Iterator[BlockStore]:
    """A store whose block is in a Kubo that nobody has started."""
    store = store_at(str(tmp_path / "away"), *free_ports(1))
    store.record(JOB, [(File(KUBO, f"{JOB}/{CID}", len(DATA)), [(CID, len(DATA), 0)])], False)
    yield store
    store.close()


def store_at(directory: str, port: int) -> BlockStore:
    return BlockStore(directory, 1 << 20, InKubo(directory, ("127.0.0.1", port), patience=0.0))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(str(tmp_path / "other"), 1 << 20)
    store.put(CID, DATA, JOB)
    yield store
    store.close()


async def served(store: BlockStore, check: Callable[[Provider, Gateway], Awaitable[None]]) -> None:
    gateway = Gateway(store, "127.0.0.1", 0, None, lambda node: True, lambda line: None)
    await gateway.start()
    try:
        await check(Provider("Qm", f"127.0.0.1:{gateway.port}"), gateway)
    finally:
        await gateway.close()


def test_somebody_else_is_asked(away: BlockStore, other: BlockStore) -> None:
    async def check(provider: Provider, gateway: Gateway) -> None:
        fetcher = Fetcher(away, None)
        assert await fetcher.block(CID, [provider]) == DATA
        several = [provider, Provider("x", "127.0.0.1:1")]  # which is another way through the fetcher
        assert [data async for _, data in fetcher.file_blocks(CID, 0, len(DATA), several)] == [DATA]
        with pytest.raises(BlockUnavailable, match=rf"the own store: No Kubo answers at {away.kubo.rpc.address}"):
            await fetcher.block(CID, [])
        await fetcher.close()

    asyncio.run(served(other, check))
    assert away.stat()["lost"] == 0


def test_who_asks_us_hears_that_it_is_not_to_be_had_now(away: BlockStore) -> None:
    async def check(provider: Provider, gateway: Gateway) -> None:
        pool = ProviderPool(provider, None, 5)
        for _ in range(2):  # of a block, and the connection is good for another
            with pytest.raises(ProviderFault, match="503"):
                await pool.get(CID)
        refused = gateway.counters["refused"]
        with pytest.raises(ProviderFault, match="incomplete"):  # its head had gone out
            await pool.page(f"/ipfs/{CID}?format=car", 1000)
        await eventually_async(lambda: gateway.counters["refused"] == refused + 1, "it is counted, and no bug")

    asyncio.run(served(away, check))


@pytest.mark.parametrize("work", ["get", "open", "write"])
def test_the_loop_goes_on_while_somebody_waits(away: BlockStore, work: str) -> None:
    """A loop that waited itself would never come to say that nobody shall wait any longer."""

    async def main() -> None:
        away.kubo._patience = 60.0
        asked = {"get": lambda: get_block(away, CID), "open": lambda: open_block(away, CID),
                 "write": lambda: in_store(away, lambda: away.put(raw_cid(b"new"), b"new", JOB))}[work]()
        waiting = asyncio.ensure_future(asked)
        await eventually_async(lambda: away.kubo._gone_since is not None, "it has found nobody")
        away.put(raw_cid(b"own"), b"own", JOB, on_disk=True)
        assert away.size(CID) == len(DATA) and away.get(raw_cid(b"own")) == b"own" and not waiting.done()
        away.release(JOB)
        away.kubo.hurry()
        with pytest.raises(KuboGone):
            await waiting

    asyncio.run(main())


def test_what_is_given_up_in_the_middle_is_done_to_its_end(away: BlockStore) -> None:
    """A writer is not for two threads: who cancels an attempt discards what it writes only when nothing writes."""
    before = away.stat()["bytes"]

    async def main() -> None:
        away.kubo._patience = 60.0
        writer = away.new_file(JOB)
        writing = asyncio.ensure_future(in_store(away, lambda: writer.append(b"new")))
        await eventually_async(lambda: away.kubo._gone_since is not None, "it has found nobody")
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        away.kubo.hurry()
        with pytest.raises(asyncio.CancelledError):
            await writing
        writer.discard()

    asyncio.run(main())
    assert away.stat()["bytes"] == before


class Elsewhere(BaseHTTPRequestHandler):
    """What a server says that is no Kubo: one in Go to what it does not know, and one that answers all the same."""

    def do_POST(self) -> None:
        said = b"404 page not found\n" if self.server.status == 404 else b"<p>Welcome"  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *words: object) -> None:
        """Nowhere."""


@contextmanager
def elsewhere(status: int) -> Iterator[int]:
    """The port of such a server."""
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        server.status = status  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [404, 200])
def test_no_block_is_lost_where_another_server_is_in_kubos_place(away: BlockStore, status: int) -> None:
    away.close()
    with elsewhere(status) as port:
        again = store_at(away.directory, port)
        for ask in (again.get, again.open_block, lambda cid: again.kubo.begin()):
            with pytest.raises(KuboFailed, match=rf"127\.0\.0\.1:{port}, which keeps this node's blocks, failed"):
                ask(CID)
        assert again.stat()["lost"] == 0 and again.has(CID)
        again.close()


def test_what_could_not_be_unpinned_is_noticed_by_that_itself(away: BlockStore) -> None:
    """So whatever finds Kubo there again has it go on, also where nobody else had asked."""
    for compared in (True, False):
        away.kubo._compared, away.kubo._gone_since = compared, None
        away.kubo.unpin([f"{JOB}/{CID}"])
        eventually(lambda: not away.kubo._unpinning, "it was tried")
        assert away.kubo._gone_since is not None and not away.kubo.settled()
