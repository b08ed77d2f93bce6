"""Whoever is no member gets in nowhere, and the journal says why; members believe nobody else at a member's address.

Each attempt comes from an address of its own, which the line of the log must name, and stands beside the same attempt
by one who may. Real daemons and brokers on hosts of their own.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ipdc_edge.codec import join_messages, join_token
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.drivers import certificates as x
from ipdc_edge.drivers.identity import Identity
from tests.drivers import certificates
from tests.drivers.mqtt5 import SUCCESS, Refused
from tests.network import probes, raw
from tests.network.hosts import Domain, DomainNode
from tests.network.probes import Middle, Outsider, in_the_place_of
from tests.waiting import eventually

pytestmark = pytest.mark.network

TLS_HELLO = b"\x16"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
LATE_PORT = 18842  # of a join server of the test's own


class House:
    """A domain: node1 has the authority, node2 is a portal, node3 is a member whose daemon is off (the tests speak for
    it), node4 was expelled. `double` is a node of another domain of the same name; `new` is alone."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.one, self.two, guest, expelled = domain.nodes
        self.directory = os.path.join(domain.directory, "false")
        os.mkdir(self.directory)
        self.outsider = Outsider(domain.network.host("outside"))
        self.mallory = domain.network.host("mallory")
        self.double = domain.add("double")
        self.double.ipdc("domain", "create", domain.name)
        self.new = domain.add("newcomer")
        domain.nodes[4:] = []
        guest.stop()
        expelled.stop()
        self.guest, self.expelled = raw.identity_of(guest), probes.copied(expelled, domain.directory)
        text = os.path.join(domain.directory, "block")
        with open(text, "w") as file:
            file.write("a block for members\n")
        self.cid = self.one.ipdc("add", text).stdout.strip()
        assert self.knock("mqtt", probes.pair(self.expelled)) and self.knock("gateway", probes.pair(self.expelled))
        self.one.ipdc("expel", "node4")
        raw.logged(self.one, self.expelled.id, "is not a member any more")

    def knock(self, port: str, shown: tuple[str, str] | None, *, plain: bool = False, source: str = "") -> str:
        """At node 1's MQTT or gateway, with a certificate of `shown` or none: what came of it, or Refused, OSError."""
        tls = None if plain else probes.context(shown)
        source = source or self.outsider.source()
        if port == "mqtt":
            topic = f"ipdc/1/{self.domain.name}/{self.guest.id}/ask"
            if shown and shown == probes.pair(self.expelled):
                topic = topic.replace(self.guest.id, self.expelled.id)
            return probes.mqtt(self.outsider, source, self.one.host.address, tls, topic)
        return probes.gateway(self.outsider, source, self.one.host.address, tls, self.cid)

    def invite(self) -> join_token.Token:
        return join_token.parse(self.one.invite())

    def tell(self, own: Identity, version: int, cid: str = "b" + 8 * "a") -> None:
        """Somebody tells node 2 that it holds a member list, to be had where mallory is."""
        at = self.mallory.address
        message = {"v": 1, "birth": 1, "version": version, "cid": cid, "address": f"{at}:{raw.MQTT}",
                   "gateway": f"{at}:{raw.GATEWAY}", "packed": ""}
        if own.id == raw.identity_of(self.one).id:
            message |= {"address": f"{self.one.host.address}:{raw.MQTT}"}
        client = raw.mqtt(self.outsider.host, self.two.host.address, own)
        assert client.publish(f"ipdc/1/{self.domain.name}/{own.id}/members", json.dumps(message).encode()) == SUCCESS
        client.close()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with raw.own_domain(4) as domain:
        yield House(domain)


def plain(line: str) -> str:
    """OpenSSL's reasons, of which mosquitto tells the words and Python the constants, in one form."""
    return line.lower().replace("_", " ")


def said(node: DomainNode, source: str, reason: str, seconds: float = 30) -> str:
    """The line of the node's journal that names where somebody came from, and the reason."""
    form = re.compile(rf"from {re.escape(source)}\b.*(?:{reason})")
    return line_of(node, lambda line: form.search(line) is not None, f"of {source}: {reason}", seconds=seconds)


def line_of(node: DomainNode, fits: Callable[[str], bool], what: str, start: int = 0, seconds: float = 30) -> str:
    """The first line of its journal, from a place in it, that fits in its plain form."""
    def found() -> str:
        return next((line for line in node.daemon.log()[start:].splitlines() if fits(plain(line))), "")

    try:
        return str(eventually(found, f"{node} says {what}", seconds))
    except AssertionError as error:
        raise AssertionError(f"{error}; its log:\n{node.daemon.log()}") from None


# --- strangers at MQTT and the gateway

Hand = Callable[[House], tuple[str, str] | None]


def stolen_name(house: House) -> tuple[str, str]:
    foreign = certificates.Domain(os.path.join(house.directory, "foreign"), house.domain.name)
    return probes.pair(foreign.admit("thief", common_name=house.guest.id))


UNTRUSTED = "certificate verify failed|unknown ca|bad signature|no certificate returned"
STRANGERS: dict[str, tuple[Hand, str]] = {
    "no certificate": (lambda house: None, "peer did not return a certificate"),
    "another authority's, with a member's id": (stolen_name, UNTRUSTED),
    "a copy of a member's, by an authority of the same name": (
        lambda house: probes.resigned(house.directory, "resigned", house.guest.certificate), UNTRUSTED),
    "signed by a member, with another's id": (
        lambda house: probes.issued_by_member(house.directory, "issued", house.expelled, house.guest.certificate),
        UNTRUSTED),
    "a member's own, without its key": (
        lambda house: probes.replayed(house.directory, "replayed", house.guest.certificate), "bad signature"),
    "a member of another domain of this name": (
        lambda house: probes.pair(raw.identity_of(house.double)), UNTRUSTED),
    "an expelled member": (lambda house: probes.pair(house.expelled), "certificate verify failed|is not a member"),
}


@pytest.mark.parametrize("port", ["mqtt", "gateway"])
@pytest.mark.parametrize("who", [*STRANGERS, "plain text"])
def test_strangers_are_refused(house: House, port: str, who: str) -> None:
    """mosquitto's line about a refusal has no address. When somebody else connects at that very moment (nodes of the
    domain do, now and then), the daemon can only say that it was one of two: then the stranger comes once more."""
    hand, reason = STRANGERS.get(who, (lambda house: probes.pair(house.guest), ""))
    if who == "plain text":
        reason = "wrong version number|http request|unknown protocol"
    shown = hand(house)
    for tries_left in (2, 1, 0):
        source = house.outsider.source()
        with pytest.raises((Refused, OSError)) as caught:
            house.knock(port, shown, plain=who == "plain text", source=source)
        try:
            line = said(house.one, source, reason, 30 if not tries_left else 5)
            break
        except AssertionError:
            if not tries_left:
                raise
    raw.attempt(who, port, house.one.host.address, f"refused ({caught.value})", line)
    raw.attempt("a member", port, house.one.host.address, house.knock(port, probes.pair(house.guest)))


# --- at the join port


class Newcomer:
    """Somebody with a key of its own who speaks the join protocol, each time from a new address."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.key = x.new_key()
        self.id = x.id_of(self.key.public_key())
        self.request = x.request(self.key, house.guest.authority).decode()

    def line(self, secret: bytes) -> bytes:
        return join_messages.encode_request(join_messages.JoinRequest(secret, self.request, "stranger", 1))

    def ask(self, secret: bytes, source: str, port: int = raw.JOIN) -> join_messages.JoinAnswer:
        return join_messages.parse_answer(self.say(self.line(secret), source, probes.context(None), port))

    def say(self, line: bytes, source: str, tls: ssl.SSLContext | None, port: int = raw.JOIN) -> bytes:
        return probes.say(self.house.outsider, source, self.house.one.host.address, port, tls, line)


def joins(house: House, token: join_token.Token, source: str = "", port: int = raw.JOIN) -> None:
    """The same attempt by who may."""
    answer = Newcomer(house).ask(token.secret, source or house.outsider.source(), port)
    assert answer.certificate and answer.authority
    raw.attempt("a newcomer with a token", "join", house.one.host.address, "admitted")


def test_no_token_no_certificate_nothing(house: House) -> None:
    token = house.invite()
    where = house.one.host.address
    lines = {
        "no token": b"{}\n",
        "an empty token": Newcomer(house).line(b""),
        "an empty line": b"\n",
        "more than a line may have": b"{" * (20 << 10) + b"\n",
        "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    }
    for who, line in lines.items():
        source = house.outsider.source()
        try:
            answer = Newcomer(house).say(line, source, probes.context(None))
        except OSError:
            answer = b""
        assert not answer or json.loads(answer)["refused"] == "refused", answer
        raw.attempt(who, "join", where, f"refused ({answer[:80].decode() or 'cut'})", said(house.one, source, "."))
    for who, tls in (("plain text", None), ("TLS 1.2", probes.context(None, ssl.TLSVersion.TLSv1_2))):
        source = house.outsider.source()
        with pytest.raises((OSError, join_messages.JoinRefused, join_messages.BadJoinMessage)) as caught:
            join_messages.parse_answer(Newcomer(house).say(Newcomer(house).line(token.secret), source, tls))
        line = said(house.one, source, "wrong version number|http request|unsupported protocol|unknown protocol")
        raw.attempt(who, "join", where, f"refused ({type(caught.value).__name__})", line)
    joins(house, token)  # it was said twice, but never where it counts


def test_members_certificates_open_nothing_at_the_join_port(house: House) -> None:
    """Neither an expelled member's nor a good one's: the token counts."""
    token = house.invite()
    for who, own in (("an expelled member", house.expelled), ("a member", house.guest)):
        source = house.outsider.source()
        wrong = Newcomer(house).line(bytes(16))
        answer = Newcomer(house).say(wrong, source, probes.context(probes.pair(own)))
        with pytest.raises(join_messages.WrongSecret):
            join_messages.parse_answer(answer)
        raw.attempt(who, "join", house.one.host.address, "refused", said(house.one, source, "wrong token"))
    joins(house, token)


def test_a_wrong_token_a_used_one_and_a_late_one(house: House) -> None:
    newcomer, token, spare = Newcomer(house), house.invite(), house.invite()
    where, source = house.one.host.address, house.outsider.source()
    with pytest.raises(join_messages.WrongSecret):
        newcomer.ask(os.urandom(16), source)
    raw.attempt("a wrong token", "join", where, "refused", said(house.one, source, "wrong token"))
    with pytest.raises(join_messages.MustWait):
        newcomer.ask(token.secret, source)
    raw.attempt("a good token after a wrong one", "join", where, "has to wait")
    joins(house, token)  # from elsewhere nobody waits
    source = house.outsider.source()
    with pytest.raises(join_messages.TokenUsed):
        newcomer.ask(token.secret, source)
    raw.attempt("a used token", "join", where, "refused", said(house.one, source, "used token"))
    joins(house, spare)
    with probes.join_server(house.one, LATE_PORT) as tell:
        late, good = os.urandom(16), os.urandom(16)
        for secret, seconds in ((late, 1.0), (good, 600.0)):
            assert "invited" in tell({"invite": secret.hex(), "expires_in": seconds})
        given, source = time.monotonic(), house.outsider.source()
        eventually(lambda: time.monotonic() > given + 1, "a second has passed")
        with pytest.raises(join_messages.TokenExpired):
            newcomer.ask(late, source, LATE_PORT)
        line = tell({})
        assert json.loads(line)["refused"] == {"source": source, "reason": "expired token"}
        raw.attempt("a late token", "join", where, "refused", line.strip())
        joins(house, join_token.Token(token.authority, good, token.addresses), port=LATE_PORT)


# --- men in the middle of a join


def stays_alone(house: House, who: str, token: join_token.Token, words: str) -> None:
    """The newcomer is deceived, says so, and has given nothing away."""
    done = house.new.ipdc("join", join_token.render(token), check=False)
    assert done.returncode and re.search(words, plain(done.stderr)), done
    assert house.new.json("domain", "show")["alone"]
    raw.attempt("the newcomer", f"join by {who}", token.addresses[0], "refuses", done.stderr.strip())


def test_men_in_the_middle_of_a_join(house: House) -> None:
    token = house.invite()
    authority = house.guest.authority_certificate
    at = (f"{house.mallory.address}:{raw.JOIN}",)
    led_astray = join_token.Token(token.authority, token.secret, at)
    men = {
        "a man in the middle with an authority of his own": (
            probes.pair(certificates.Domain(house.directory + "/own", house.domain.name).admit("own")),
            "not the authority"),
        "a man in the middle with an authority that bears the same name": (
            probes.resigned(house.directory, "authority-copy", authority), "not the authority"),
        "a man in the middle who replays the authority's certificate": (
            probes.replayed(house.directory, "authority-replay", authority), "bad signature"),
        "a member in the middle": (probes.pair(house.guest), "not the authority"),
    }
    for who, (shown, words) in men.items():
        middle = Middle(house.mallory, house.mallory.address, raw.JOIN, shown)
        stays_alone(house, who, led_astray, words)
        middle.close()
        eventually(lambda heard=middle.heard: heard, "he has heard how it ended")
        assert not any(heard.data for heard in middle.heard), "the secret was shown"
    plain = Middle(house.mallory, house.mallory.address, raw.JOIN, answers=NOT_FOUND)
    stays_alone(house, "one who speaks plainly", led_astray, "nobody answers")
    plain.close()
    source = house.new.host.address
    other = join_token.parse(house.double.invite())
    stays_alone(house, "a token of another domain of the same name, with our address",
                join_token.Token(other.authority, other.secret, token.addresses), "not the authority")
    raw.attempt("that newcomer", "join", house.one.host.address, "refused", said(house.one, source, "."))
    stays_alone(house, "our token, with the address of another domain of the same name",
                join_token.Token(token.authority, token.secret, other.addresses), "not the authority")
    relay = Middle(house.mallory, house.mallory.address, raw.JOIN, relay=(house.one.host.address, raw.JOIN))
    house.new.ipdc("join", join_token.render(led_astray))
    assert house.new.json("domain", "show")["authority"] == token.authority
    raw.attempt("the newcomer", "join through one who only passes on", at[0], "is a member")
    relay.close()


# --- men in the middle of members' connections

UNBELIEVED = "certificate verify failed|bad signature"
TAKERS = {
    "an authority of his own, and the node's id": UNBELIEVED,
    "the node's certificate signed anew": UNBELIEVED,
    "the node's certificate without its key": "bad signature",
    "a certificate of another domain of this name": UNBELIEVED,
    "another member's certificate": "another node answers there",
    "plain text": "wrong version number",
}


def taken(house: House, who: str, victim: Identity) -> tuple[str, str] | None:
    """What somebody shows who has this member's address."""
    label = f"{who.replace(' ', '-')}-{victim.id}"
    if who == "plain text":
        return None
    if who.startswith("an authority"):
        foreign = certificates.Domain(os.path.join(house.directory, label), house.domain.name)
        return probes.pair(foreign.admit("taker", common_name=victim.id))
    if who.startswith("the node's"):
        make = probes.replayed if "without its key" in who else probes.resigned
        return make(house.directory, label, victim.certificate)
    return probes.pair(house.guest if who.startswith("another member") else raw.identity_of(house.double))


def plain_answer(who: str) -> bytes:
    """Who speaks plainly does not wait; the others would like to hear more."""
    return NOT_FOUND if who == "plain text" else b""


def logged_since(node: DomainNode, before: str, *words: str) -> str:
    """The line of its journal that has all these words, and was not there before."""
    return line_of(node, lambda line: all(re.search(word, line) for word in words), str(words), len(before))


@pytest.mark.parametrize("who", TAKERS)
def test_members_do_not_speak_to_a_broker_at_a_members_address(house: House, who: str) -> None:
    """Node 1's cable is cut and mallory has its address: node 2, which always keeps a connection to it, comes."""
    own, victim, before = raw.identity_of(house.one), house.one.host, house.two.daemon.log()
    broker = f"{victim.address}:{raw.MQTT}"
    with in_the_place_of(victim, house.mallory):
        middle = Middle(house.mallory, victim.address, raw.MQTT, taken(house, who, own), plain_answer(who))
        house.tell(own, 1)  # of an old list, so that node 2 wants to tell it of its own, and finds its connection dead
        line = logged_since(house.two, before, re.escape(broker), TAKERS[who])
        middle.close()
    raw.attempt("a member", f"MQTT to {who}", broker, "does not speak", line)
    for heard in middle.heard:
        # TLS is spoken to who speaks plainly. With a member's certificate the handshake is a good one, and paho says
        # CONNECT at its end, in which nothing is secret; the first thing that we say ourselves is never said.
        assert heard.handshake or heard.data[:1] in (b"", TLS_HELLO) or probes.is_one_connect(heard.data), heard
    print(f"    he heard: {sorted({(heard.handshake, heard.data[:8]) for heard in middle.heard})}")
    logged_since(house.two, before, f"connected again to the broker of {own.id.lower()}")
    raw.attempt("a member", "MQTT to the node itself", broker, "speaks")


def asked_at(house: House, own: Identity, shown: tuple[str, str] | None, answers: bytes, words: str
             ) -> tuple[str, Middle]:
    """Has node 2 fetch a block from the gateway of the member `own`, where somebody shows something. The member says
    that the block is the newest member list."""
    before, cid = house.two.daemon.log(), raw_cid(own.id.encode())
    at = house.mallory.address
    middle = Middle(house.mallory, at, raw.GATEWAY, shown, answers)
    house.tell(own, 1 << 40, cid)
    line = logged_since(house.two, before, re.escape(f"{at}:{raw.GATEWAY}"), cid, words)
    middle.close()
    return line, middle


def fresh(house: House) -> Identity:
    """A member whose address somebody else has. One for each attempt: the journal names each once a minute."""
    newcomer = Newcomer(house)
    answer = newcomer.ask(house.invite().secret, house.outsider.source())
    base = os.path.join(house.directory, f"fresh-{newcomer.id}")
    own = replace(house.guest, id=newcomer.id, key=certificates.write(f"{base}-key.pem", x.private_pem(newcomer.key)),
                  certificate=certificates.write(f"{base}.pem", answer.certificate.encode()))
    eventually(lambda: own.id in house.two.daemon.log() or any(
        member["id"] == own.id for member in house.two.json("domain", "show")["members"]), "node 2 knows it")
    return own


@pytest.mark.parametrize("who", TAKERS)
def test_members_do_not_ask_a_gateway_at_a_members_address(house: House, who: str) -> None:
    own = fresh(house)
    line, middle = asked_at(house, own, taken(house, who, own), plain_answer(who), TAKERS[who])
    assert middle.heard and not any(heard.data and heard.data[:1] != TLS_HELLO for heard in middle.heard), middle.heard
    raw.attempt("a member", f"gateway of {who}", f"{house.mallory.address}:{raw.GATEWAY}", "does not ask", line)


def test_members_ask_a_gateway_that_shows_what_it_should(house: House) -> None:
    own = fresh(house)
    line, middle = asked_at(house, own, probes.pair(own), NOT_FOUND, "404")
    assert [heard.data[:9] for heard in middle.heard] == [b"GET /ipfs"]
    raw.attempt("a member", "gateway of the node itself", f"{house.mallory.address}:{raw.GATEWAY}", "asks", line)
