"""The gateway's HTTP: requests in, answers out, over one connection, with an end to every wait.

Owns h11 and the stream of one peer. Never knows what a block is or whether it is here: `gateway` decides the
answers.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from ipdc_edge.drivers.block_files import BlockReader

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
MAX_HEADER = 8 << 10  # bytes of a request up to its empty line
MAX_PARAMETERS = 64  # of a query
_PIECE = 32 << 10  # bytes of a block in memory for each connection
_LINGER = 1 << 20  # bytes of an unwanted body that are read, so that the refusal reaches its sender
_BINARY = (("X-Content-Type-Options", "nosniff"),)


class Answer:
    """A response without its body's bytes: status, headers, and a text, an open block, or a stream of blocks, each with
    the bytes that stand before it, or pieces of text as they come."""

    def __init__(
        self,
        status: int,
        text: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        block: BlockReader | None = None,
        close: bool = False,
        stream: AsyncGenerator[tuple[bytes, BlockReader], None] | None = None,
        pieces: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        self.status = status
        self.text = text
        self.headers = headers
        self.block = block
        self.stream = stream
        self.pieces = pieces
        self.close = close


class Connection:
    """One peer's connection: requests in, answers out, never waiting longer than it should."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
        self._reader = reader
        self._writer = writer
        self._patience = patience
        self.refused = False  # an answer was given that ends the connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        writer.transport.set_write_buffer_limits(high=_PIECE)
        connected = writer.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def next_request(self, idle: float, begin: Callable[[], object]) -> h11.Request | None:
        """The next request's head; None when the peer is done or silent. `begin` is called when a part of it is here;
        a slow one gets RemoteProtocolError 408."""
        deadline: float | None = None
        now = asyncio.get_running_loop().time
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None  # the peer has closed
            begun = bool(self._http.trailing_data[0])
            if begun and deadline is None:
                deadline = now() + self._patience
                begin()
            try:
                wait = idle if deadline is None else max(0.0, deadline - now())
                async with asyncio.timeout(wait):
                    data = await self._reader.read(MAX_HEADER)
            except TimeoutError:
                if not begun:
                    return None
                raise h11.RemoteProtocolError("the request took too long", error_status_hint=408) from None
            self._http.receive_data(data)

    async def send(self, answer: Answer, body: bool) -> None:
        """Write an answer, its body only if `body`. OSError when it could not go out whole."""
        text = (answer.text + "\n").encode() if answer.text else b""
        length = len(text) if answer.block is None else answer.block.size
        headers = [*_BINARY, *answer.headers]
        if answer.status != 304 and answer.stream is None and answer.pieces is None:
            headers.append(("Content-Length", str(length)))
        if text:
            headers.append(("Content-Type", "text/plain; charset=utf-8"))
        if answer.close:
            self.refused = True
            headers.append(("Connection", "close"))
        self._write(h11.Response(status_code=answer.status, headers=headers))
        if body and answer.status != 304:
            if answer.stream is not None:
                await self._send_stream(answer.stream)
            elif answer.pieces is not None:
                await self._send_pieces(answer.pieces)
            elif answer.block is not None:
                await self._send_block(answer.block)
            else:
                self._write(h11.Data(data=text))
        self._write(h11.EndOfMessage())
        await self._drain()

    async def send_error(self, error: h11.RemoteProtocolError) -> None:
        """Tell a peer that spoke no proper HTTP, if the answer can still be given."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.send(Answer(error.error_status_hint, str(error), close=True), True)

    def handed_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What is left of it, when something else than HTTP is spoken from now on; its peer is told so."""
        left = self._http.trailing_data[0]
        self._writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: ipdc-tunnel\r\nConnection: Upgrade\r\n\r\n")
        if left:  # nobody of ours sends anything before he was answered
            self._writer.transport.abort()
        return self._reader, self._writer

    def again(self) -> bool:
        """Whether another request may come on this connection; then it is made ready for it."""
        # the end of a request without a body is an event of its own
        if self._http.their_state is h11.SEND_BODY and not isinstance(self._http.next_event(), h11.EndOfMessage):
            return False
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def end(self) -> None:
        """Let the peer take what is still on its way, then close. TimeoutError if it does not."""
        async with asyncio.timeout(self._patience):
            if self.refused and self._writer.transport.can_write_eof():
                # closing a socket with unread bytes resets it, and takes an answer like 413 with it
                self._writer.write_eof()
                left = _LINGER
                while left > 0 and (data := await self._reader.read(_PIECE)):
                    left -= len(data)
            self._writer.close()
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once, whatever is on its way. Nothing happens when it is closed already."""
        try:
            self._writer.transport.abort()
        except AttributeError:  # CPython 3.11: a TLS transport that was closed twice has forgotten its protocol
            return

    async def _send_stream(self, stream: AsyncGenerator[tuple[bytes, BlockReader], None]) -> None:
        async with aclosing(stream):
            async for before, block in stream:
                try:
                    self._write(h11.Data(data=before))
                    await self._send_block(block)
                finally:
                    block.close()

    async def _send_pieces(self, pieces: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(pieces):
            async for piece in pieces:
                self._write(h11.Data(data=piece))
                await self._drain()

    async def _send_block(self, block: BlockReader) -> None:
        # h11 needs to know no more of a body than its length: so it says what stands around it
        for part in self._http.send_with_data_passthrough(h11.Data(data=block)) or ():  # type: ignore[arg-type]
            if part is block:
                await self._send_pieces_of(block)
            else:
                self._writer.write(part)

    async def _send_pieces_of(self, block: BlockReader) -> None:
        left = block.size
        while left > 0:
            piece = block.read(_PIECE)
            if not piece:
                raise OSError("the block's file was cut while it was sent")  # the peer sees an answer that is too short
            self._writer.write(piece)
            await self._drain()
            left -= len(piece)

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _drain(self) -> None:
        if self._writer.transport.is_closing():  # a transport takes what nobody gets, and says nothing
            raise ConnectionResetError("the peer has gone")
        if not self._writer.transport.get_write_buffer_size():
            return
        async with asyncio.timeout(self._patience):
            await self._writer.drain()


def split_target(target: bytes) -> tuple[str, dict[str, str]]:
    """(path, first value of each query parameter) of a request target in origin or absolute form."""
    text = target.decode("latin-1")
    if not text.startswith("/"):
        _, _, text = text.partition("://")
        _, slash, text = text.partition("/")
        text = slash + text
    path, _, query = text.partition("?")
    if "%" in query or "+" in query:
        from urllib.parse import parse_qsl  # rarely needed

        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise h11.RemoteProtocolError(str(error), error_status_hint=400) from None
        return path, dict(reversed(pairs))
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        parameters.setdefault(name, value)
    return path, parameters


def wanted_format(query: dict[str, str], accept: str) -> str:
    """"raw", "car" or "": `format` beats `Accept`, and of several accepted types the first that we know counts."""
    if "format" in query:
        return query["format"]
    return next((kind for kind, _ in _accepted(accept)), "")


def car_options(query: dict[str, str], accept: str) -> dict[str, str]:
    """`version`, `order` and `dups` of a CAR, as far as they are asked for: the query beats `Accept`."""
    options = next((parameters for kind, parameters in _accepted(accept) if kind == "car"), {})
    asked = {name: query.get(f"car-{name}", options.get(name)) for name in ("version", "order", "dups")}
    return {name: value for name, value in asked.items() if value is not None}


def _accepted(accept: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The types in `Accept` that are served here, "raw" or "car", with their parameters."""
    for choice in accept.lower().split(","):
        kind, *rest = (part.strip() for part in choice.split(";"))
        parameters = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in rest)}
        if kind in (RAW_TYPE, CAR_TYPE) and parameters.get("q") not in ("0", "0.0", "0.00", "0.000"):
            yield "raw" if kind == RAW_TYPE else "car", parameters


def matches(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison, `*` for anything."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(",") if tag.strip())
