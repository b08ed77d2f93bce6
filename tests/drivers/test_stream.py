"""Streams: bytes that lie where they are wanted, whatever the pieces in which they come, and every way in which they
do not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from ipdc_edge.drivers.stream import READ_AHEAD, Stream


def run(serve, check, patience=5.0):
    """`check(stream)`: one that is connected to `serve(reader, writer)`."""

    async def main():
        async def accepted(reader, writer):
            with contextlib.suppress(OSError):
                await serve(reader, writer)
            writer.close()

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda: Stream(patience), "127.0.0.1", port)
            try:
                return await check(stream)
            finally:
                stream.transport.abort()

    return asyncio.run(main())


async def fill(stream, size):
    """(bytes, pieces as they were told)"""
    told = []
    buffer = bytearray(size)
    with memoryview(buffer) as view:
        got = await stream.fill(view, told.append)
    return bytes(buffer[:got]), told


def test_what_was_read_too_far_begins_what_is_filled_and_what_is_behind_it_is_read_next():
    async def serve(reader, writer):
        writer.write(b"head")
        await reader.readexactly(1)
        writer.write(b"0123456789tail")
        await reader.readexactly(1)

    async def check(stream):
        assert await stream.read() == b"head"
        stream.transport.write(b"x")
        while len(stream._held) < 14:
            await asyncio.sleep(0)
        assert await fill(stream, 10) == (b"0123456789", [10])
        assert await stream.read() == b"tail" and not stream.at_end()
        stream.transport.write(b"x")
        assert await stream.read() == b"" and stream.at_end()
        assert await fill(stream, 3) == (b"", [])

    run(serve, check)


def test_a_big_buffer_is_filled_in_pieces_that_are_told_and_its_reader_is_woken_once():
    data = bytes(range(256)) * 8192

    async def serve(reader, writer):
        writer.write(data)
        await reader.read()

    async def check(stream):
        woken, more = [], stream._more

        async def noted():
            woken.append(None)
            await more()

        stream._more = noted
        got, told = await fill(stream, len(data))
        assert got == data and sum(told) == len(data) and stream.pieces == len(told)
        assert len(woken) == 1

    run(serve, check)


def test_no_more_is_read_than_somebody_takes():
    async def serve(reader, writer):
        writer.write(bytes(64 << 20))
        await reader.read()

    async def check(stream):
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert READ_AHEAD < len(stream._held) <= 2 * READ_AHEAD
        got, _ = await fill(stream, 1 << 20)  # and it goes on
        assert len(got) == 1 << 20

    run(serve, check)


@pytest.mark.parametrize("how", ["read", "fill"])
def test_silence_has_an_end_but_slowness_is_none(how):
    async def serve(reader, writer):
        for _ in range(6):
            writer.write(b"x")
            await asyncio.sleep(0.1)
        await reader.read()

    async def check(stream):
        if how == "fill":
            assert (await fill(stream, 6))[0] == b"xxxxxx"  # longer than patience, but never silent
            with pytest.raises(TimeoutError):
                await fill(stream, 1)
            return
        got = b""
        while len(got) < 6:
            got += await stream.read()
        with pytest.raises(TimeoutError):
            await stream.read()

    run(serve, check, patience=0.4)


def test_an_end_in_the_middle_says_how_much_came():
    async def serve(reader, writer):
        writer.write(b"half")

    assert run(serve, lambda stream: fill(stream, 8))[0] == b"half"


def test_a_connection_that_breaks_is_an_error_of_both():
    async def serve(reader, writer):
        writer.write(b"half")
        await reader.readexactly(1)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
        writer.transport.abort()

    async def check(stream):
        assert await stream.read() == b"half"
        stream.transport.write(b"x")
        with pytest.raises(ConnectionError):
            await fill(stream, 8)
        with pytest.raises(ConnectionError):
            await stream.read()

    run(serve, check)


def test_who_is_told_of_pieces_can_end_it():
    async def serve(reader, writer):
        writer.write(b"x" * 10)
        await reader.read()

    async def check(stream):
        def told(count):
            raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"), memoryview(bytearray(1 << 20)) as view:
            await stream.fill(view, told)

    run(serve, check)


def test_a_cancelled_wait_keeps_nothing_of_the_buffer():
    async def serve(reader, writer):
        await reader.read()

    async def check(stream):
        buffer = bytearray(100)
        view = memoryview(buffer)
        filling = asyncio.ensure_future(stream.fill(view, lambda count: None))
        await asyncio.sleep(0)
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
        view.release()
        buffer.clear()  # BufferError while anybody has a view of it

    run(serve, check)
