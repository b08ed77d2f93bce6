"""Who gets into a real broker and what each may do there: every refusal beside the same attempt by one who may."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.core.values import Member, MemberList
from ipdc_edge.drivers import broker, certificates
from ipdc_edge.drivers.architectures import channels
from ipdc_edge.drivers.broker_client import Unkicked, await_version, kick
from ipdc_edge.drivers.broker_files import access_list, credentials, write_access
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.drivers.retained import forget, retained
from ipdc_edge.home import Home
from ipdc_edge.settings import parse
from tests.drivers.certificates import Domain
from tests.drivers.mqtt5 import BAD_CREDENTIALS, NO_SUBSCRIBERS, NOT_AUTHORIZED, SUCCESS, Client, Refused, tls
from tests.waiting import eventually

TOP = "ipdc/1/test"
LET_GO = 3 if ssl.OPENSSL_VERSION_INFO >= (3, 5) else 0  # times that a broker may end a connection for another's error


class Node:
    """A domain, one of its nodes, and that node's broker."""

    def __init__(self, directory: Path, portal: bool = True) -> None:
        self.home = Home({"IPDC_HOME": str(directory / "home")})
        self.home.prepare()
        self.domain = Domain(str(directory / "domain"))
        self.identity = self.domain.admit("own", portal=portal)
        self.peer = self.domain.admit("peer")
        self.other = self.domain.admit("other")
        self.identity = self.domain.now(self.identity)
        self.port, self.local = free_ports(2)
        listen = f"listen = 127.0.0.1\nmqtt_port = {self.port}\nlocal_port = {self.local}"
        self.process = broker.BrokerProcess(self.home, parse(listen.encode(), "f"), self.identity)
        self.user, self.password = credentials(self.home)

    def daemon(self, client_id: str = "", **options: Any) -> Client:
        given = {"user": self.user, "password": self.password} | options
        connection = socket.create_connection(("127.0.0.1", self.local))
        return Client(connection, client_id or self.identity.id, **given)

    def client(self, identity: Identity | None, client_id: str = "", **options: Any) -> Client:
        # In a thread of its own: with Python 3.13 and OpenSSL 3.5 a connection that was reset leaves its error to the
        # next one that this thread reads from. It does so in mosquitto too, which then ends whoever comes next.
        with ThreadPoolExecutor(1) as thread:
            for attempt in range(LET_GO + 1):
                try:
                    return thread.submit(lambda: Client(tls(self.port, identity), client_id, **options)).result()
                except Refused as refused:
                    if refused.reason is not None or attempt == LET_GO:
                        raise
        raise AssertionError

    def stays(self, client: Client, identity: Identity) -> None:
        """That a member whom nobody threw out speaks on: after coming again, if others' errors may have ended it."""
        try:
            reason = client.publish(self.topic(identity, "renew"))
        except OSError:
            if not LET_GO:
                raise
            reason = self.client(identity).publish(self.topic(identity, "renew"))
        assert reason in (SUCCESS, NO_SUBSCRIBERS)

    def topic(self, who: Identity, channel: str) -> str:
        return f"{TOP}/{who.id}/{channel}"

    def expel(self, *nodes: Identity) -> None:
        """As the daemon does it when a new list has come."""
        for node in nodes:
            self.domain.expel(node)
        self.identity = self.domain.now(self.identity)
        assert broker.update(self.home, self.identity)
        kick(self.local, self.password, [node.id for node in nodes], self.identity.members.version)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.process.start()
    yield node
    node.process.stop()


# --- who gets in


def test_members_and_the_daemon_get_in(node: Node) -> None:
    for identity in (node.peer, node.other):
        client = node.client(identity, "whatever")
        assert client.publish(node.topic(identity, "renew")) in (SUCCESS, NO_SUBSCRIBERS)
        client.close()
    daemon = node.daemon()
    assert daemon.publish(node.topic(node.identity, "node")) in (SUCCESS, NO_SUBSCRIBERS)
    daemon.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(node: Node, version: ssl.TLSVersion) -> None:
    connection = tls(node.port, node.peer, version, version)
    assert connection.version() == version.name.replace("v1_", "v1.")
    Client(connection).close()


@pytest.mark.parametrize("who", ["", "anonymous", "daemon", "peer"])
@pytest.mark.parametrize("password", [None, "", "wrong"])
def test_nobody_gets_in_locally_without_the_password(node: Node, who: str, password: str | None) -> None:
    user = {"": None, "peer": node.peer.id}.get(who, who)
    with pytest.raises(Refused) as caught:
        node.daemon("x", user=user, password=password)
    assert caught.value.reason in (BAD_CREDENTIALS, NOT_AUTHORIZED)
    node.daemon("x").close()


def test_no_connection_is_lost_when_a_second_begins(node: Node) -> None:
    """mosquitto 2.0.21 drops who stands on the last place of its ring of keepalives: whoever has the greatest one that
    is allowed, if that is what a connection has before it says its own."""
    end = time.monotonic() + 4
    connections = 0
    while time.monotonic() < end:
        node.daemon("x").close()
        connections += 1
    assert connections > 4


def test_no_certificate(node: Node) -> None:
    with pytest.raises(Refused) as caught:
        node.client(None, node.peer.id)
    assert caught.value.reason is None
    with pytest.raises(Refused):  # nor with the daemon's credentials
        node.client(None, user=node.user, password=node.password)
    node.client(node.peer, node.peer.id).close()


def test_another_authoritys_certificate_of_the_same_name(node: Node, tmp_path: Path) -> None:
    foreign = Domain(str(tmp_path / "foreign"))
    for lie in (foreign.admit("a", common_name=node.peer.id), foreign.admit("b", common_name=node.identity.id)):
        with pytest.raises(Refused) as caught:
            node.client(lie)
        assert caught.value.reason is None
    foreign_authority = Domain(str(tmp_path / "same-id"), key=node.domain.key)  # the key itself is what counts
    node.client(foreign_authority.admit("c", common_name=node.peer.id)).close()


def test_a_nodes_certificate_issues_nothing(node: Node, tmp_path: Path) -> None:
    """A member that signs a certificate for another id, as if it were the authority, gets nobody in."""
    from cryptography.hazmat.primitives import serialization

    with open(node.other.key, "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    forger = Domain(str(tmp_path / "forger"), key=key)  # type: ignore[arg-type]
    lie = forger.admit("lie", common_name=node.peer.id)
    with open(lie.certificate, "ab") as file, open(node.other.certificate, "rb") as own:
        file.write(own.read())  # with its own certificate as if that were in between
    with pytest.raises(Refused):
        node.client(lie)


def test_plain_text_to_the_tls_port(node: Node) -> None:
    with pytest.raises(Refused):
        Client(socket.create_connection(("127.0.0.1", node.port)), "x", user=node.user, password=node.password)
    node.client(node.peer).close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_1_is_refused(node: Node) -> None:
    anything = "ALL:@SECLEVEL=0"  # else our own OpenSSL refuses it first
    with pytest.raises(Refused, match="ALERT_PROTOCOL_VERSION"):
        tls(node.port, node.peer, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, anything)
    tls(node.port, node.peer, ssl.TLSVersion.TLSv1, ciphers=anything).close()


def test_the_own_certificate_opens_nothing(node: Node) -> None:
    """Nor does the daemon's name, on the other listener."""
    daemon = node.daemon()
    daemon.subscribe(f"{TOP}/#")
    own = node.client(node.identity, node.user, user=node.user, password=node.password)
    assert own.publish(node.topic(node.identity, "node")) == NOT_AUTHORIZED
    own.close()


# --- what a member may do


def test_a_member_speaks_on_its_own_channels_only(node: Node) -> None:
    daemon = node.daemon()
    assert daemon.subscribe(f"{TOP}/#", "#")[0] <= 2
    client = node.client(node.peer)
    for channel in channels():
        assert client.publish(node.topic(node.peer, channel), channel.encode()) == SUCCESS
    heard = {(node.topic(node.peer, channel), channel.encode()) for channel in channels()}
    forbidden = [
        node.topic(node.other, "renew"), node.topic(node.identity, "renew"), node.topic(node.identity, "node"),
        node.topic(node.peer, "unknown"), node.topic(node.peer, "node/deeper"), f"{TOP}/{node.peer.id}",
        f"ipdc/1/else/{node.peer.id}/renew", f"ipdc/2/test/{node.peer.id}/renew", f"{TOP}/{node.peer.id}/node/",
        "$SYS/broker/version", "$share/x/y", "x", f"ipdc/access/{node.identity.members.version}",
    ]
    for topic in forbidden:
        for retain in (False, True):
            assert client.publish(topic, b"forged", retain) == NOT_AUTHORIZED, topic
    daemon.settle()
    assert set(daemon.messages) == heard
    later = node.daemon("later")
    later.subscribe("#", "$SYS/#")
    assert later.settle() == []  # nothing forged was retained


def test_the_daemon_speaks_for_its_node_only(node: Node) -> None:
    daemon = node.daemon()
    assert daemon.publish(node.topic(node.identity, "renew")) in (SUCCESS, NO_SUBSCRIBERS)
    for topic in (node.topic(node.peer, "renew"), "x", f"ipdc/access/{node.identity.members.version + 1}"):
        assert daemon.publish(topic) == NOT_AUTHORIZED


@pytest.mark.parametrize("retain", [False, True])
def test_a_forged_will_is_not_delivered(node: Node, retain: bool) -> None:
    daemon = node.daemon()
    daemon.subscribe(f"{TOP}/#")
    forgeries = [node.topic(node.other, "lost"), node.topic(node.identity, "lost"), node.topic(node.peer, "nothing")]
    for topic in forgeries:
        try:
            node.client(node.peer, will=(topic, b"forged", retain)).vanish()
        except Refused as refused:  # newer brokers refuse the will itself
            assert refused.reason == NOT_AUTHORIZED
    node.client(node.peer, will=(node.topic(node.peer, "lost"), b"true", retain)).vanish()
    eventually(lambda: daemon.settle(), "the will that it may have")
    assert daemon.messages == [(node.topic(node.peer, "lost"), b"true")]


def test_a_member_hears_nothing_but_who_is_there(node: Node) -> None:
    client = node.client(node.peer)
    client.subscribe("#", f"{TOP}/#", f"{TOP}/{node.other.id}/do-map", f"{TOP}/+/+", "$SYS/#", "$share/group/ipdc/#",
                     f"{TOP}/+/node")
    other, daemon = node.client(node.other), node.daemon()
    for channel in channels():
        assert other.publish(node.topic(node.other, channel), b"theirs", retain=True) in (SUCCESS, NO_SUBSCRIBERS)
    assert daemon.publish(node.topic(node.identity, "renew"), b"to itself") in (SUCCESS, NO_SUBSCRIBERS)
    assert daemon.publish(node.topic(node.identity, "node"), b"here") in (SUCCESS, NO_SUBSCRIBERS)
    heard = {topic.rsplit("/", 1)[1] for topic, _ in client.settle()}
    assert heard == {"node", "lost"}
    daemon.subscribe(f"{TOP}/#")
    assert len(daemon.settle()) == len(channels())


def test_at_the_broker_of_a_node_that_is_no_portal_members_hear_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, portal=False)
    node.process.start()
    try:
        client, other, daemon = node.client(node.peer), node.client(node.other), node.daemon()
        client.subscribe("#", f"{TOP}/+/node")
        daemon.subscribe(f"{TOP}/+/node")
        assert other.publish(node.topic(node.other, "node"), b"x") == SUCCESS
        assert len(daemon.settle()) == 1 and client.settle() == []
    finally:
        node.process.stop()


def test_a_members_client_id_is_its_own_whatever_it_asks_for(node: Node) -> None:
    daemon, other = node.daemon(), node.client(node.other)
    for client_id in (node.other.id, node.identity.id, node.user, ""):
        client = node.client(node.peer, client_id)
        client.close()
    assert other.publish(node.topic(node.other, "renew")) in (SUCCESS, NO_SUBSCRIBERS)
    assert daemon.publish(node.topic(node.identity, "renew")) in (SUCCESS, NO_SUBSCRIBERS)
    first, second = node.client(node.peer, "a"), node.client(node.peer, "b")
    assert first.ended()  # its own sessions are one
    second.close()


def test_what_is_too_big_or_too_much_is_bounded(node: Node) -> None:
    client = node.client(node.peer)
    assert client.publish(node.topic(node.peer, "node"), bytes(140_000)) in (SUCCESS, NO_SUBSCRIBERS)
    with pytest.raises(OSError):
        client.publish(node.topic(node.peer, "node"), bytes(200_000))
        client.settle()


# --- expulsion


def test_an_expelled_member_is_out_and_stays_out_twice_in_sequence(node: Node) -> None:
    for expelled, stays in ((node.peer, node.other), (node.other, None)):
        victim = node.client(expelled)
        bystander = node.client(stays) if stays else None
        daemon = node.daemon()
        daemon.subscribe(f"{TOP}/#")
        node.expel(expelled)
        assert victim.ended()
        with pytest.raises(Refused) as caught:
            node.client(expelled)
        assert caught.value.reason is None  # in the handshake
        assert daemon.publish(node.topic(node.identity, "renew")) == SUCCESS
        daemon.close()
        if bystander and stays:
            node.stays(bystander, stays)
            bystander.close()
    for expelled in (node.peer, node.other):  # the first one's revocation still counts
        with pytest.raises(Refused):
            node.client(expelled)
    newcomer = node.domain.admit("newcomer")
    node.identity = node.domain.now(node.identity)
    assert broker.update(node.home, node.identity)
    kick(node.local, node.password, [], node.identity.members.version)  # waits
    assert node.client(newcomer).publish(node.topic(newcomer, "renew")) in (SUCCESS, NO_SUBSCRIBERS)


def test_who_comes_again_and_again_is_out_all_the_same(node: Node) -> None:
    stop, clients, refused = threading.Event(), [], threading.Event()

    def loop() -> None:
        while not stop.is_set():
            try:
                client = node.client(node.peer)
            except Refused:
                refused.set()
                continue
            clients.append(client)
            client.ended()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        eventually(lambda: clients, "it is in")
        node.expel(node.peer)
        assert refused.wait(10)
        before = len(clients)
        for _ in range(20):
            with pytest.raises(Refused):
                node.client(node.peer)
        assert len(clients) == before and clients[-1].ended()
    finally:
        stop.set()
        thread.join()


def test_who_had_finished_its_handshake_before_is_silent(node: Node) -> None:
    """It slips in behind the kick, since its certificate is not looked at again; it may do nothing, and a second kick
    ends it."""
    waiting = tls(node.port, node.peer)
    daemon = node.daemon()
    daemon.subscribe(f"{TOP}/#")
    node.expel(node.peer)
    client = Client(waiting, will=(node.topic(node.peer, "lost"), b"forged", False))
    assert client.publish(node.topic(node.peer, "renew")) == NOT_AUTHORIZED
    client.subscribe(f"{TOP}/+/node")
    assert daemon.publish(node.topic(node.identity, "node")) == SUCCESS
    assert client.settle() == []
    kick(node.local, node.password, [node.peer.id], node.identity.members.version)
    assert client.ended()
    assert [topic for topic, _ in daemon.settle()] == [node.topic(node.identity, "node")]


def test_a_kick_needs_the_password_and_the_list(node: Node) -> None:
    version = node.identity.members.version
    client = node.client(node.peer)
    with pytest.raises(Unkicked, match="0x8[67]"):
        kick(node.local, "wrong", [node.peer.id], version)
    with pytest.raises(OSError):
        kick(free_ports(1)[0], node.password, [node.peer.id], version)
    assert client.settle() == []
    kick(node.local, node.password, [node.peer.id], version)
    assert client.ended()


def test_a_kick_gives_up_when_the_broker_does_not_read_the_list(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipdc_edge.drivers.broker_client.PATIENCE", 0.2)
    with pytest.raises(Unkicked, match="version 99"):
        kick(node.local, node.password, [node.peer.id], 99)


def test_a_broker_that_missed_the_signal_is_told_again(node: Node) -> None:
    """mosquitto forgets a SIGHUP that comes while it reads its files: of two lists in a moment the second was lost."""
    newcomer = node.domain.admit("newcomer")
    node.identity = node.domain.now(node.identity)
    write_access(node.home, node.identity)  # and no signal
    told: list[bool] = []
    await_version(node.local, node.password, node.identity.members.version,
                  lambda: told.append(broker.read_again(node.home)))
    assert told == [True]
    assert node.client(newcomer).publish(node.topic(newcomer, "renew")) in (SUCCESS, NO_SUBSCRIBERS)


# --- what is retained


def test_what_the_broker_retains_is_listed_and_nothing_else(node: Node) -> None:
    daemon, peer = node.daemon(), node.client(node.peer)
    login = (node.user, node.password)
    assert retained(node.local, login, TOP) == []
    big = b"x" * 16_000
    for who, channel, client in ((node.identity, "node", daemon), (node.peer, "node", peer), (node.peer, "lost", peer)):
        assert client.publish(node.topic(who, channel), big, True) in (SUCCESS, NO_SUBSCRIBERS)
    peer.publish(node.topic(node.peer, "renew"), b"passes by")
    kept = [node.topic(node.identity, "node"), node.topic(node.peer, "lost"), node.topic(node.peer, "node")]
    assert sorted(retained(node.local, login, TOP)) == sorted(kept)
    with pytest.raises(Unkicked, match="0x8[67]"):
        retained(node.local, (node.user, "wrong"), TOP)


def test_nothing_is_retained_of_who_was_expelled(node: Node) -> None:
    login, peer = (node.user, node.password), node.client(node.peer)
    for channel in ("node", "lost", "renew"):
        assert peer.publish(node.topic(node.peer, channel), b"x", True) in (SUCCESS, NO_SUBSCRIBERS)
    node.daemon().publish(node.topic(node.identity, "node"), b"x", True)
    node.expel(node.peer)
    forget(node.local, login, TOP, [node.peer.id])
    left = [node.topic(node.identity, "node"), node.topic(node.peer, "renew")]
    assert sorted(retained(node.local, login, TOP)) == sorted(left), "on others the daemon may not write"


# --- the pure part


def test_the_authority_itself_tells_of_a_newer_list_and_does_nothing_else(tmp_path: Path) -> None:
    """Its certificate, as the project makes it, is a client's too."""
    node = Node(tmp_path)
    Path(node.domain.certificate).write_bytes(certificates.authority_certificate(node.domain.key))
    key = tmp_path / "authority-key.pem"
    key.write_bytes(certificates.private_pem(node.domain.key))
    shown = replace(node.identity, id=node.identity.authority, certificate=node.domain.certificate, key=str(key))
    node.process.start()
    try:
        daemon = node.daemon()
        daemon.subscribe(f"{TOP}/#")
        peer = node.client(node.peer)
        client = node.client(shown, node.peer.id)
        assert client.publish(node.topic(shown, "members"), b"newer") == SUCCESS
        assert peer.publish(node.topic(shown, "members"), b"forged") == NOT_AUTHORIZED
        forbidden = [node.topic(shown, channel) for channel in channels() if channel != "members"]
        forbidden += [node.topic(who, channel) for who in (node.identity, node.peer) for channel in channels()]
        forbidden += [f"ipdc/1/else/{shown.id}/members", f"{TOP}/{shown.id}/members/deeper", f"{TOP}/{shown.id}", "x",
                      f"ipdc/access/{node.identity.members.version}", "$SYS/broker/version"]
        for topic in forbidden:
            for retain in (False, True):
                assert client.publish(topic, b"forged", retain) == NOT_AUTHORIZED, topic
        client.subscribe("#", f"{TOP}/#", f"{TOP}/+/node", f"{TOP}/+/lost", f"{TOP}/{shown.id}/members", "$SYS/#")
        assert daemon.publish(node.topic(node.identity, "node"), b"here") in (SUCCESS, NO_SUBSCRIBERS)
        assert peer.publish(node.topic(node.peer, "node"), b"here") == SUCCESS
        assert client.publish(node.topic(shown, "members"), b"again") == SUCCESS
        assert client.settle() == []
        expected = [(node.topic(shown, "members"), b"newer"), (node.topic(node.identity, "node"), b"here"),
                    (node.topic(node.peer, "node"), b"here"), (node.topic(shown, "members"), b"again")]
        daemon.settle()
        assert sorted(daemon.messages) == sorted(expected)
        assert peer.publish(node.topic(node.peer, "renew")) == SUCCESS  # nobody took its client id
    finally:
        node.process.stop()


def test_the_access_list_has_no_pattern_and_the_own_id_may_only_ask_models() -> None:
    members = tuple(Member(f"Qm{n}", "", 0, n == 1, "") for n in range(3))
    found = access_list(MemberList("d", "Qa", 7, members), "Qm1", ("a", "b"))
    assert found == """\
user daemon
topic write ipdc/1/d/Qm1/#
topic write ipdc/1/d/+/node
topic write ipdc/1/d/+/lost
topic read ipdc/1/d/#
topic read $SYS/broker/log/#
topic read ipdc/serve/#
topic write ipdc/serve/answer/#
topic write ipdc/access/7

user client
topic write ipdc/serve/+/request
topic write ipdc/serve/+/health
topic read ipdc/serve/answer/#

user Qm1
topic write ipdc/serve/+/request
topic write ipdc/serve/+/health
topic read ipdc/serve/answer/#

user Qm0
topic write ipdc/1/d/Qm0/a
topic write ipdc/1/d/Qm0/b
topic read ipdc/1/d/+/node
topic read ipdc/1/d/+/lost

user Qm2
topic write ipdc/1/d/Qm2/a
topic write ipdc/1/d/Qm2/b
topic read ipdc/1/d/+/node
topic read ipdc/1/d/+/lost

user Qa
topic write ipdc/1/d/Qa/members
"""
    assert "read ipdc/1/d/+" not in access_list(MemberList("d", "Qa", 7, members), "Qm2", ("a",))
    assert {"node", "lost", "do-map", "renew"} <= set(channels())


def test_the_files_are_the_owners_alone_and_whole(node: Node) -> None:
    for name in os.listdir(node.home.run):
        if re.match(r"mosquitto\.(conf|acl|crl|passwd|secret)$", name):
            assert os.stat(os.path.join(node.home.run, name)).st_mode & 0o777 == 0o600, name
    assert not [name for name in os.listdir(node.home.run) if name.endswith(".new")]
    assert node.password not in Path(node.home.run, "mosquitto.passwd").read_text()
    assert len(node.password) >= 32 and credentials(node.home) == (node.user, node.password)


def test_a_broker_in_another_domain_after_a_restart(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "RESTART_PAUSE", 0.0)
    fresh = Domain(str(tmp_path / "fresh"), name="fresh")
    own, peer = fresh.admit("own"), fresh.admit("peer")
    monkeypatch.setattr(broker, "load", lambda home: replace(fresh.now(own), domain="fresh"))
    before = broker.running(node.home)
    assert before is not None and broker.restart(node.home)
    eventually(lambda: broker.running(node.home) not in (before, None) and node.process._listens(), "another broker")
    assert node.client(peer).publish(f"ipdc/1/fresh/{peer.id}/node") in (SUCCESS, NO_SUBSCRIBERS)
    with pytest.raises(Refused):
        node.client(node.peer)
    assert node.daemon().publish(f"ipdc/1/fresh/{own.id}/node") in (SUCCESS, NO_SUBSCRIBERS)


def test_only_our_own_broker_is_ever_signalled(node: Node) -> None:
    pid = broker.running(node.home)
    assert pid == node.process.pid
    node.process.stop()
    assert broker.running(node.home) is None
    assert not broker.restart(node.home) and not broker.update(node.home, node.identity)
    for text in (str(os.getpid()), "1", "0", "-1", "", "x", "9" * 30):
        Path(node.home.run, "mosquitto.pid").write_text(text)
        assert broker.running(node.home) is None, text
