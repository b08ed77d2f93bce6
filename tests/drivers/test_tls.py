"""TLS between nodes: a gateway and a fetcher, each with a certificate, and everybody who has the wrong one."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import gc
import os
import socket
import ssl
import struct
import threading
from dataclasses import replace

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import BlockUnavailable, Fetcher
from ipdc_edge.drivers.gateway import Gateway
from ipdc_edge.drivers.provider import Provider
from ipdc_edge.drivers.tls import READ_BUFFER, client_context, forget_errors, peer_id, server_context
from tests.drivers.certificates import Domain
from tests.waiting import eventually_async

DATA = b"hello world"


@pytest.fixture
def stores(tmp_path):
    stores = [BlockStore(str(tmp_path / name), 64 << 20) for name in ("here", "there")]
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def domain(tmp_path):
    return Domain(str(tmp_path / "domain"))


def run(stores, server, client, check, admits=lambda node: True):
    """`check(gateway, fetcher, address, notes)`: the gateway is `server`'s, the fetcher `client`'s."""

    async def main():
        notes = []
        gateway = Gateway(stores[1], "127.0.0.1", 0, server_context(server), admits, notes.append)
        await gateway.start()
        fetcher = Fetcher(stores[0], client_context(client))
        try:
            return await check(gateway, fetcher, f"127.0.0.1:{gateway.port}", notes)
        finally:
            await fetcher.close()
            await gateway.close()

    return asyncio.run(main())


def put(store, data):
    store.put(raw_cid(data), data, "user")
    return raw_cid(data)


@pytest.mark.parametrize("size", [0, 1, 65537, CHUNK, MAX_BLOCK])
def test_members_fetch_from_each_other(stores, domain, size):
    one, two = domain.admit("one"), domain.admit("two")
    data = os.urandom(size)
    cid = put(stores[1], data)
    seen = []

    async def check(gateway, fetcher, address, notes):
        for _ in range(3):
            assert await fetcher.block(cid, [Provider(one.id, address)]) == data
        assert gateway.counters["connections"] == 1 and notes == []
        assert list(gateway._open.values()) == [two.id]
        assert set(seen) == {two.id}

    run(stores, one, two, check, lambda node: seen.append(node) is None)


def test_who_answers_must_be_who_was_meant(stores, domain):
    one, two, three = (domain.admit(name) for name in ("one", "two", "three"))
    cid = put(stores[1], DATA)

    async def check(gateway, fetcher, address, notes):
        with pytest.raises(BlockUnavailable, match=f"another node answers there: {one.id}"):
            await fetcher.block(cid, [Provider(three.id, address)])
        with pytest.raises(BlockUnavailable, match="another node answers there"):
            await fetcher.block(cid, [Provider("", address)])
        assert gateway.counters["blocks"] == 0  # nothing was asked of it
        assert await fetcher.block(cid, [Provider(three.id, address), Provider(one.id, address)]) == DATA
        assert set(fetcher._pools) >= {Provider(one.id, address)}

    run(stores, one, two, check)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("fault", ["foreign authority", "own words", "no id"])
def test_a_wrong_certificate_on_either_side(stores, domain, tmp_path, side, fault):
    one, two = domain.admit("one"), domain.admit("two")
    cid = put(stores[1], DATA)
    meant = one.id
    good = one if side == "server" else two
    foreign = Domain(str(tmp_path / "foreign"))
    if fault == "foreign authority":
        bad = foreign.admit("x", common_name=good.id)
        bad = replace(bad, authority_certificate=domain.certificate)
    elif fault == "own words":  # signed by itself
        bad = replace(good, certificate=foreign.certificate, key=_key(foreign, tmp_path))
    else:
        bad = domain.admit("x", common_name="Qm-not-an-id")
        meant = meant if side == "client" else "Qm-not-an-id"
    server, client = (bad, two) if side == "server" else (one, bad)
    admitted = {one.id, two.id}

    async def check(gateway, fetcher, address, notes):
        with pytest.raises(BlockUnavailable):
            await fetcher.block(cid, [Provider(meant, address)])
        await eventually_async(lambda: not gateway._open, "nothing is open")
        assert gateway.counters["blocks"] == 0
        await eventually_async(lambda: notes or side == "server", "the gateway's side says why")
        if side == "client":
            assert len(notes) == 1 and "127.0.0.1 was refused" in notes[0]

    run(stores, server, client, check, admitted.__contains__)


def _key(domain, tmp_path):
    from tests.drivers.certificates import pem_of_key, write

    return write(str(tmp_path / "foreign.key"), pem_of_key(domain.key))


def test_a_stranger_without_a_certificate_or_without_tls_gets_nothing(stores, domain):
    one, two = domain.admit("one"), domain.admit("two")
    cid = put(stores[1], DATA)
    request = f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE

    async def ask(port, context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(request)
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.transport.abort()

    async def check(gateway, fetcher, address, notes):
        for context in (bare, None):
            assert b"hello" not in await ask(gateway.port, context)
        assert DATA in await asyncio.wait_for(until_data(gateway.port, client_context(two)), 10)
        assert gateway.counters["connections"] == 1 and len(notes) == 1 and gateway.counters["refused"] >= 2

    async def until_data(port, context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request)
        try:
            return await reader.readuntil(DATA)
        finally:
            writer.transport.abort()

    run(stores, one, two, check)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_versions(stores, domain):
    one, two = domain.admit("one"), domain.admit("two")

    async def check(gateway, fetcher, address, notes):
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.MAXIMUM_SUPPORTED, "TLSv1.3")):
            context = client_context(two)
            context.maximum_version = version
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
            connection = writer.get_extra_info("ssl_object")
            assert (connection.version(), peer_id(connection)) == (name, one.id)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 404 " in await reader.readuntil(b"\r\n\r\n")  # tickets would have come before it
            assert connection.session is None or not connection.session.has_ticket
            writer.transport.abort()
        old = client_context(two)
        old.set_ciphers("ALL:@SECLEVEL=0")  # else our own OpenSSL refuses it first
        old.minimum_version = ssl.TLSVersion.TLSv1
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=old)
        writer.transport.abort()
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", gateway.port, ssl=old)
        await eventually_async(lambda: notes, "the reason is noted")
        assert "UNSUPPORTED_PROTOCOL" in notes[0]

    run(stores, one, two, check)


def test_a_connections_buffer_is_small_on_both_sides(stores, domain):
    one, two = domain.admit("one"), domain.admit("two")

    async def check(gateway, fetcher, address, notes):
        before = set(map(id, _protocols()))
        await fetcher.block(put(stores[1], DATA), [Provider(one.id, address)])
        made = [protocol for protocol in _protocols() if id(protocol) not in before]
        assert [len(protocol._ssl_buffer) for protocol in made] == [READ_BUFFER] * 2

    run(stores, one, two, check)


def _protocols():
    return [found for found in gc.get_objects() if isinstance(found, asyncio.sslproto.SSLProtocol)]


def test_no_connection_has_no_id():
    assert peer_id(None) == ""


def test_a_reset_of_one_connection_is_no_error_of_another(domain):
    """OpenSSL 3.5 under Python 3.13 (Debian 13): without forget_errors the other one fails, nearly every time."""
    here, there = domain.admit("here"), domain.admit("there")
    context, accepted = server_context(there), []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def accept():
            plain, _ = listener.accept()
            accepted.append(context.wrap_socket(plain, server_side=True))

        def connect():
            thread = threading.Thread(target=accept)
            thread.start()
            connected = client_context(here).wrap_socket(socket.create_connection(listener.getsockname()))
            thread.join()
            connected.settimeout(10)
            return connected

        for _ in range(20):
            broken, other = connect(), connect()
            accepted[-2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted[-2].close()
            with contextlib.suppress(OSError):
                while broken.recv(1):
                    pass
            with contextlib.suppress(OSError):
                broken.send(b"x")
            broken.close()
            forget_errors()
            accepted[-1].sendall(b"here")
            assert other.recv(4) == b"here"
            other.close()
            accepted[-1].close()
