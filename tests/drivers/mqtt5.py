"""A client of MQTT 5 for tests that must say what no library says: any client id, any will, any order, and hear every
reason code. Blocking, over a socket that the caller made."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from ipdc_edge.drivers.identity import Identity
from ipdc_edge.drivers.tls import forget_errors

PATIENCE = 10.0
SUCCESS, NO_SUBSCRIBERS, NOT_AUTHORIZED, BAD_CREDENTIALS, TAKEN_OVER = 0, 0x10, 0x87, 0x86, 0x8E


class Refused(Exception):
    """No connection: `reason` is CONNACK's, or None when there was no answer."""

    def __init__(self, reason: int | None, words: str = "") -> None:
        super().__init__(f"reason {reason} {words}")
        self.reason = reason


@dataclass
class Packet:
    kind: int
    flags: int
    body: bytes


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes) -> bytes:
    size, length = b"", len(body)
    while True:
        length, digit = divmod(length, 128)
        size += bytes([digit | 128 * bool(length)])
        if not length:
            return bytes([first]) + size + body


def tls(port: int, identity: Identity | None = None, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED, ciphers: str = "DEFAULT") -> ssl.SSLSocket:
    """A TLS connection that shows the identity's certificate and believes every server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = least, most
    context.set_ciphers(ciphers)
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    try:
        return context.wrap_socket(plain)
    except OSError as error:
        plain.close()
        forget_errors()
        raise Refused(None, str(error)) from error


class Client:
    """Connected when it exists; Refused otherwise."""

    def __init__(self, connection: socket.socket, client_id: str = "", user: str | None = None,
                 password: str | None = None, will: tuple[str, bytes, bool] | None = None, keepalive: int = 30) -> None:
        self.socket = connection
        self.socket.settimeout(PATIENCE)
        self.messages: list[tuple[str, bytes]] = []
        self._data = b""
        flags = 2 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
        tail = b""
        if will:
            flags |= 4 | 8 | (0x20 if will[2] else 0)
            tail += b"\0" + text(will[0]) + len(will[1]).to_bytes(2, "big") + will[1]
        tail += text(user) if user is not None else b""
        tail += text(password) if password is not None else b""
        try:
            self.socket.sendall(packet(0x10, text("MQTT") + bytes([5, flags]) + keepalive.to_bytes(2, "big") + b"\0"
                                       + text(client_id) + tail))
            answer = self.take(2)
        except OSError as error:
            self.socket.close()
            raise Refused(None, str(error)) from error
        if answer.body[1]:
            self.socket.close()
            raise Refused(answer.body[1])

    def take(self, kind: int | None = None) -> Packet:
        """The next packet, or the next of a kind; messages on the way are kept and acknowledged."""
        while True:
            got = self._packet()
            if got.kind == 3:
                self._message(got)
            if kind is None or got.kind == kind:
                return got
            if got.kind == 14:
                raise ConnectionError(f"disconnected, reason {got.body[0] if got.body else 0:#x}")

    def _message(self, got: Packet) -> None:
        length = int.from_bytes(got.body[:2], "big")
        topic, rest = got.body[2 : 2 + length].decode(), got.body[2 + length :]
        if got.flags & 6:
            self.socket.sendall(packet(0x40, rest[:2]))
            rest = rest[2:]
        self.messages.append((topic, rest[1 + rest[0] :]))

    def _packet(self) -> Packet:
        while True:
            length = shift = 0
            for at in range(1, min(len(self._data), 5)):
                length |= (self._data[at] & 127) << shift
                shift += 7
                if self._data[at] < 128:
                    if len(self._data) < at + 1 + length:
                        break
                    whole, self._data = self._data[: at + 1 + length], self._data[at + 1 + length :]
                    return Packet(whole[0] >> 4, whole[0] & 15, whole[at + 1 :])
            try:
                piece = self.socket.recv(65536)
            except OSError:
                forget_errors()
                raise
            if not piece:
                raise ConnectionError("closed")
            self._data += piece

    def publish(self, topic: str, payload: bytes = b"x", retain: bool = False) -> int:
        """At QoS 1; the broker's reason."""
        self.socket.sendall(packet(0x32 | retain, text(topic) + b"\0\1" + b"\0" + payload))
        answer = self.take(4).body
        return answer[2] if len(answer) > 2 else 0

    def subscribe(self, *topics: str) -> list[int]:
        """The granted levels or reasons."""
        filters = b"".join(text(topic) + b"\1" for topic in topics)
        self.socket.sendall(packet(0x82, b"\0\1" + b"\0" + filters))
        return list(self.take(9).body[-len(topics) :])

    def settle(self) -> list[tuple[str, bytes]]:
        """Everything that the broker had for us up to now; more than it sends before the first is acknowledged."""
        known = -1
        while known < len(self.messages):
            known = len(self.messages)
            self.socket.sendall(packet(0xC0, b""))
            self.take(13)
        return self.messages

    def ended(self) -> bool:
        """Whether the broker ends the connection because another came with its id; newer ones say that reason."""
        try:
            return self.take(14).body[0] == TAKEN_OVER
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self.socket.close()

    def close(self) -> None:
        """As one who says goodbye."""
        try:
            self.socket.sendall(packet(0xE0, b""))
        except OSError:
            pass
        self.socket.close()

    def vanish(self) -> None:
        """As one who dies, so that its will is published."""
        self.socket.close()
