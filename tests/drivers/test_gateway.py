"""The gateway over loopback, asked by curl, by http.client and by peers that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.gateway import Gateway, GatewayPortTaken
from ipdc_edge.drivers.gateway_http import matches, split_target, wanted_format
from ipdc_edge.drivers.importer import import_file
from tests.waiting import eventually_async

RAW = {"Accept": "application/vnd.ipld.raw"}
ABSENT = raw_cid(b"absent")
EMPTY_0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"


@pytest.fixture()
def store(tmp_path):
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    yield store
    store.close()


def plain(store, port=0, **options):
    """A gateway for whoever speaks HTTP; who is let in is test_gateway_door.py's."""
    return Gateway(store, "127.0.0.1", port, None, lambda node: True, lambda line: None, **options)


def serve(store, check, **options):
    """Run `check(gateway)` against a gateway; a plain function runs in a thread, so that it may block."""

    async def main():
        gateway = plain(store, **options)
        await gateway.start()
        try:
            if asyncio.iscoroutinefunction(check):
                return await check(gateway)
            return await asyncio.to_thread(check, gateway)
        finally:
            await gateway.close()

    return asyncio.run(main())


def ask(store, target, method="GET", headers=None, body=None):
    """(status, headers, body) of one request by http.client."""

    def check(gateway):
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)
        client.request(method, target, body=body, headers=headers or {})
        answer = client.getresponse()
        result = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        client.close()
        return result

    return serve(store, check)


def put(store, data):
    cid = raw_cid(data)
    store.put(cid, data, "user")
    return cid


# --- pages


def test_a_page_is_made_when_it_is_asked_for_and_is_at_its_path_only(store):
    made = []

    async def page(query):
        made.append(1)
        return f"page {len(made)}{query.get('of', '')}"

    def check(gateway):
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)
        found = []
        for target in ("/ipdc/page", "/ipdc/page?of=%20two&x", "/ipdc/page/more", "/ipdc"):
            client.request("GET", target)
            answer = client.getresponse()
            found.append((answer.status, answer.read().decode().strip(), answer.getheader("Cache-Control")))
        client.close()
        return found

    first, second, *others = serve(store, check, pages={"/ipdc/page": page})
    assert (first, second) == ((200, "page 1", "no-store"), (200, "page 2 two", "no-store"))
    assert [status for status, _, _ in others] == [404, 404] and len(made) == 2


# --- what the specification says


def test_a_block_by_format_has_the_prescribed_headers(store):
    cid = put(store, b"hello world")
    status, headers, body = ask(store, f"/ipfs/{cid}?format=raw")
    assert (status, body) == (200, b"hello world")
    assert headers["content-type"] == "application/vnd.ipld.raw"
    assert headers["content-length"] == "11"
    assert headers["content-disposition"] == f'attachment; filename="{cid}.bin"'
    assert headers["etag"] == f'"{cid}.raw"'
    assert headers["cache-control"] == "public, max-age=29030400, immutable"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-ipfs-path"] == f"/ipfs/{cid}"
    assert headers["x-ipfs-roots"] == cid
    assert "content-location" not in headers


def test_a_block_by_accept_says_where_caches_find_it(store):
    cid = put(store, b"hello world")
    status, headers, body = ask(store, f"/ipfs/{cid}", headers=RAW)
    assert (status, body) == (200, b"hello world")
    assert headers["content-location"] == f"/ipfs/{cid}?format=raw"
    assert headers["vary"] == "Accept"


def test_head_has_the_same_headers_and_no_body(store):
    cid = put(store, os.urandom(CHUNK))
    got = ask(store, f"/ipfs/{cid}?format=raw")
    head = ask(store, f"/ipfs/{cid}?format=raw", method="HEAD")
    assert (head[0], head[1], head[2]) == (200, got[1], b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_probe_is_answered_by_an_empty_store(store, method):
    status, headers, body = ask(store, "/ipfs/bafkqaaa?format=raw", method=method)
    assert (status, headers["content-length"], body) == (200, "0", b"")


def test_a_block_by_its_version_0_name(store):
    store.put(EMPTY_0, b"\n\x02\x08\x01", "user")
    status, headers, body = ask(store, f"/ipfs/{EMPTY_0}?format=raw")
    assert (status, headers["etag"], body) == (200, f'"{EMPTY_0}.raw"', b"\n\x02\x08\x01")


@pytest.mark.parametrize(
    ("target", "headers", "status", "words"),
    [
        ("/ipfs/{cid}", {}, 400, "format=raw"),
        ("/ipfs/{cid}", {"Accept": "*/*"}, 400, "format=raw"),
        ("/ipfs/{cid}", {"Accept": "application/vnd.ipld.raw;q=0"}, 400, "format=raw"),
        ("/ipfs/{cid}", {"Accept": "text/html, application/vnd.ipld.raw;q=0.5"}, 200, "hello"),
        ("/ipfs/{cid}?format=tar", RAW, 400, "nothing else"),  # format beats Accept
        ("/ipfs/{cid}?format=raw", {"Accept": "application/vnd.ipld.car"}, 200, "hello"),
        ("/ipfs/{cid}?format=car", RAW, 200, "hello"),
        ("/ipfs/{cid}", {"Accept": "application/vnd.ipld.car; version=1"}, 200, "hello"),
        ("/ipfs/{cid}/file.txt?format=raw", {}, 400, "without a path"),
        ("/ipfs/{cid}/?format=raw", {}, 400, "without a path"),
        ("/ipfs/../../etc/passwd?format=raw", {}, 400, "without a path"),
        ("/ipfs/notacid?format=raw", {}, 400, "Not a CID"),
        ("/ipfs/?format=raw", {}, 400, "Not a CID"),
        ("/ipfs/%62afk?format=raw", {}, 400, "Not a CID"),
        ("/ipfs/{absent}?format=raw", {}, 404, "not here"),
        ("/ipfs/{absent}?format=raw", {"Cache-Control": "max-age=0, Only-If-Cached"}, 412, "not here"),
        ("/ipfs/{cid}?format=raw", {"Cache-Control": "only-if-cached"}, 200, "hello"),
        ("/", {}, 404, "only /ipfs"),
        ("/ipns/example.com?format=ipns-record", {}, 404, "only /ipfs"),
        ("http://elsewhere/ipfs/{cid}?format=raw", {}, 200, "hello"),
    ],
)
def test_the_codes(store, target, headers, status, words):
    cid = put(store, b"hello world")
    got, fields, body = ask(store, target.format(cid=cid, absent=ABSENT), headers=headers)
    assert got == status and words in body.decode(errors="replace")
    assert fields["x-content-type-options"] == "nosniff"
    if status != 200:
        assert fields["content-type"] == "text/plain; charset=utf-8" and "etag" not in fields


def test_a_block_that_the_asker_has_is_not_sent_again(store):
    cid = put(store, b"hello world")
    for known in (f'"{cid}.raw"', f'W/"{cid}.raw"', f'"other", "{cid}.raw"', "*"):
        status, headers, body = ask(store, f"/ipfs/{cid}?format=raw", headers={"If-None-Match": known})
        assert (status, headers["etag"], body) == (304, f'"{cid}.raw"', b"")
    assert ask(store, f"/ipfs/{cid}?format=raw", headers={"If-None-Match": '"other"'})[0] == 200
    assert ask(store, f"/ipfs/{ABSENT}?format=raw", headers={"If-None-Match": "*"})[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(store, method):
    status, headers, _ = ask(store, "/ipfs/bafkqaaa?format=raw", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_body_is_not_taken(store):
    assert ask(store, "/ipfs/bafkqaaa?format=raw", body=b"x" * 100_000)[0] == 413
    chunked = ask(
        store, "/ipfs/bafkqaaa?format=raw", body=iter([b"x"]), headers={"Transfer-Encoding": "chunked"}
    )
    assert chunked[0] == 413


def test_curl_fetches_a_big_block_and_reuses_the_connection(store, tmp_path):
    data = os.urandom(CHUNK)
    cid = put(store, data)

    def check(gateway):
        url = f"http://127.0.0.1:{gateway.port}/ipfs/{cid}?format=raw"
        out = subprocess.run(
            ["curl", "-sS", "-o", tmp_path / "1", "-o", tmp_path / "2", "-w", "%{num_connects} ", url, url],
            capture_output=True,
            check=True,
        )
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == data
        assert out.stdout.split() == [b"1", b"0"]
        assert gateway.counters == {"blocks": 2, "bytes": 2 * CHUNK, "refused": 0, "connections": 1}
        return json.dumps(gateway.counters)

    serve(store, check)


def test_a_changed_reference_is_not_here_and_its_path_stays_at_home(store, tmp_path):
    path = tmp_path / "private-name.txt"
    path.write_bytes(b"content")
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        store.add_reference(file.fileno(), root, interior, "user")
    assert ask(store, f"/ipfs/{root}?format=raw")[2] == b"content"
    path.write_bytes(b"changed")
    status, _, body = ask(store, f"/ipfs/{root}?format=raw")
    assert status == 404 and b"changed since" in body and b"private-name" not in body


def test_refusals_are_counted_and_heads_are_no_blocks(store):
    cid = put(store, b"hello world")

    def check(gateway):
        for method, target in (("GET", cid), ("HEAD", cid), ("GET", ABSENT), ("GET", "x")):
            client = http.client.HTTPConnection("127.0.0.1", gateway.port)
            client.request(method, f"/ipfs/{target}?format=raw")
            client.getresponse().read()
            client.close()
        assert gateway.counters == {"blocks": 1, "bytes": 11, "refused": 2, "connections": 4}

    serve(store, check)


# --- peers that mean no good


async def talk(gateway, data, eof=False):
    """Everything that comes back for these bytes until the gateway closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(data)
    if eof:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /ipfs/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 20_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", b"400"),
        (b"GET /ipfs/bafkqaaa HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_proper_request_is_told_and_closed(store, data, status):
    async def check(gateway):
        answer = await talk(gateway, data)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"onnection: close" in answer
        assert gateway.counters["refused"] == 1
        assert (await talk(gateway, b"GET /ipfs/bafkqaaa?format=raw HTTP/1.0\r\n\r\n")).startswith(
            b"HTTP/1.1 200"
        )

    serve(store, check)


def test_a_slow_request_and_a_silent_peer_are_ended(store):
    async def slow(gateway):
        answer = await talk(gateway, b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: ")
        assert answer.startswith(b"HTTP/1.1 408")
        await settled(gateway)

    async def silent(gateway):
        assert await talk(gateway, b"") == b""
        await settled(gateway)

    # one limit at a time: on a busy machine the other could end the connection first
    serve(store, slow, patience=0.1)
    serve(store, silent, idle=0.1)


async def settled(gateway):
    """Every connection has ended."""
    await eventually_async(lambda: not gateway._open, "the end of every connection")


def test_a_peer_that_does_not_take_its_answer_is_dropped_and_stops_nobody(store):
    cid = put(store, os.urandom(CHUNK))
    request = f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    async def check(gateway):
        loop = asyncio.get_running_loop()
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(deaf, request * 8)  # more than all buffers on the way hold
        answer = await talk(gateway, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert len(answer) > CHUNK  # somebody else is served meanwhile
        await settled(gateway)
        assert gateway.counters["refused"] == 1
        deaf.close()

    serve(store, check, patience=1)


PROBE = b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = PROBE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def hold(gateway, count, ask):
    """Connections that stay, answered once or not yet."""
    held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(count)]
    for reader, writer in held if ask else ():
        writer.write(PROBE)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await eventually_async(lambda: len(gateway._open) == count, "all are in")
    return held


@pytest.mark.parametrize("options, ask", [({"per_peer": 3}, True), ({"connections": 3}, False)])
def test_connections_are_bounded_in_all_and_by_peer(store, options, ask):
    async def check(gateway):
        held = await hold(gateway, 3, ask)
        answer = await talk(gateway, LAST)
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After" in answer
        assert gateway.counters["refused"] == 1
        held[0][1].close()
        await held[0][1].wait_closed()
        await eventually_async(lambda: len(gateway._open) <= 2, "one of the three has ended")
        assert (await talk(gateway, LAST)).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()

    serve(store, check, **options)


def test_the_connection_that_is_unused_for_longest_makes_room(store):
    async def check(gateway):
        held = await hold(gateway, 3, True)
        held[0][1].write(PROBE)  # used again: so the second is the one
        assert (await held[0][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        new = await asyncio.open_connection("127.0.0.1", gateway.port)
        new[1].write(PROBE)
        assert (await new[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            assert await held[1][0].read() == b""
        for reader, writer in (held[0], held[2], new):
            writer.write(PROBE)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()
        assert gateway.counters["refused"] == 0
        await eventually_async(lambda: not gateway._open and not gateway._unused, "nothing is left of them")

    serve(store, check, connections=3)


def test_a_peer_that_goes_away_leaves_nothing(store):
    cid = put(store, os.urandom(CHUNK))

    async def check(gateway):
        def descriptors():
            return len(os.listdir("/proc/self/fd"))

        before = descriptors()
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await reader.readexactly(1000)
            writer.transport.abort()
        await settled(gateway)
        # a thread may still be closing the block it had opened
        await eventually_async(lambda: descriptors() <= before, "every descriptor is closed")
        assert gateway.counters["connections"] == 20

    serve(store, check)


def test_close_ends_answers_in_the_middle(store):
    cid = put(store, os.urandom(CHUNK))

    async def main():
        gateway = plain(store)
        await gateway.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        writer.write(f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 10)
        await reader.readexactly(100)
        await gateway.close()
        await gateway.close()
        assert gateway._open == {}
        writer.close()
        again = plain(store, gateway.port)
        await again.start()
        await again.close()

    asyncio.run(main())


def test_a_taken_port_says_what_to_change(store):
    async def check(gateway):
        with pytest.raises(GatewayPortTaken, match=rf"{gateway.port}.*gateway_port"):
            await plain(store, gateway.port).start()

    serve(store, check)


# --- the pure parts


def test_targets_and_types():
    assert split_target(b"/ipfs/x?format=raw&format=car&a") == ("/ipfs/x", {"format": "raw", "a": ""})
    assert split_target(b"http://h:1/ipfs/x?q") == ("/ipfs/x", {"q": ""})
    assert split_target(b"*") == ("", {"": ""})
    assert wanted_format({}, "Application/VND.ipld.raw; q=1") == "raw"
    assert wanted_format({}, "application/vnd.ipld.rawx") == ""
    assert matches("", '"a"') is False
