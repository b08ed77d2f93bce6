"""What stands behind kubo_api, asked for blocks: it may lie, refuse, break off or be no Kubo at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher
from ipdc_edge.drivers.kubo_provider import answers, provider_of

BLOCK = b"what was asked for"
CID = raw_cid(BLOCK)


class Rpc(ThreadingHTTPServer):
    """Answers every request with `said`, and notes its path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.said, self.length = 200, b"", -1
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Rpc

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.said) if self.server.length < 0 else self.server.length))
        self.end_headers()
        self.wfile.write(self.server.said)
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture()
def rpc() -> Iterator[Rpc]:
    server = Rpc()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(rpc: Rpc, directory: Path) -> bytes:
    """The block, of nobody but this Kubo."""
    async def fetch() -> bytes:
        store = BlockStore(str(directory / "blocks"), 1 << 20)
        fetcher = Fetcher(store, None)
        try:
            return await fetcher.block(CID, [provider_of(("127.0.0.1", rpc.server_address[1]))])
        finally:
            await fetcher.close()
            store.close()

    return asyncio.run(fetch())


def test_a_block_of_kubos_is_the_block(rpc: Rpc, tmp_path: Path) -> None:
    rpc.said = BLOCK
    assert fetched(rpc, tmp_path) == BLOCK
    (path,) = rpc.paths
    assert path.startswith("/api/v0/block/get?") and f"arg={CID}" in path and "timeout=" in path


@pytest.mark.parametrize("status, said, length, reason", [
    (200, b"another block", -1, "Kubo lied"), (200, b"", -1, "Kubo lied"),
    (200, bytes((2 << 20) + 1), -1, "longer than"), (200, BLOCK, 1000, "broke off"),
    (500, b'{"Message": "context deadline exceeded"}', -1, "not found within"),
    (500, b'{"Message": "block was not found"}', -1, "block was not found"), (404, b"<html>", -1, "<html>"),
    (403, b"", -1, "403"),
])  # fmt: skip
def test_what_else_comes_is_a_reason(
    rpc: Rpc, tmp_path: Path, status: int, said: bytes, length: int, reason: str
) -> None:
    rpc.status, rpc.said, rpc.length = status, said, length
    with pytest.raises(BlockUnavailable, match=reason):
        fetched(rpc, tmp_path)


def test_a_port_where_nobody_is_does_not_answer(rpc: Rpc) -> None:
    assert answers(("127.0.0.1", rpc.server_address[1]))
    assert not answers(("127.0.0.1", 1))
