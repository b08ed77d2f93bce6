"""What is said to the own broker to throw out the expelled: a few packets of MQTT 5. announce.py says the same packets
to others', retained.py more to the own.

Owns those packets. mosquitto has no command that ends a client's connection, but by the protocol a client that comes
with the id of another takes its place. That works on the local listener only, which leaves a client the id it asks for.

Source: MQTT Version 5.0, sections 2 and 3.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection
from types import TracebackType

from ipdc_edge.drivers.broker_files import USER, probe_topic
from ipdc_edge.settings import LOOPBACK

PATIENCE = 5.0  # seconds; a broker reads its access list anew within a fraction of one
PAUSE = 0.02
AGAIN = 0.5  # seconds after which a broker that has not read its list is told again
SUCCESS, NOT_AUTHORIZED = (0x00, 0x10), 0x87  # 0x10: nobody has subscribed to that
CONNACK, PUBACK = 0x20, 0x40
MOST = 4096  # bytes of an answer


class Unkicked(Exception):
    """The own broker does not do what it is told."""


def kick(port: int, password: str, nodes: Collection[str], version: int) -> None:
    """Throws nodes out of the broker whose local listener is at `port`, which has read the list of this `version`, or
    one that has none of `nodes` either. Blocks, at most about PATIENCE. OSError when the broker cannot be spoken with,
    Unkicked when it refuses.
    """
    await_version(port, password, version)
    for node in nodes:
        with _local(port, password, node):
            pass


def await_version(port: int, password: str, version: int, again: Callable[[], object] = lambda: None) -> None:
    """Returns when the broker has read the access list of this version, after broker.update; so that whoever is thrown
    out then cannot come in again. Until then `again` is called now and then: mosquitto forgets a signal to read its
    files that comes while it reads them. Raises as `kick` does."""
    deadline = time.monotonic() + PATIENCE
    signal_at = time.monotonic() + AGAIN
    with _local(port, password, f"kick-{version}") as client:
        while (reason := client.publish(probe_topic(version))) not in SUCCESS:
            if reason != NOT_AUTHORIZED or time.monotonic() > deadline:
                raise Unkicked(f"it has not read the access list of version {version} (reason {reason:#x})")
            if time.monotonic() > signal_at:
                again()
                signal_at += AGAIN
            time.sleep(PAUSE)


def _local(port: int, password: str, client_id: str) -> Client:
    """The daemon at its own broker, under any client id."""
    return Client(socket.create_connection((LOOPBACK, port), PATIENCE), client_id, (USER, password))


class Client:
    """A connection with a client id of our choice, from CONNECT to DISCONNECT, over a socket that becomes its own. Each
    answer must come within PATIENCE; with `deadline`, on the monotonic clock, all of them until then."""

    def __init__(self, connection: socket.socket, client_id: str, login: tuple[str, ...] = (),
                 deadline: float | None = None) -> None:
        self._socket, self._until, self._deadline = connection, deadline, 0.0
        try:
            # clean start, user name and password if there are; keepalive; no properties
            head = _text("MQTT") + bytes((5, 0xC2 if login else 0x02)) + (30).to_bytes(2, "big") + b"\0"
            self._socket.sendall(_packet(0x10, head + _text(client_id) + b"".join(map(_text, login))))
            answer = self._answer(CONNACK)
            if len(answer) < 2 or answer[1] != 0:
                raise Unkicked(f"it refused the connection (reason 0x{answer[1:2].hex()})")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        try:
            self._socket.sendall(_packet(0xE0, b""))  # DISCONNECT
        except OSError:
            pass
        self._socket.close()

    def publish(self, topic: str, payload: bytes = b"", retain: bool = False) -> int:
        """Publishes at QoS 1; the reason in the answer. What is retained of a topic, nothing replaces."""
        self._socket.sendall(_packet(0x33 if retain else 0x32, _text(topic) + b"\0\1" + b"\0" + payload))
        answer = self._answer(PUBACK)
        return answer[2] if len(answer) > 2 else 0

    def _answer(self, kind: int) -> bytes:
        """The next packet's body, which must be of this kind and short."""
        first, body = self.packet(MOST)
        if first != kind:
            raise Unkicked(f"it sent packet {first:#x} instead of {kind:#x}")
        return body

    def packet(self, most: int) -> tuple[int, bytes]:
        """The next packet's first byte and its body, of at most so many bytes."""
        self._deadline = time.monotonic() + PATIENCE if self._until is None else self._until
        first, length, shift = self._take(1)[0], 0, 0
        while True:
            byte = self._take(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 21:
                raise Unkicked("it speaks no MQTT")
        if length > most:
            raise Unkicked(f"it sent a packet {first:#x} of {length} bytes")
        return first, self._take(length)

    def subscribe(self, number: int, filter_: str, options: int) -> None:
        """Subscribes; the answer, SUBACK, bears the number. `options` as in section 3.8.3.1."""
        self._socket.sendall(_packet(0x82, number.to_bytes(2, "big") + b"\0" + _text(filter_) + bytes((options,))))

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the broker does not answer")
            self._socket.settimeout(left)
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the broker closed the connection")
            data += piece
        return data


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def _packet(kind: int, body: bytes) -> bytes:
    length, size = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        size += bytes((digit | (0x80 if length else 0),))
        if not length:
            return bytes((kind,)) + size + body
