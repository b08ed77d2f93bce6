"""mosquitto's words as notes: refusals with address and reason, nothing that is usual; against the real program too."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.drivers import broker
from ipdc_edge.drivers.broker_log import FILTER, MOST_PENDING, BrokerLog
from ipdc_edge.drivers.refusals import PAUSE, SOURCES, Refusals
from tests.drivers.certificates import Domain
from tests.drivers.mqtt5 import Refused
from tests.drivers.test_broker_access import Node, node
from tests.waiting import eventually

__all__ = ["node"]  # a fixture
TLS = "OpenSSL Error[0]: error:0A0000C7:SSL routines::peer did not return a certificate"
GONE = "Client <unknown> disconnected: Protocol error."


def new(address: str) -> str:
    return f"New connection from {address} on port 18830."


@pytest.mark.parametrize(
    ("lines", "notes"),
    [
        ([new("10.0.0.1:5"), "New client connected from 10.0.0.1:5 as Qm (p5, c1, k30, u'Qm').",
          "Client Qm disconnected.", "Client Qm already connected, closing old connection.",
          "Client Qm closed its connection.", "Client Qm has exceeded timeout, disconnecting."], []),
        ([new("10.0.0.1:5"), TLS, GONE], ["10.0.0.1 was refused: peer did not return a certificate"]),
        (["1795408756: Client connection from 10.0.0.7 failed: error:0A0000C7:SSL routines::wrong version number."],
         ["10.0.0.7 was refused: wrong version number"]),
        (["Client connection from 10.0.0.7 denied: max_connections exceeded."],
         ["10.0.0.7 was refused: max_connections exceeded"]),
        ([new("127.0.0.1:5"), "Client <unknown> disconnected, not authorised."],
         ["127.0.0.1 was refused: not authorised"]),
        ([new("127.0.0.1:5"), "Client x disconnected, not authorised."], ["127.0.0.1 was refused: not authorised"]),
        ([new("10.0.0.1:5"), new("10.0.0.2:5"), TLS, GONE],
         ["one of 10.0.0.1, 10.0.0.2 was refused: peer did not return a certificate"]),
        ([new("10.0.0.1:5"), "New client connected from 10.0.0.1:5 as Qm", new("10.0.0.2:5"), TLS, GONE],
         ["10.0.0.2 was refused: peer did not return a certificate"]),
        ([TLS, GONE], ["an unknown address was refused: peer did not return a certificate"]),
        ([TLS, "Client Qm closed its connection.", new("10.0.0.1:5"), GONE], ["10.0.0.1 was refused: Protocol error"]),
        ([TLS, "Client Qm closed its connection."], []),
        (["Outgoing messages are being dropped for client Qm."], ["Outgoing messages are being dropped"]),
        ([new("10.0.0.1:5"), TLS, GONE] * 100, ["10.0.0.1 was refused: peer did not return a certificate"]),
        ([new(f"10.0.0.1:{port}") for port in range(1000)] + [TLS, GONE], ["10.0.0.1 was refused"]),
    ],
)
def test_lines(lines: list[str], notes: list[str]) -> None:
    found: list[str] = []
    log = BrokerLog(found.append)
    for line in lines:
        log.heard(line)
    assert len(found) == len(notes), found
    for line, note in zip(found, notes):
        assert f"from {note}" in line or ("refused" not in note and note in line)
    assert len(log._pending) <= MOST_PENDING


@given(st.lists(st.text() | st.sampled_from([TLS, GONE, new("1.2.3.4:5"), "Client x failed: "]), max_size=20))
def test_any_text_is_taken(lines: list[str]) -> None:
    found: list[str] = []
    log = BrokerLog(found.append)
    for line in lines:
        log.heard(line)
    assert all(len(line) < 600 for line in found)


def test_a_line_a_minute_and_source_and_no_more_sources_than_can_be_kept() -> None:
    found: list[str] = []
    clock = itertools.chain([0.0, 1.0, PAUSE - 1, PAUSE], itertools.repeat(PAUSE))
    refusals = Refusals(found.append, lambda: next(clock))
    for _ in range(4):
        refusals.tell("a", "a was refused")
    assert found == ["a was refused", "a was refused (and 2 times since the last such line)"]
    for number in range(3 * SOURCES):
        refusals.tell(f"source {number}", "x")
    assert len(found) == 2 + SOURCES - 1 and len(refusals._noted) == SOURCES


def test_after_a_minute_other_sources_have_their_turn() -> None:
    found: list[str] = []
    now = 0.0
    refusals = Refusals(found.append, lambda: now)
    for number in range(SOURCES + 1):
        refusals.tell(f"old {number}", "old")
    now = PAUSE
    refusals.tell("new", "new")
    assert found == ["old"] * SOURCES + ["new"]


def test_a_real_broker_tells_the_daemon_who_was_refused(
    node: Node, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[str] = []
    daemon = node.daemon()
    assert daemon.subscribe(FILTER)[0] <= 2
    capfd.readouterr()
    assert broker.log_to_topics(node.home)
    log = BrokerLog(found.append)

    def heard() -> list[str]:
        daemon.settle()
        for topic, payload in daemon.messages:
            assert topic.startswith("$SYS/broker/log/")
            log.heard(payload.decode())
        daemon.messages.clear()
        return found

    eventually(lambda: node.client(node.other).close() or daemon.settle(), "the log comes here")
    node.client(node.other).vanish()
    assert heard() == []  # nothing of what is usual
    foreign = Domain(str(tmp_path / "foreign")).admit("x", common_name=node.peer.id)
    with pytest.raises(Refused):
        node.client(foreign)
    eventually(heard, "a note")
    assert len(found) == 1 and found[0].startswith("broker: a connection from 127.0.0.1 was refused: certificate")
    for _ in range(20):
        with pytest.raises(Refused):
            node.client(None)
    node.expel(node.peer)
    with pytest.raises(Refused):
        node.client(node.peer)
    heard()
    assert len(found) == 1  # once a minute
    said = capfd.readouterr().err
    assert "OpenSSL" not in said and "connection" not in said  # nor does the journal get any of it
    member = node.client(node.other)
    member.subscribe("$SYS/#", FILTER)
    with pytest.raises(Refused):
        node.client(None)
    assert member.settle() == []
    node.process.stop()
    assert not broker.log_to_topics(node.home)
