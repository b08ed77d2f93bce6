"""Strangers and men in the middle for the tests of the closed domain: what they hold in their hands, what they say, and
what they hear.

Owns false certificates, connections that come from an address of their own each (a journal names an address once a
minute), and servers that sit at somebody else's address. Never decides what is tested.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipdc_edge.drivers import identity
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.home import Home
from tests.drivers.certificates import EVER, NEVER, new_key, pem_of_key, write
from tests.drivers.mqtt5 import NO_SUBSCRIBERS, SUCCESS, Client, Refused
from tests.network.hosts import PYTHON, ROOT, SUBNET, DomainNode, Host, sh
from tests.network.raw import GATEWAY, MQTT, PATIENCE, inside

FIRST_SOURCE = 100  # number of the first address that an outsider takes


class Outsider:
    """A host whose connections come each from an address of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._next = FIRST_SOURCE

    def source(self) -> str:
        """One more address of this host."""
        address = str(SUBNET[self._next])
        self._next += 1
        sh("ip", "-n", self.host.namespace, "addr", "add", f"{address}/{SUBNET.prefixlen}", "dev", "eth0")
        return address

    def tcp(self, source: str, address: str, port: int) -> socket.socket:
        """A connection from one of its addresses."""
        return inside(self.host, lambda: socket.create_connection((address, port), PATIENCE, (source, 0)))


def context(shown: tuple[str, str] | None, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client's, that shows a (certificate, key) and believes everybody's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if most is not None:
        made.maximum_version = most
    if shown:
        made.load_cert_chain(*shown)
    return made


# -- what is said. Each gives what came of it, and raises Refused or OSError when nothing did


def mqtt(outsider: Outsider, source: str, address: str, tls: ssl.SSLContext | None, topic: str) -> str:
    """Connects to a broker and publishes. `tls` None speaks plainly."""
    def work() -> str:
        with outsider.tcp(source, address, MQTT) as plain:
            client = Client(tls.wrap_socket(plain) if tls else plain, "stranger")
            reason = client.publish(topic)
            client.close()
        if reason not in (SUCCESS, NO_SUBSCRIBERS):
            raise Refused(reason, "published")
        return "connected, published"

    return inside(outsider.host, work)


def gateway(outsider: Outsider, source: str, address: str, tls: ssl.SSLContext | None, cid: str) -> str:
    """Asks a gateway for a block. `tls` None speaks plainly."""
    def work() -> str:
        with outsider.tcp(source, address, GATEWAY) as plain, (tls.wrap_socket(plain) if tls else plain) as connection:
            connection.sendall(f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            answer = connection.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Refused(None, f"answered {answer[:40]!r}")
        return "got the block"

    return inside(outsider.host, work)


def say(outsider: Outsider, source: str, address: str, port: int, tls: ssl.SSLContext | None, line: bytes) -> bytes:
    """Says a line and hears one."""
    def work() -> bytes:
        with outsider.tcp(source, address, port) as plain, (tls.wrap_socket(plain) if tls else plain) as connection:
            connection.sendall(line)
            answer = b""
            while not answer.endswith(b"\n") and (piece := connection.recv(65536)):
                answer += piece
        return answer

    return inside(outsider.host, work)


# -- what strangers hold in their hands: pairs of files (certificate, key)


def pair(own: Identity) -> tuple[str, str]:
    """A real one."""
    return own.certificate, own.key


def copied(node: DomainNode, directory: str) -> Identity:
    """A node's identity as who copies its disk has it."""
    to = Home({"IPDC_HOME": os.path.join(directory, f"copy-of-{node.host.name}")})
    shutil.copytree(os.path.join(node.home, "identity"), to.identity, symlinks=True)
    return identity.load(to)


def _load(path: str) -> x509.Certificate:
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def _save(directory: str, label: str, certificate: x509.Certificate, key: bytes) -> tuple[str, str]:
    base = os.path.join(directory, label)
    return (write(f"{base}.pem", certificate.public_bytes(serialization.Encoding.PEM)), write(f"{base}-key.pem", key))


def resigned(directory: str, label: str, real: str) -> tuple[str, str]:
    """The certificate in `real` with every name and number in it, for a key of our own, signed by an authority of our
    own. A certificate that is its own issuer stays so."""
    model, key = _load(real), new_key()
    builder = (x509.CertificateBuilder().subject_name(model.subject).issuer_name(model.issuer)
               .public_key(key.public_key()).serial_number(model.serial_number)
               .not_valid_before(EVER).not_valid_after(NEVER))
    for extension in model.extensions:
        if isinstance(extension.value, (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)):
            builder = builder.add_extension(extension.value, extension.critical)
    signer = key if model.subject == model.issuer else new_key()
    return _save(directory, label, builder.sign(signer, hashes.SHA256()), pem_of_key(key))


def issued_by_member(directory: str, label: str, member: Identity, victim: str) -> tuple[str, str]:
    """A member signs a certificate for the id of another as if it were the authority; its own comes with it."""
    with open(member.key, "rb") as file:
        signer = serialization.load_pem_private_key(file.read(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer, key = _load(member.certificate), new_key()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    made = (x509.CertificateBuilder().subject_name(_load(victim).subject).issuer_name(issuer.subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(EVER).not_valid_after(NEVER).add_extension(usage, False).sign(signer, hashes.SHA256()))
    pair = _save(directory, label, made, pem_of_key(key))
    with open(pair[0], "ab") as file:
        file.write(issuer.public_bytes(serialization.Encoding.PEM))
    return pair


def replayed(directory: str, label: str, real: str) -> tuple[str, str]:
    """A real certificate, which everybody can read on the wire, without its key: the key is another one that claims the
    real public point, so that OpenSSL takes it and signs with it."""
    def point(key: object) -> bytes:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)

    model, key = _load(real), new_key()
    own = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    false = own.replace(point(key.public_key()), point(model.public_key()))
    assert false != own
    text = ssl.DER_cert_to_PEM_cert(false).replace("CERTIFICATE", "PRIVATE KEY")
    return _save(directory, label, model, text.encode())


# -- men in the middle


@dataclass
class Heard:
    """One connection at a man in the middle: how the handshake ended ("" when well) and what came after it."""

    handshake: str
    data: bytes = b""


@dataclass
class Middle:
    """Listens at a host's address and port with a certificate of its own choice; None speaks plainly. What it hears is
    kept; it `answers` the first of it with a word and closes, or is silent. `relay` passes everything on to there
    instead, untouched."""

    host: Host
    address: str
    port: int
    shown: tuple[str, str] | None = None
    answers: bytes = b""
    relay: tuple[str, int] | None = None
    heard: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._tls: ssl.SSLContext | None = None
        if self.shown:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*self.shown)
        self._listener = inside(self.host, lambda: socket.create_server((self.address, self.port)))
        self._run(self._accept)

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.1)[0]:
                plain = self._listener.accept()[0]
                self._run(lambda plain=plain: self._pass_on(plain) if self.relay else self._hear(plain))

    def _hear(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENCE)
        with plain:
            try:
                connection = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            except OSError as error:
                self.heard.append(Heard(getattr(error, "reason", None) or str(error)))
                return
            heard = Heard("")
            with connection:
                try:
                    while piece := connection.recv(65536):
                        heard.data += piece
                        if self.answers:
                            connection.sendall(self.answers)
                            break
                except OSError as error:
                    # of TLS 1.3: the other side says only now that it does not believe us
                    heard.handshake = getattr(error, "reason", None) or ""
            self.heard.append(heard)

    def _pass_on(self, near: socket.socket) -> None:
        relay = self.relay
        assert relay is not None
        far = inside(self.host, lambda: socket.create_connection(relay, PATIENCE))
        with near, far:
            while not self._ended.is_set():
                for one in select.select([near, far], [], [], 0.1)[0]:
                    piece = one.recv(65536)
                    if not piece:
                        return
                    (far if one is near else near).sendall(piece)

    def close(self) -> None:
        """Stops; connections that are open end within a moment."""
        self._ended.set()
        self._threads[0].join()
        self._listener.close()


def is_one_connect(data: bytes) -> bool:
    """Whether it is one whole CONNECT of MQTT and nothing more."""
    end = next(at for at in range(1, len(data)) if data[at] < 128)
    length = sum((data[at] & 127) << 7 * (at - 1) for at in range(1, end + 1))
    return data[:1] == b"\x10" and len(data) == end + 1 + length


@contextmanager
def in_the_place_of(victim: Host, impostor: Host) -> Iterator[None]:
    """The victim's cable is cut and the impostor has its address, until the end."""
    address = f"{victim.address}/{SUBNET.prefixlen}"
    victim.cut()
    sh("ip", "-n", impostor.namespace, "addr", "add", address, "dev", "eth0")
    _forget_neighbours(impostor)
    try:
        yield
    finally:
        sh("ip", "-n", impostor.namespace, "addr", "del", address, "dev", "eth0")
        victim.heal()
        _forget_neighbours(impostor)


def _forget_neighbours(host: Host) -> None:
    """As after a gratuitous ARP: nobody keeps the card that an address had before."""
    for other in host.network.hosts:
        sh("ip", "-n", other.namespace, "neigh", "flush", "all")


# -- the join port's own child


@contextmanager
def join_server(node: DomainNode, port: int) -> Iterator[Callable[[dict[str, object]], str]]:
    """A join server of the node's authority as its daemon starts one; what is called tells it something and gives the
    next line that it says."""
    child = node.host.start(PYTHON, "-P", "-m", "ipdc_edge.authority_child", "serve", stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, env={"IPDC_HOME": node.home, "PYTHONPATH": ROOT})
    assert child.stdin and child.stdout
    stdin, stdout = child.stdin, child.stdout

    def tell(said: dict[str, object]) -> str:
        stdin.write(json.dumps(said).encode() + b"\n")
        stdin.flush()
        return stdout.readline().decode()

    try:
        assert "listening" in tell({"listen": "0.0.0.0", "port": port, "peers": {}})
        yield tell
    finally:
        stdin.close()
        child.wait(PATIENCE)
        stdout.close()

