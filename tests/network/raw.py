"""What the tests of the closed domain hold against its ports: raw connections from a host, with a member's certificate
or without any.

Owns sockets that live in a host's network, and the few lines that are said over them. Never decides what is tested.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from ipdc_edge.codec import join_messages
from ipdc_edge.codec.join_token import Token
from ipdc_edge.drivers import certificates, identity
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.home import Home
from tests.drivers.mqtt5 import NO_SUBSCRIBERS, SUCCESS, Client, Refused
from tests.network.hosts import Domain, DomainNode, Host, Network
from tests.waiting import eventually

MQTT, GATEWAY, JOIN = 18830, 18831, 18832
PATIENCE = 10.0
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
T = TypeVar("T")


@contextmanager
def own_domain(count: int, **conf: str) -> Iterator[Domain]:
    """A domain of `count` nodes on a network of its own, for all tests of a file."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    directory = tempfile.mkdtemp(prefix="ipdc-net-", dir="/tmp")
    try:
        with Network() as network:
            yield Domain(network, directory, count, **conf)
    finally:
        shutil.rmtree(directory)


def inside(host: Host, work: Callable[[], T]) -> T:
    """Calls `work` in the host's network. A socket that it makes stays there, whoever uses it then."""
    def entered() -> T:
        descriptor = os.open(f"/run/netns/{host.namespace}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)
        return work()

    with ThreadPoolExecutor(1) as thread:  # of its own: a namespace is a thread's, and so is OpenSSL's last error
        return thread.submit(entered).result()


def tcp(host: Host, address: str, port: int) -> socket.socket:
    """A connection from the host; OSError."""
    return inside(host, lambda: socket.create_connection((address, port), PATIENCE))


def refused(host: Host, address: str, port: int) -> bool:
    """Whether nothing listens there."""
    try:
        tcp(host, address, port).close()
    except ConnectionRefusedError:
        return True
    return False


def identity_of(node: DomainNode) -> Identity:
    """Who a node is, from its files."""
    return identity.load(Home({"IPDC_HOME": node.home}))


def context(shown: Identity | None = None) -> ssl.SSLContext:
    """Shows this certificate, and believes everybody's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if shown is not None:
        made.load_cert_chain(shown.certificate, shown.key)
    return made


def tls(host: Host, address: str, port: int, shown: Identity | None = None) -> ssl.SSLSocket:
    """A TLS connection from the host; OSError."""
    made = context(shown)

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection((address, port), PATIENCE)
        try:
            return made.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    return inside(host, connect)


def mqtt(host: Host, address: str, shown: Identity | None, client_id: str = "") -> Client:
    """A client of MQTT 5 at the broker there; Refused or OSError."""
    connection = tls(host, address, MQTT, shown)
    return inside(host, lambda: Client(connection, client_id))


class Asker:
    """An open connection to a gateway, on which one thing is asked again and again."""

    def __init__(self, host: Host, address: str, shown: Identity | None) -> None:
        self.socket = tls(host, address, GATEWAY, shown)
        try:
            self.ask()
        except BaseException:
            self.socket.close()
            raise

    def ask(self) -> None:
        """One request and its answer, which says that there is nothing; OSError when there is no answer."""
        self.socket.sendall(b"HEAD /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            piece = self.socket.recv(4096)
            if not piece:
                raise ConnectionError("closed")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 404 "):
            raise ConnectionError(f"answered {answer[:40]!r}")


class Member:
    """A member without a daemon."""

    def __init__(self, domain: Domain, name: str) -> None:
        self.domain, self.name = domain, name
        self.node = DomainNode(domain.network.host(name), domain.directory)
        domain.join(self.node)
        self.host, self.identity = self.node.host, identity_of(self.node)

    def topic(self, channel: str) -> str:
        return f"ipdc/1/{self.domain.name}/{self.identity.id}/{channel}"

    def mqtt(self, node: DomainNode) -> Client:
        """A connection to the node's broker, which lets this member publish."""
        client = mqtt(self.host, node.host.address, self.identity)
        if client.publish(self.topic("lost"), b"") not in (SUCCESS, NO_SUBSCRIBERS):
            client.close()
            raise Refused(None, "to publish")
        return client

    def gateway(self, node: DomainNode) -> Asker:
        return Asker(self.host, node.host.address, self.identity)

    def gets_in(self, node: DomainNode) -> bool:
        """Whether both doors of the node let it in."""
        return not self.kept_out(node)

    def kept_out(self, node: DomainNode) -> dict[str, str]:
        """Which doors of the node do not let it in, and what it sees of that."""
        found = {}
        for door, connect in (("mqtt", self.mqtt), ("gateway", self.gateway)):
            try:
                connect(node).socket.close()
            except (OSError, Refused) as error:
                found[door] = str(error)
        return found


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side has ended this connection. What it said meanwhile is dropped."""
    connection.settimeout(0.001)
    try:
        while connection.recv(65536):
            pass
        return True
    except (TimeoutError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(PATIENCE)


@dataclass
class Newcomer:
    """Who speaks to the join port with a key of its own."""

    host: Host
    name: str = "newcomer"

    def __post_init__(self) -> None:
        self.key = certificates.new_key()

    def ask(self, token: Token) -> join_messages.JoinAnswer:
        """Joins; raises the JoinRefused that it is answered with, or OSError."""
        request = certificates.request(self.key, token.authority).decode()
        asked = join_messages.JoinRequest(token.secret, request, self.name, 1 << 30)
        address, _, port = token.addresses[0].rpartition(":")
        with tls(self.host, address, int(port)) as connection:
            connection.sendall(join_messages.encode_request(asked))
            answer = b""
            while not answer.endswith(b"\n") and (piece := connection.recv(65536)):
                answer += piece
        return join_messages.parse_answer(answer)


def reinstalled(node: DomainNode) -> None:
    """The node's disk is a new one: it starts with nothing but its settings."""
    node.stop()
    shutil.rmtree(node.home)
    os.makedirs(os.path.join(node.home, "log"))
    node.configure()
    node.start()


def line_of(text: str, *words: str) -> str:
    """The last line that has all these words; "" where none has."""
    return next((line for line in reversed(text.splitlines()) if all(word in line for word in words)), "")


def logged(node: DomainNode, *words: str, seconds: float = 20) -> str:
    """The line of the daemon's log that says it, once it does."""
    return str(eventually(lambda: line_of(node.daemon.log(), *words), f"{node} says {words}", seconds))


def attempt(who: str, what: str, where: str, outcome: str, line: str = "") -> None:
    """One line about what was tried."""
    print(f"{who} | {what} | {where} | {outcome}" + (f" | log: {line[:160]}" if line else ""))


def measured(what: str, condition: Callable[[], object], most: float, began: float | None = None) -> float:
    """Waits for the condition, prints how long it took (since `began`), and fails when that was more than promised."""
    began = time.monotonic() if began is None else began
    eventually(condition, what, most + 30)
    took = time.monotonic() - began
    print(f"{what}: {took:.1f} s (at most {most:g})")
    assert took <= most, what
    return took
