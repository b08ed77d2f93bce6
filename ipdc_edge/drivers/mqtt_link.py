"""One connection to one broker, in the daemon's loop.

Owns a paho client, its socket in the loop, and the messages that wait for the connection. Never knows what a message
means, nor which links there are (`mqtt` does). A peer is meant by its id: a broker whose certificate shows another
one is not spoken to. paho's connect blocks (name look-up, handshake, for up to a keepalive), so it runs in a small
pool of threads; the connected socket then lives in the loop. MQTT 5 only: over 3.1.1 a forbidden publish looks like
a success. Works with paho 1.6 and 2.x, whose callbacks have the same arguments under MQTT 5, but for on_disconnect.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..codec.messages import MessageTooLong
from ..codec.serving import ROOT
from ..core.messages import Command, Lost, Message, Present
from .lean_paho import client as paho
from .tls import forget_errors, peer_id

if TYPE_CHECKING:
    from .mqtt import Mqtt

DAEMON = "daemon"  # the client id at the own broker; at others' it is the node's, which their brokers enforce
ANSWER = 10.0  # seconds in which a broker has to answer a connection
MOST_QUEUED = 1000  # messages that wait for a connection; the protocol sends again what is dropped
MOST_RAW = 64  # that wait before more such bytes are dropped: they may be 128 kB each
MOST_UNSENT = 2 << 20  # of them that paho has, which bounds nothing; no node has requests of more than half of it
RAW_COSTS = 1000  # bytes of paho's own for each
RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)  # pauses before connecting again to the own broker or a portal
TRIES = 2  # at a peer's broker before it counts as unreachable


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for a channel that the core knows nothing of; they may be lost."""

    channel: str
    payload: bytes


class Link:
    """The broker of `node`, at `address`. Those that the node keeps connect by themselves, again and again; others
    when there is something to send."""

    def __init__(self, mqtt: Mqtt, node: str, address: str) -> None:
        self.mqtt, self.node, self.address = mqtt, node, address
        self.queue: deque[Message | Raw] = deque(maxlen=MOST_QUEUED)
        self.client: paho.Client | None = None
        self.socket: socket.socket | None = None
        self.connected = False
        self.birth = 0
        self.used = mqtt.loop.time()
        self.failures = 0
        self.writing = False
        self.unsent: deque[tuple[Any, int]] = deque()  # Raw that paho has: what tells when it is gone, and bytes
        self.listed_mid: int | None = None
        self.answer_by = 0.0
        self.closed = False
        self.unseen = b""  # our record, until this portal has shown that it took it
        self.stale = False  # what is being connected now is not wanted any more
        self.task: asyncio.Task[None] | None = None
        self.retry: asyncio.TimerHandle | None = None

    @property
    def own(self) -> bool:
        """Whether it is this node's own broker."""
        return self.node == self.mqtt.node_id

    @property
    def kept(self) -> bool:
        """Whether the link is to stay: to the own broker or a portal."""
        return self.own or self.node in self.mqtt.portals

    # -- connecting

    def connect(self) -> None:
        """Begin to connect unless that is under way."""
        if self.task is None and self.socket is None and not self.closed:
            self._no_retry()
            self.task = self.mqtt.loop.create_task(self._connect())

    def _no_retry(self) -> None:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None

    def _client(self) -> paho.Client:
        name = DAEMON if self.own else self.mqtt.node_id
        if hasattr(paho, "CallbackAPIVersion"):  # paho 2.x
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        else:
            client = paho.Client(client_id=name, protocol=paho.MQTTv5)
        if self.own:
            client.username_pw_set(*self.mqtt.credentials())
        else:
            client.tls_set_context(self.mqtt.context)
        will = self.mqtt.codec.encode(Lost(), self.birth).payload
        client.will_set(self.mqtt.topic("lost"), will, qos=1, retain=self.node in self.mqtt.portals)
        client.on_connect, client.on_message, client.on_subscribe = (
            self._on_connect, self._on_message, self._on_subscribe)
        return client

    async def _connect(self) -> None:
        address, self.stale = self.address, False
        self.birth = next(self.mqtt.births)
        pool = self.mqtt.kept_connectors if self.kept else self.mqtt.connectors
        try:
            client = self._client()
            answers = await self.mqtt.loop.run_in_executor(pool, self._open, client, address)
        except (OSError, ValueError) as error:
            self.task = None
            return self._failed(str(error))
        self.task = None
        self.client, self.socket = client, client.socket()
        if self.closed or self.socket is None:
            return self._failed("closed")
        if self.stale:
            self._drop_socket()
            return self.connect()
        if answers != self.node:
            return self._failed(f"another node answers there: {answers or 'nobody we know'}")
        # Else what follows a PUBACK waits until the broker's kernel has acknowledged that, which takes it 40 ms.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer_by = self.mqtt.loop.time() + ANSWER
        self.mqtt.loop.add_reader(self.socket, self._readable)
        self._flush()

    def _open(self, client: paho.Client, address: str) -> str:
        """In a thread: connect, and say who answers there."""
        forget_errors()  # of whatever this thread connected to before
        host, _, port = address.rpartition(":")
        client.connect(host.strip("[]"), int(port), keepalive=self.mqtt.keepalive)
        return self.node if self.own else peer_id(client.socket())

    def _failed(self, reason: str) -> None:
        """No connection: a peer is given up after a second try, kept ones are tried again later."""
        self._drop_socket()
        self.failures += 1
        if self.closed:
            return
        if self.failures >= TRIES and not self.own and (self.queue or not self.kept):
            self.mqtt.unreachable(self, reason)
        if self.kept:
            if self.failures == TRIES:
                self.mqtt.note(f"no connection to {self.mqtt.named(self)}: {reason}")
            self.retry = self.mqtt.loop.call_later(RETRY[min(self.failures, len(RETRY)) - 1], self.connect)
        elif self.queue:
            self.retry = self.mqtt.loop.call_later(RETRY[0], self.connect)

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any = None) -> None:
        if _code(reason) != 0:
            self.mqtt.note(f"{self.mqtt.named(self)} refused the connection: {reason}")
            return  # the broker closes it; the reader notices
        if self.failures >= TRIES and self.kept:
            self.mqtt.note(f"connected again to {self.mqtt.named(self)}")
        self.connected, self.failures = True, 0
        self.mqtt.connected(self)
        while self.queue and self.connected:  # it may break meanwhile
            self.send(self.queue.popleft())

    def move(self, address: str) -> None:
        """The broker is found elsewhere now."""
        if address == self.address:
            return
        self.address = address
        self.reconnect()

    # -- the socket in the loop

    def _readable(self) -> None:
        client = self.client
        if client is None:
            return
        while True:
            try:
                broke = client.loop_read() != paho.MQTT_ERR_SUCCESS or client.socket() is None
            except OSError as error:  # of TLS: paho lets those out
                return self.broken(str(error))
            if self.client is not client:
                return  # a callback wrote, and the connection broke by that
            if broke:
                return self.broken("the connection broke")
            pending = getattr(client.socket(), "pending", None)  # TLS may hold more than the kernel does
            if pending is None or not pending():
                break
        self._flush()

    def _flush(self) -> None:
        """Write what paho wants to write; keep a writer in the loop only as long as the socket is full."""
        client, sock = self.client, self.socket
        if client is None or sock is None:
            return
        try:
            if client.want_write() and client.loop_write() != paho.MQTT_ERR_SUCCESS:
                return self.broken("the connection broke")
        except OSError as error:
            return self.broken(str(error))
        if not client.want_write():
            self.unsent.clear()
        if client.want_write() and not self.writing:
            self.writing = True
            self.mqtt.loop.add_writer(sock, self._flush)
        elif self.writing and not client.want_write():
            self.writing = False
            self.mqtt.loop.remove_writer(sock)

    def _write(self, write: Callable[[], Any]) -> Any:
        """What a call of paho's gives that writes at once, or None: paho lets TLS' errors out, and whoever breaks the
        connection at that moment would end the daemon."""
        try:
            return write()
        except OSError as error:
            self.broken(str(error))
            return None

    def broken(self, reason: str) -> None:
        """The connection is gone."""
        was = self._end()
        if was and not self.kept and not self.queue:
            self.mqtt.drop(self)  # opened again when there is something to say
        elif was and not self.kept:
            self.connect()
        else:
            self._failed(reason)

    def _end(self) -> bool:
        """Let go of the socket; whether the connection had stood."""
        was = self.connected
        self._drop_socket()
        if was:
            self.mqtt.disconnected(self)
        return was

    def _drop_socket(self) -> None:
        if self.socket is not None:
            self.mqtt.loop.remove_reader(self.socket)
            if self.writing:
                self.mqtt.loop.remove_writer(self.socket)
            self.socket.close()
            if not self.own:
                forget_errors()
        self.socket, self.client, self.writing, self.connected = None, None, False, False
        self.unsent.clear()

    def misc(self) -> None:
        """paho's keepalive."""
        client = self.client
        if client is not None and self.socket is not None:
            late = not self.connected and self.mqtt.loop.time() > self.answer_by
            well = not late and self._write(client.loop_misc) == paho.MQTT_ERR_SUCCESS
            if self.client is client and (not well or client.socket() is None):
                return self.broken("no answer within the keepalive")
            self._flush()

    def reconnect(self) -> None:
        """Begin anew: an address changed, and what stood before stands no more though nobody says so."""
        self.stale = self.task is not None
        if not self.stale:
            self._end()
        self.failures = 0
        if self.kept or self.queue:
            self.connect()

    def close(self) -> None:
        """Say goodbye, so that no will is published, and never connect again."""
        self.closed = True
        self._no_retry()
        if self.client is not None and self.connected:
            try:
                self.client.disconnect()
                self._flush()
            except OSError:
                pass  # of TLS: it is gone without a goodbye
        self._drop_socket()

    # -- messages

    def send(self, message: Message | Raw) -> None:
        """Publish, or queue until the connection stands. The payload carries the birth of the connection it
        leaves on."""
        self.used = self.mqtt.loop.time()
        if not self.connected:
            if isinstance(message, Raw) and len(self.queue) >= MOST_RAW:
                return self.connect()  # it may be lost, and is big
            self.queue.append(message)
            return self.connect()
        if isinstance(message, Raw):
            return self._send_raw(message)
        try:
            encoded = self.mqtt.codec.encode(message, self.birth)
        except MessageTooLong as error:  # a bug of ours, and no reason to end everything else
            return self.mqtt.note(f"bug: a message was not sent: {error}")
        if isinstance(message, Command):
            if not all(self.mqtt.keep_block(cid, block, message.job) for cid, block in encoded.blocks):
                return
        retain = isinstance(message, Present) and self.node in self.mqtt.portals
        if retain:
            self.unseen = encoded.payload
        self.publish(self.mqtt.topic(encoded.channel), encoded.payload, retain)

    def _send_raw(self, raw: Raw) -> None:
        """Publish it, or drop it where too much waits for the socket already."""
        while self.unsent and self.unsent[0][0].is_published():
            self.unsent.popleft()
        client, size = self.client, len(raw.payload) + RAW_COSTS
        if sum(waits for _, waits in self.unsent) + size > MOST_UNSENT:
            return
        told = self.publish(self.mqtt.topic(raw.channel), raw.payload, False, 0)
        held = told is not None and told.rc == paho.MQTT_ERR_SUCCESS and not told.is_published()
        if held and self.client is client:  # it did not break by it
            self.unsent.append((told, size))

    def publish(self, text: str, payload: bytes, retain: bool, qos: int = 1, properties: Any = None) -> Any:
        """Publish raw bytes when the connection stands; then paho's word of it."""
        client = self.client
        if client is None or not self.connected:
            return None
        self.mqtt.counters["sent"] += 1
        told = self._write(lambda: client.publish(text, payload, qos, retain, properties))
        self._flush()
        return told

    def subscribe(self, *filters: tuple[str, int]) -> int | None:
        """Subscribe; the message id that the answer will have."""
        client = self.client
        if client is None or not self.connected:
            return None
        done = self._write(lambda: client.subscribe(list(filters)))
        self._flush()
        return done[1] if done is not None else None

    def unsubscribe(self, *filters: str) -> None:
        """End subscriptions."""
        client = self.client
        if client is not None and self.connected:
            self._write(lambda: client.unsubscribe(list(filters)))
            self._flush()

    def _on_message(self, client: paho.Client, userdata: Any, message: Any) -> None:
        if message.topic.startswith(ROOT):
            if self.own and not message.retain:  # what somebody had retained was asked before this daemon was there
                self.mqtt.asked(message.topic, message.payload, message.properties)
        else:
            self.mqtt.received(self, message.topic, message.payload)

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, *rest: Any) -> None:
        if mid == self.listed_mid:
            self.listed_mid = None
            self.mqtt.listed(self)


def answer_properties(correlation: bytes) -> Any:
    """Of the answer to a request: JSON, with the correlation data that it came with."""
    from paho.mqtt.packettypes import PacketTypes  # paho's client has loaded both
    from paho.mqtt.properties import Properties

    found = Properties(PacketTypes.PUBLISH)
    found.ContentType = "application/json"
    if correlation:
        found.CorrelationData = correlation
    return found


def _code(reason: Any) -> int:
    return int(getattr(reason, "value", reason))
