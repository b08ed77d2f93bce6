"""Joining: the real server in its child, the real client, and strangers with sockets."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.codec import join_messages as m
from ipdc_edge.codec import swarm_key
from ipdc_edge.codec.join_token import Token, parse, render
from ipdc_edge.drivers import authority, certificates, identity, join_client
from ipdc_edge.drivers.join_server import MOST_TOKENS
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, current, make_creator, make_home, make_node, tree
from tests.waiting import eventually

PEERS = {"QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51": ("10.0.0.1:18830", "10.0.0.1:18831")}
SOURCES = [f"127.0.0.{last}" for last in range(2, 12)]


class Server:
    """The child, with the daemon's side of it: `adopts` acknowledges who joined, at once."""

    def __init__(self, home: Home, adopts: bool = True) -> None:
        self.home, self.adopts = home, adopts
        self.process = subprocess.Popen(
            identity.child_command("serve"), env=identity.child_environment(home),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.said: queue.Queue[dict[str, object]] = queue.Queue()
        self.authority = identity.load(home).authority if os.path.lexists(home.current) else ""

    def start(self, port: int = 0) -> dict[str, object]:
        """Its first line."""
        self.tell({"listen": "127.0.0.1", "port": port, "peers": PEERS})
        assert self.process.stdout is not None
        first: dict[str, object] = json.loads(self.process.stdout.readline())
        self.port = first.get("listening")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return first

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            self.said.put(said)
            if self.adopts and "joined" in said:
                self.tell({"adopted": said["joined"]["version"]})

    def tell(self, value: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def invite(self, seconds: float = 600) -> Token:
        token = Token(self.authority, os.urandom(16), (f"127.0.0.1:{self.port}",))
        self.tell({"invite": token.secret.hex(), "expires_in": seconds})
        assert self.heard("invited") == hashlib.sha256(token.secret).hexdigest()
        return token

    def heard(self, kind: str) -> Any:
        """The next line of this kind."""
        while True:
            said = self.said.get(timeout=10)
            if kind in said:
                return said[kind]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Server]:
    """A creator's join server, listening, without a token yet."""
    server = Server(make_creator(tmp_path))
    server.start()
    yield server
    server.close()


def join(node: Home, token: Token, name: str = "two") -> join_client.Joined:
    return join_client.join(node, token, name=name, memory=5)


def connect(server: Server, source: str = "127.0.0.1") -> socket.socket:
    connection = socket.socket()
    connection.settimeout(10)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", server.port))
    return connection


def secured(connection: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def ask(server: Server, line: bytes, source: str = "127.0.0.1") -> bytes:
    """What it answers to this line, to its end."""
    with secured(connect(server, source)) as connection:
        connection.sendall(line)
        answer = b""
        while not answer.endswith(b"\n") and (piece := connection.recv(65536)):
            answer += piece
        return answer


def asked_with(secret: bytes, node: Home, meant: str) -> bytes:
    return m.encode_request(m.JoinRequest(secret, authority.signing_request(node, meant).decode(), "two", 5))


def refusal(line: bytes) -> m.JoinRefused:
    with pytest.raises(m.JoinRefused) as caught:
        m.parse_answer(line)
    return caught.value


def is_closed(port: object) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# ---- joining --------------------------------------------------------------------------------------------------------

@pytest.mark.alone
def test_a_token_makes_a_member(serving: Server, tmp_path: Path) -> None:
    node = make_node(tmp_path, "two")
    text = render(serving.invite())
    start = time.monotonic()
    joined = join(node, parse(text))
    assert time.monotonic() - start < 1
    now = identity.load(node)
    assert (now.domain, now.alone, now.has_authority, now.peers) == ("home", False, False, PEERS)
    assert now.members == identity.load(serving.home).members == joined.members and joined.id == now.id
    assert [member.name for member in now.members.members] == ["one", "two"]
    assert serving.heard("joined") == {"id": now.id, "name": "two", "version": 2}
    pem = Path(now.certificate).read_bytes()
    assert certificates.common_name(certificates.load_certificate(pem)[0]) == now.id
    swarm = identity.swarm_key(node, now.authority)  # of the Kubo nodes; it came in the conversation of joining
    assert swarm == identity.swarm_key(serving.home, now.authority) and swarm_key.parse(swarm)[0].version == 1
    assert Path(current(node), "swarm.json").stat().st_mode & 0o777 == 0o600


def test_with_the_last_token_the_port_closes_and_the_child_ends(serving: Server, tmp_path: Path) -> None:
    first, second = serving.invite(), serving.invite()
    join(make_node(tmp_path, "two"), first)
    assert serving.process.poll() is None and not is_closed(serving.port)
    join(make_node(tmp_path, "three"), second, "three")
    assert serving.process.wait(10) == 0 and is_closed(serving.port)
    with pytest.raises(join_client.NotReachable, match="ten minutes, or used already"):
        join(make_node(tmp_path, "four"), second)


@pytest.mark.alone  # the child gives the daemon two seconds
def test_the_newcomer_is_answered_when_the_daemon_has_adopted_it(tmp_path: Path) -> None:
    server = Server(make_creator(tmp_path), adopts=False)
    try:
        server.start()
        node, token, found = make_node(tmp_path, "two"), server.invite(), []
        server.invite()  # keeps the port open
        thread = threading.Thread(target=lambda: found.append(join(node, token)))
        thread.start()
        version = server.heard("joined")["version"]
        server.tell({"adopted": 1})  # of another
        ask(server, b"{}\n")  # answered after that, so the newcomer would have been too
        assert thread.is_alive() and not found
        server.tell({"adopted": version})
        thread.join(1)
        assert found
    finally:
        server.close()


@pytest.mark.alone
def test_a_daemon_that_never_adopts_delays_it_by_two_seconds(tmp_path: Path) -> None:
    server = Server(make_creator(tmp_path), adopts=False)
    try:
        server.start()
        node, token = make_node(tmp_path, "two"), server.invite()
        start = time.monotonic()
        join(node, token)
        assert 2 <= time.monotonic() - start < 4
    finally:
        server.close()


def test_a_daemon_that_dies_meanwhile_leaves_a_member_and_a_closed_port(tmp_path: Path) -> None:
    server = Server(make_creator(tmp_path), adopts=False)
    try:
        server.start()
        node, token, found = make_node(tmp_path, "two"), server.invite(), []
        server.invite()
        thread = threading.Thread(target=lambda: found.append(join(node, token)))
        thread.start()
        server.heard("joined")
        assert server.process.stdin is not None
        server.process.stdin.close()
        thread.join(30)
        assert found and server.process.wait(5) == 0 and is_closed(server.port)
    finally:
        server.close()


def test_peers_told_later_are_handed_out(serving: Server, tmp_path: Path) -> None:
    serving.tell({"peers": {}})
    assert join(make_node(tmp_path, "two"), serving.invite()).peers == {}


def test_who_joins_again_after_leaving_has_a_new_certificate(serving: Server, tmp_path: Path) -> None:
    node = make_node(tmp_path, "two")
    keep = serving.invite()
    join(node, serving.invite())
    first = Path(identity.load(node).certificate).read_bytes()
    authority.leave(node, "two", 5)
    again = join(node, serving.invite())
    assert again.members.version == 3 and len(again.members.members) == 2
    assert Path(identity.load(node).certificate).read_bytes() != first
    assert keep


@pytest.mark.alone  # the child gives the daemon two seconds
def test_a_token_told_while_the_port_closes_is_not_confirmed(tmp_path: Path) -> None:
    """So that its inviter opens another port instead of handing out a token that nobody knows."""
    server = Server(make_creator(tmp_path), adopts=False)
    try:
        server.start()
        node, token = make_node(tmp_path, "two"), server.invite()
        thread = threading.Thread(target=lambda: join(node, token))
        thread.start()
        version = server.heard("joined")["version"]
        eventually(lambda: is_closed(server.port), "the port is closed, the newcomer still waits")
        server.tell({"invite": "00" * 16, "expires_in": 600})
        server.tell({"adopted": version})
        thread.join(5)
        assert server.process.wait(5) == 0
        server.reader.join(5)
        assert server.said.empty()
    finally:
        server.close()


def test_who_held_the_key_and_comes_back_as_a_member_holds_it_no_more(serving: Server, tmp_path: Path) -> None:
    """Or two nodes would sign two lists of one version."""
    before = make_node(tmp_path, "spare")
    data = authority.backup(serving.home, b"correct horse")
    authority.restore(before, data, b"correct horse", node_name="spare", memory=5)
    key = Path(current(before), "authority-key.pem")
    assert key.exists() and identity.load(before).has_authority
    authority.leave(before, "spare", 5)
    assert key.exists()  # it may be the only one
    signed = Path(key.parent, "members.json").read_bytes()
    identity.store_members(serving.home, signed)  # the first holder knows it, and is not set back
    joined = join(before, serving.invite(), "spare")
    assert not key.exists() and not identity.load(before).has_authority
    assert joined.members.version == 1002
    with pytest.raises(authority.NotTheAuthority):
        authority.expel(before, "one")


# ---- tokens ---------------------------------------------------------------------------------------------------------

def test_a_token_works_once(serving: Server, tmp_path: Path) -> None:
    token = serving.invite()
    serving.invite()  # keeps the port open
    join(make_node(tmp_path, "two"), token)
    before = identity.load(serving.home).members
    with pytest.raises(m.TokenUsed, match="each lets one node in"):
        join(make_node(tmp_path, "three"), token)
    assert identity.load(serving.home).members == before
    assert serving.heard("refused") == {"source": "127.0.0.1", "reason": "used token"}


def test_two_at_once_with_one_token_are_one_member(serving: Server, tmp_path: Path) -> None:
    token, node, other = serving.invite(), make_node(tmp_path, "two"), make_node(tmp_path, "three")
    serving.invite()
    results: list[object] = []

    def run(home: Home) -> None:
        try:
            results.append(join(home, token))
        except m.TokenUsed as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(home,)) for home in (node, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(result).__name__ for result in results) == ["Joined", "TokenUsed"]
    assert len(identity.load(serving.home).members.members) == 2


def test_a_late_token_is_refused_while_another_keeps_the_port_open(serving: Server, tmp_path: Path) -> None:
    serving.invite()
    late = serving.invite(0)
    with pytest.raises(m.TokenExpired, match="ten minutes"):
        join(make_node(tmp_path, "two"), late)
    assert identity.load(serving.home).members.version == 1


def test_when_the_last_token_is_late_the_port_closes(serving: Server) -> None:
    serving.invite(0.2)
    assert serving.process.wait(5) == 0 and is_closed(serving.port)


def test_a_wrong_token_is_refused_and_slows_its_source_only(serving: Server, tmp_path: Path) -> None:
    node, token = make_node(tmp_path, "two"), serving.invite()
    wrong, right = (asked_with(secret, node, token.authority) for secret in (os.urandom(16), token.secret))
    for seconds in (1, 2, 4):
        assert isinstance(refusal(ask(serving, wrong, SOURCES[0])), m.WrongSecret)
        assert isinstance(error := refusal(ask(serving, right, SOURCES[0])), m.MustWait)  # even with the right one
        assert error.details["seconds"] == seconds and error.retry
        if seconds < 4:
            eventually(lambda: not isinstance(refusal(ask(serving, b"{}\n", SOURCES[0])), m.MustWait), "its end")
    assert m.parse_answer(ask(serving, right, SOURCES[1])).peers == PEERS  # others go on


def test_when_there_are_too_many_tokens_the_next_is_not_confirmed(serving: Server, tmp_path: Path) -> None:
    """Its inviter must not hand it out."""
    tokens = [serving.invite() for _ in range(MOST_TOKENS)]
    secret = os.urandom(16)
    serving.tell({"invite": secret.hex(), "expires_in": 600})
    assert serving.heard("full") == hashlib.sha256(secret).hexdigest() and serving.said.empty()
    with pytest.raises(m.WrongSecret):
        join(make_node(tmp_path, "two"), replace(tokens[0], secret=secret))
    assert m.parse_answer(ask(serving, asked_with(tokens[0].secret, make_node(tmp_path, "four"), tokens[0].authority),
                              SOURCES[0])).peers == PEERS
    assert serving.invite()  # there is room again


def test_a_request_that_was_made_for_another_authority_is_not_replayed(serving: Server, tmp_path: Path) -> None:
    """Else the authority of a domain that a member was in before could put it out of this one, with a token."""
    node, token = make_node(tmp_path, "two"), serving.invite()
    join(node, serving.invite())
    before = identity.load(serving.home).members
    for meant in (identity.load(make_creator(tmp_path, "other")).authority, ""):
        assert "another authority" in str(refusal(ask(serving, asked_with(token.secret, node, meant))))
    assert identity.load(serving.home).members == before
    join(make_node(tmp_path, "three"), token, "three")  # and the token is as good as it was


def test_what_is_refused_leaves_the_token_valid(serving: Server, tmp_path: Path) -> None:
    """A signing request on another curve, and the authority's own key."""
    token, node = serving.invite(), make_node(tmp_path, "two")
    bad = m.encode_request(m.JoinRequest(token.secret, Path(identity.load(node).certificate).read_text(), "two", 5))
    assert "signing request" in str(refusal(ask(serving, bad)))
    with pytest.raises(m.JoinRefused, match="is this node, which holds"):
        join(serving.home, token)
    assert join(node, token).members.version == 2


# ---- who is on the other side ---------------------------------------------------------------------------------------

def listener(serve: Callable[[socket.socket], None]) -> tuple[str, threading.Thread]:
    """The address of a server that handles one connection."""
    found = socket.create_server(("127.0.0.1", 0))
    found.settimeout(10)

    def run() -> None:
        with found:
            connection, _ = found.accept()
            with connection:
                connection.settimeout(10)
                serve(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return "127.0.0.1:%d" % found.getsockname()[1], thread  # noqa: UP031


class Impostor:
    """A TLS server with any certificate; `heard` is what came after the handshake, `answer` what it says."""

    def __init__(self, certificate: str, key: str, answer: bytes = b"") -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.heard, self.answer = b"", answer
        self.address, self.thread = listener(self.serve)

    def serve(self, connection: socket.socket) -> None:
        try:
            with self.context.wrap_socket(connection, server_side=True) as secure:
                while not self.heard.endswith(b"\n") and (piece := secure.recv(65536)):
                    self.heard += piece
                secure.sendall(self.answer)
        except OSError:
            return


def test_nothing_is_sent_to_somebody_in_the_middle(tmp_path: Path) -> None:
    """Another domain's authority, which also copied the name of the real one into its certificate's subject."""
    creator, other, node = make_creator(tmp_path, "one"), make_creator(tmp_path, "evil"), make_node(tmp_path, "two")
    present = identity.load(other)
    impostor = Impostor(present.authority_certificate, os.path.join(current(other), "authority-key.pem"))
    before = tree(node)
    token = Token(identity.load(creator).authority, os.urandom(16), (impostor.address,))
    with pytest.raises(join_client.SomebodyInTheMiddle, match="Nothing was sent"):
        join(node, token)
    impostor.thread.join(5)
    assert impostor.heard == b"" and tree(node) == before


def test_a_member_is_not_the_authority(tmp_path: Path) -> None:
    """A node certificate of the same domain, whose issuer is the authority, proves nothing here."""
    creator, node = make_creator(tmp_path, "one"), make_node(tmp_path, "two")
    present = identity.load(creator)
    impostor = Impostor(present.certificate, present.key)
    with pytest.raises(join_client.SomebodyInTheMiddle, match=present.id):
        join(node, Token(present.authority, os.urandom(16), (impostor.address,)))
    impostor.thread.join(5)
    assert impostor.heard == b""


def test_the_next_address_is_tried_when_one_is_dead_or_a_strangers(serving: Server, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: refuses
        taken.bind(("127.0.0.1", 0))
        dead = "127.0.0.1:%d" % taken.getsockname()[1]  # noqa: UP031
        other = identity.load(make_creator(tmp_path, "evil"))
        stranger = Impostor(other.certificate, other.key).address
        silent, _ = listener(lambda connection: None)  # closes at once
        token = serving.invite()
        addresses = (dead, stranger, silent, *token.addresses)
        assert join(make_node(tmp_path, "two"), Token(token.authority, token.secret, addresses)).domain == "home"


def test_no_address_answers(tmp_path: Path) -> None:
    node = make_node(tmp_path, "two")
    with pytest.raises(join_client.NotReachable, match=r"127\.0\.0\.1:1 .*refused.*nowhere\.invalid:2"):
        join(node, Token(identity.own_id(node), os.urandom(16), ("127.0.0.1:1", "nowhere.invalid:2")))


def answered(creator: Home, node: Home, line: bytes) -> join_client.Joined:
    """Joins at an authority that has the right key and says this."""
    present = identity.load(creator)
    impostor = Impostor(present.authority_certificate, os.path.join(current(creator), "authority-key.pem"), line)
    return join(node, Token(present.authority, os.urandom(16), (impostor.address,)))


def test_what_the_authority_answers_is_checked_before_it_counts(tmp_path: Path) -> None:
    creator, node, third = make_creator(tmp_path, "one"), make_node(tmp_path, "two"), make_node(tmp_path, "three")
    evil = make_creator(tmp_path, "evil")
    good, other, fake = admit(creator, node, "two"), admit(creator, third, "three"), admit(evil, node, "two")
    before = tree(node)
    forged = good.swarm.replace(swarm_key.parse(good.swarm)[0].key.hex().encode(), b"00" * 32)

    def line(certificate: bytes, authority_: bytes, members: bytes, swarm: bytes = b"") -> bytes:
        return m.encode_answer(m.JoinAnswer(certificate.decode(), authority_.decode(), members, {}, swarm))

    for bad, reason in (
        (line(other.certificate, good.authority, other.signed), "not for this node's key"),
        (line(fake.certificate, good.authority, good.signed), "not signed by the authority"),
        (line(fake.certificate, fake.authority, fake.signed), "of another authority"),
        (line(good.certificate, good.authority, fake.signed), "of another authority"),
        (line(good.certificate, good.authority, good.signed.replace(b'name\\":\\"two', b'name\\":\\"owt')), "false"),
        (line(good.certificate, good.authority, identity.load(evil).signed), "of another authority"),
        (line(good.certificate, good.authority, authority.expel(creator, "two") and identity.load(creator).signed),
         "does not have this node"),
        (line(good.certificate, good.certificate, good.signed), "another authority"),
        (line(good.certificate, good.authority, good.signed, fake.swarm), "of another authority"),
        (line(good.certificate, good.authority, good.signed, good.swarm.replace(b"swarm", b"swarn")), "no signed key"),
        (line(good.certificate, good.authority, good.signed, forged), "signature is false"),
        (line(good.certificate[:300] + b"\n-----END CERTIFICATE-----\n", good.authority, good.signed), "refused"),
    ):  # fmt: skip
        with pytest.raises((join_client.BadAdmission, m.BadJoinMessage), match=reason):
            answered(creator, node, bad)
        assert tree(node) == before, reason
    for broken, error, reason in (
        (b"", join_client.JoinBrokenOff, "closed"), (b"x" * 100, join_client.JoinBrokenOff, "closed"),
        (b"{}\n", m.BadJoinMessage, "v is"), (b"[" * 9000 + b"\n", m.BadJoinMessage, "not as the protocol says"),
        (b" " * 400_000, m.BadJoinMessage, "more than 262144 bytes"),
    ):  # fmt: skip
        with pytest.raises(error, match=reason):
            answered(creator, node, broken)
        assert tree(node) == before
    assert answered(creator, node, line(good.certificate, good.authority, good.signed)).domain == "home"
    with pytest.raises(join_client.OlderDomain, match="set back"):
        answered(creator, node, line(good.certificate, good.authority, good.signed))


# ---- strangers ------------------------------------------------------------------------------------------------------

def test_only_tls_1_3_is_spoken(serving: Server) -> None:
    serving.invite()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connect(serving) as plain, pytest.raises(OSError):
        context.wrap_socket(plain)
    assert "unsupported protocol" in str(serving.heard("refused")["reason"]).lower().replace("_", " ")
    with secured(connect(serving)) as found:
        assert found.version() == "TLSv1.3"
        shown = found.getpeercert(binary_form=True)
    assert shown and certificates.id_of_der(shown) == serving.authority


NONSENSE = [b"\n", b"{}\n", b"GET / HTTP/1.1\r\n", b"[" * 8000 + b"\n", b"\xff\n", b'{"v":1}\n']


@pytest.mark.parametrize("line", NONSENSE, ids=lambda line: repr(line[:16]))
def test_nonsense_is_answered_and_noted(serving: Server, tmp_path: Path, line: bytes) -> None:
    token = serving.invite()
    assert "not as the protocol says" in str(refusal(ask(serving, line)))
    assert serving.heard("refused")["source"] == "127.0.0.1"
    assert join(make_node(tmp_path, "two"), token)


def test_a_line_without_an_end_is_cut_at_its_bound(serving: Server, tmp_path: Path) -> None:
    token = serving.invite()
    with secured(connect(serving)) as connection:
        try:
            connection.sendall(b"x" * 100_000)
            assert connection.recv(1) == b""
        except OSError:
            pass  # reset while we were sending: cut as well
    assert "exceed the limit" in serving.heard("refused")["reason"]
    assert join(make_node(tmp_path, "two"), token)


def test_notes_come_once_a_second_and_source(serving: Server) -> None:
    serving.invite()
    for _ in range(3):
        for source in SOURCES[:2]:
            ask(serving, b"{}\n", source)
    eventually(lambda: serving.said.qsize() >= 2, "two notes")
    assert sorted(serving.heard("refused")["source"] for _ in range(2)) == SOURCES[:2]
    assert serving.said.empty()


@pytest.mark.alone
def test_silent_strangers_keep_nobody_out(serving: Server, tmp_path: Path) -> None:
    """All 32 places taken, from eight sources; a fifth of one source is closed at once, and a newcomer gets a place."""
    token = serving.invite()
    held = [connect(serving, source) for source in SOURCES[:8] for _ in range(4)]
    try:
        with connect(serving, SOURCES[7]) as fifth:
            assert fifth.recv(1) == b""
        assert not select.select(held, [], [], 0)[0]  # no limit has cut one of the others
        assert serving.heard("refused") == {"source": SOURCES[7], "reason": "too many connections"}
        assert not select.select(held, [], [], 0)[0]  # no limit has cut one of the others
        start = time.monotonic()
        assert join(make_node(tmp_path, "two"), token)
        assert time.monotonic() - start < 1
        assert serving.heard("refused") == {"source": SOURCES[0], "reason": "cut: all places were taken"}
    finally:
        for connection in held:
            connection.close()


@pytest.mark.alone
def test_a_silent_connection_is_cut_after_five_seconds(serving: Server) -> None:
    serving.invite()
    start = time.monotonic()
    with connect(serving, SOURCES[0]) as silent, secured(connect(serving, SOURCES[1])) as slow:
        slow.sendall(b"{")
        assert silent.recv(1) == b"" and slow.recv(1) == b""
        assert 4 < time.monotonic() - start < 8


# ---- the child's life -----------------------------------------------------------------------------------------------

def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    server = Server(make_creator(tmp_path))
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert "in use" in str(server.start(taken.getsockname()[1])["failed"])
        assert server.process.wait(5) == 1
    finally:
        server.close()


@pytest.mark.parametrize(("make", "reason"), [(make_node, "alone"), (make_home, "no key")])
def test_without_a_domain_there_is_nothing_to_serve(
    tmp_path: Path, make: Callable[[Path, str], Home], reason: str
) -> None:
    server = Server(make(tmp_path, "one"))
    try:
        assert reason in str(server.start()["failed"])
        assert server.process.wait(5) == 1
    finally:
        server.close()


def test_it_ends_with_its_daemon(serving: Server) -> None:
    serving.invite()
    assert serving.process.stdin is not None
    serving.process.stdin.close()
    assert serving.process.wait(5) == 0 and is_closed(serving.port)


def test_no_secret_is_seen_from_outside(serving: Server) -> None:
    """Neither on its command line nor in its environment."""
    secret = serving.invite().secret.hex()
    for name in ("cmdline", "environ"):
        assert secret not in Path(f"/proc/{serving.process.pid}/{name}").read_bytes().decode("latin-1")
    assert sys.executable in Path(f"/proc/{serving.process.pid}/cmdline").read_text()
