"""The RPC client against a real Kubo: blocks, pins that outlast a garbage collection, and errors in words."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers import kubo_rpc
from ipdc_edge.drivers.kubo_rpc import MOST_BLOCK, KuboRefused, KuboRpc, NoKubo
from tests.ipfs.kubo import VERSION, Kubo
from tests.waiting import eventually

pytestmark = pytest.mark.kubo


@pytest.fixture
def rpc(kubo: Kubo) -> Iterator[KuboRpc]:
    rpc = KuboRpc(kubo.rpc)
    yield rpc
    rpc.close()


def test_blocks_of_any_size_come_back(rpc: KuboRpc) -> None:
    for data in b"", b"\r\n--ipdc--\r\n", bytes(MOST_BLOCK):
        cid = rpc.put_block(data)
        assert cid == raw_cid(data)
        assert (rpc.get_block(cid), rpc.block_size(cid)) == (data, len(data))
    with pytest.raises(KuboRefused, match="big"):
        rpc.put_block(bytes(MOST_BLOCK + 1))


def test_content_never_ends_its_own_form(rpc: KuboRpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who knew the boundary could have another block stored than the one that was meant."""
    said = []
    real = rpc._exchange
    monkeypatch.setattr(rpc, "_exchange", lambda *words: (said.append(words[4]), real(*words))[1])
    cid = rpc.put_block(b"first")
    data = f"\r\n--{said[0]}--\r\n and more".encode()
    assert rpc.put_block(data) == raw_cid(data) and rpc.get_block(cid) == b"first"


def test_what_is_not_here_is_said_at_once(rpc: KuboRpc) -> None:
    absent = raw_cid(b"nobody has this")
    assert rpc.get_block(absent) is rpc.block_size(absent) is None
    assert not rpc.pin(absent) and not rpc.unpin(absent)


def test_a_pin_keeps_a_block_over_a_garbage_collection(kubo: Kubo, rpc: KuboRpc) -> None:
    kept, gone = rpc.put_block(b"kept"), rpc.put_block(b"gone")
    assert rpc.pin(kept, "ipdc-test one") and rpc.pin(kept, "ipdc-test one")
    kubo.run("repo", "gc", "--quiet")
    assert rpc.get_block(kept) == b"kept" and rpc.get_block(gone) is None
    assert list(rpc.pins("ipdc-test")) == [(kept, "ipdc-test one")] and list(rpc.pins("ipdc-else")) == []
    assert rpc.unpin(kept) and not rpc.unpin(kept)
    kubo.run("repo", "gc", "--quiet")
    assert rpc.get_block(kept) is None


def test_what_it_says_of_itself(kubo: Kubo, rpc: KuboRpc) -> None:
    assert rpc.version() == VERSION[1:]
    assert rpc.identity()["ID"] == kubo.call("id")["ID"]
    assert rpc.peers() == []
    with pytest.raises(KuboRefused, match="invalid"):
        rpc.connect("/ip4/nowhere")
    with pytest.raises(KuboRefused, match="404|not found"):
        rpc.call("no/such/command")


def test_threads_may_use_one_together(rpc: KuboRpc) -> None:
    faults = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                data = b"%d of %d" % (turn, number) * 1000
                assert rpc.get_block(rpc.put_block(data)) == data
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_kubo_that_was_started_again_is_met_again(kubo: Kubo, rpc: KuboRpc) -> None:
    cid = rpc.put_block(b"before")
    kubo.stop(kill=True)
    with pytest.raises(NoKubo, match=rf"{rpc.address} \(.*refused"):
        rpc.get_block(cid)
    kubo.start()
    assert rpc.get_block(cid) == b"before"
    kubo.stop()
    kubo.start()  # the connection that was kept has ended, and nobody asked meanwhile
    assert rpc.get_block(cid) == b"before"


def test_who_never_answers_or_breaks_off() -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as server:
        with pytest.raises(NoKubo, match=r"no answer within 0\.2 s"):
            KuboRpc(("127.0.0.1", port), timeout=0.2).version()
        server.accept()[0].close()
        for head, words in ((b"200 OK\r\nContent-Length: 9\r\n\r\n{", "broke off"), (b"", "HTTP/1.1")):
            def serve(answer: bytes = b"HTTP/1.1 " + head) -> None:
                peer = server.accept()[0]
                peer.recv(4096)
                peer.sendall(answer)
                peer.close()

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(NoKubo, match=f"(?i){words}"):
                KuboRpc(("127.0.0.1", port)).version()
            thread.join()


def test_an_answer_is_never_longer_than_what_is_asked_for(rpc: KuboRpc) -> None:
    cid = rpc.put_block(bytes(1000))
    with pytest.raises(KuboRefused, match="longer than 999 bytes"):
        rpc.call("block/get", [("arg", cid)], 999)
    assert rpc.get_block(cid) == bytes(1000)


def test_a_pin_waits_while_kubo_collects(kubo: Kubo, rpc: KuboRpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubo collects when nothing is being added, and lets nobody pin from the moment when it wants to."""
    monkeypatch.setattr(kubo_rpc, "STALLED", 0.0)
    cid, other = (rpc.put_block(data, pin=True) for data in (b"to be pinned", b"another"))  # so they are not collected
    asked, go_on, stop, pinned, faults = threading.Semaphore(0), threading.Event(), threading.Event(), [], []
    is_whole = rpc.is_whole
    monkeypatch.setattr(rpc, "is_whole", lambda cid: (asked.release(), is_whole(cid))[1])

    def parts() -> Iterator[bytes]:
        yield b"begins"
        assert go_on.wait(60)

    def pin() -> None:
        pinned.append(rpc.pin(cid, "waits"))

    def pin_in_vain() -> None:
        try:
            rpc.pin(other, "in vain", stop)
        except NoKubo as error:
            faults.append(str(error))

    def stands() -> bool:
        with contextlib.closing(rpc.lines("pin/add", [("arg", cid), ("progress", "true")])) as lines:
            return [line.strip() for line in itertools.islice(lines, 4)] == [b"{}"] * 4  # two a second

    def collect() -> None:
        while not go_on.is_set():  # it may come before what is added
            KuboRpc(kubo.rpc, 60).call("repo/gc")

    adding = threading.Thread(target=lambda: KuboRpc(kubo.rpc).upload(
        "add", [("pin", "true")], "file", "application/octet-stream", parts()))
    collecting, pinning, in_vain = (threading.Thread(target=work) for work in (collect, pin, pin_in_vain))
    try:
        adding.start()
        collecting.start()
        eventually(stands, "Kubo lets nobody pin", 20)
        pinning.start()
        for _ in range(6):  # far more often than it would be tried if it were counted
            assert asked.acquire(timeout=60)
        in_vain.start()
        stop.set()
        in_vain.join()
        assert not pinned and "nobody waits any more" in faults[0]
    finally:
        go_on.set()
        for thread in (adding, collecting, pinning):
            if thread.ident is not None:
                thread.join()
    assert pinned == [True]
