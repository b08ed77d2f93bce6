"""MQTT: one connection to each broker that this node speaks to, all in the daemon's loop.

Owns paho's clients, when they connect, and which of them are kept: the own broker and the portals always, a
peer's while messages flow to it. Knows topics and the codec, never what a message means. paho's connect
blocks (name look-up, handshake, for up to a keepalive), so it runs in a small pool of threads; the connected
socket then lives in the loop. MQTT 5 only: over 3.1.1 a forbidden publish looks like a success. Works with
paho 1.6 and 2.x, whose callbacks have the same arguments under MQTT 5, but for on_disconnect.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from paho.mqtt import client as paho

from ..codec.messages import BadMessage, MessageCodec, MessageTooLong, parse_topic, topic
from ..core.events import OWN, Event, MessageReceived, PeerUnreachable, PortalLeft, RecordsListed
from ..core.messages import Command, Lost, Message, Present
from ..core.values import NodeRecord

CONNECT_THREADS = 2  # for peers, and as many for the own broker and the portals
ANSWER = 10.0  # seconds in which a broker has to answer a connection
MOST_QUEUED = 1000  # messages that wait for a connection; the protocol sends again what is dropped
IDLE = 60.0  # seconds without a message after which a peer's connection is closed
RETRY = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # pauses before connecting again to the own broker or a portal
TRIES = 2  # at a peer's broker before it counts as unreachable


def _client(client_id: str) -> paho.Client:
    if hasattr(paho, "CallbackAPIVersion"):  # paho 2.x
        return paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    return paho.Client(client_id=client_id, protocol=paho.MQTTv5)


class Link:
    """One broker. `kept` links connect by themselves, again and again; others when there is something to send."""

    def __init__(self, mqtt: Mqtt, address: str, node: str | None) -> None:
        self.mqtt, self.address = mqtt, address
        self.node = node  # the peer whose broker it is; None for the own and the portals
        self.queue: deque[Message] = deque(maxlen=MOST_QUEUED)
        self.client: paho.Client | None = None
        self.socket: socket.socket | None = None
        self.connected = False
        self.birth = 0
        self.used = mqtt.loop.time()
        self.failures = 0
        self.writing = False
        self.listed_mid: int | None = None
        self.answer_by = 0.0
        self.task: asyncio.Task[None] | None = None
        self.retry: asyncio.TimerHandle | None = None

    @property
    def kept(self) -> bool:
        """Whether the link is to stay: to the own broker or a portal."""
        return self.node is None

    # -- connecting

    def connect(self) -> None:
        """Begin to connect unless that is under way."""
        if self.task is None and self.socket is None and not self.mqtt.closing:
            if self.retry is not None:
                self.retry.cancel()
                self.retry = None
            self.task = self.mqtt.loop.create_task(self._connect())

    async def _connect(self) -> None:
        host, _, port = self.address.rpartition(":")
        self.birth = next(self.mqtt.births)
        client = self.client = _client(self.mqtt.node_id)
        lost = self.mqtt.codec.encode(Lost(), self.birth)
        client.will_set(self.mqtt.topic("lost"), lost.payload, qos=1, retain=self.kept)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        try:
            pool = self.mqtt.kept_connectors if self.kept else self.mqtt.connectors
            await self.mqtt.loop.run_in_executor(
                pool, lambda: client.connect(host, int(port), keepalive=self.mqtt.keepalive))
        except (OSError, ValueError) as error:
            self.task = None
            return self._failed(str(error))
        self.task = None
        self.socket = client.socket()
        if self.mqtt.closing or self.socket is None:
            return self._failed("closed")
        self.answer_by = self.mqtt.loop.time() + ANSWER
        self.mqtt.loop.add_reader(self.socket, self._readable)
        self._flush()

    def _failed(self, reason: str) -> None:
        """No connection: the kept ones try again later, a peer is given up after a second try."""
        self._drop_socket()
        self.failures += 1
        if self.mqtt.closing:
            return
        if self.kept:
            pause = RETRY[min(self.failures, len(RETRY)) - 1]
            self.retry = self.mqtt.loop.call_later(pause, self.connect)
        elif self.queue and self.failures < TRIES:
            self.retry = self.mqtt.loop.call_later(RETRY[0], self.connect)
        else:
            self.mqtt.forget(self, reason)

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any = None) -> None:
        if _code(reason) != 0:
            self.mqtt.note(f"broker {self.address} refused the connection: {reason}")
            return  # the broker closes it; the reader notices
        self.connected, self.failures = True, 0
        self.mqtt.connected(self)
        while self.queue and self.connected:  # it may break meanwhile
            self.send(self.queue.popleft())

    # -- the socket in the loop

    def _readable(self) -> None:
        client = self.client
        if client is None:
            return
        while True:
            if client.loop_read() != paho.MQTT_ERR_SUCCESS or client.socket() is None:
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
        if client.want_write() and client.loop_write() != paho.MQTT_ERR_SUCCESS:
            return self.broken("the connection broke")
        if client.want_write() and not self.writing:
            self.writing = True
            self.mqtt.loop.add_writer(sock, self._flush)
        elif self.writing and not client.want_write():
            self.writing = False
            self.mqtt.loop.remove_writer(sock)

    def broken(self, reason: str) -> None:
        """The connection is gone."""
        was, self.connected = self.connected, False
        self._drop_socket()
        if was:
            self.mqtt.disconnected(self)
        if was and not self.kept and not self.queue:
            self.mqtt.drop(self)  # opened again when there is something to say
        elif was and not self.kept:
            self.connect()
        else:
            self._failed(reason)

    def _drop_socket(self) -> None:
        if self.socket is not None:
            self.mqtt.loop.remove_reader(self.socket)
            if self.writing:
                self.mqtt.loop.remove_writer(self.socket)
            self.socket.close()
        self.socket, self.client, self.writing, self.connected = None, None, False, False

    def misc(self) -> None:
        """paho's keepalive."""
        if self.client is not None and self.socket is not None:
            late = not self.connected and self.mqtt.loop.time() > self.answer_by
            if late or self.client.loop_misc() != paho.MQTT_ERR_SUCCESS or self.client.socket() is None:
                return self.broken("no answer within the keepalive")
            self._flush()

    def close(self) -> None:
        """Say goodbye, so that no will is published."""
        if self.retry is not None:
            self.retry.cancel()
        if self.client is not None and self.connected:
            self.client.disconnect()
            self._flush()
        self._drop_socket()

    # -- messages

    def send(self, message: Message) -> None:
        """Publish, or queue until the connection stands. The payload carries the birth of the connection it
        leaves on."""
        self.used = self.mqtt.loop.time()
        if not self.connected:
            self.queue.append(message)
            return self.connect()
        try:
            encoded = self.mqtt.codec.encode(message, self.birth)
        except MessageTooLong as error:  # a bug of ours, and no reason to end everything else
            return self.mqtt.note(f"bug: a message was not sent: {error}")
        if isinstance(message, Command):
            if not all(self.mqtt.keep_block(cid, block, message.job) for cid, block in encoded.blocks):
                return
        self._publish(self.mqtt.topic(encoded.channel), encoded.payload, isinstance(message, Present))

    def publish(self, text: str, payload: bytes, retain: bool) -> None:
        """Publish raw bytes when the connection stands."""
        if self.connected:
            self._publish(text, payload, retain)

    def _publish(self, text: str, payload: bytes, retain: bool) -> None:
        if self.client is not None:
            self.mqtt.counters["sent"] += 1
            self.client.publish(text, payload, qos=1, retain=retain)
            self._flush()

    def subscribe(self, *filters: tuple[str, int]) -> int | None:
        """Subscribe; the message id that the answer will have."""
        if self.client is None or not self.connected:
            return None
        code, mid = self.client.subscribe(list(filters))
        self._flush()
        return mid

    def unsubscribe(self, *filters: str) -> None:
        """End subscriptions."""
        if self.client is not None and self.connected:
            self.client.unsubscribe(list(filters))
            self._flush()

    def _on_message(self, client: paho.Client, userdata: Any, message: Any) -> None:
        self.mqtt.received(self, message.topic, message.payload)

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, *rest: Any) -> None:
        if mid == self.listed_mid:
            self.listed_mid = None
            self.mqtt.listed(self)


def _code(reason: Any) -> int:
    return int(getattr(reason, "value", reason))


class Mqtt:
    """All links of a node. `emit` takes events for the core, `note` a line for the journal."""

    def __init__(
        self, domain: str, node_id: str, address: str, portals: tuple[str, ...], codec: MessageCodec,
        births: Iterator[int], keepalive: int, emit: Callable[[Event], None], note: Callable[[str], None],
        keep_block: Callable[[str, bytes, str], bool],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.domain, self.node_id, self.address, self.codec = domain, node_id, address, codec
        self.births, self.keepalive, self.emit, self.note, self.keep_block = births, keepalive, emit, note, keep_block
        self.connectors = ThreadPoolExecutor(CONNECT_THREADS, thread_name_prefix="mqtt-peers")
        self.kept_connectors = ThreadPoolExecutor(CONNECT_THREADS, thread_name_prefix="mqtt-kept")
        self.closing = False
        self.record: NodeRecord | None = None
        self.watching = False
        self.listing: dict[Link, None] = {}  # portals whose list is awaited
        self.counters = {"sent": 0, "received": 0, "refused": 0}
        self.own = Link(self, address, None)
        self.portals = {
            portal: self.own if portal == address else Link(self, portal, None) for portal in portals or (address,)
        }
        self.peers: dict[str, Link] = {}
        self._refusals: dict[str, float] = {}

    def topic(self, channel: str) -> str:
        """Our topic of a channel."""
        return topic(self.domain, self.node_id, channel)

    def start(self) -> None:
        """Begin to connect to the own broker and the portals."""
        for link in self._kept():
            link.connect()
        self.ticker = self.loop.call_later(self.keepalive / 4, self._tick)

    def _kept(self) -> list[Link]:
        return list(dict.fromkeys([self.own, *self.portals.values()]))

    def _tick(self) -> None:
        self.ticker = self.loop.call_later(self.keepalive / 4, self._tick)
        for link in [*self._kept(), *self.peers.values()]:
            link.misc()
        for link in list(self.peers.values()):
            if link.task is None and self.loop.time() - link.used > IDLE:
                link.close()
                del self.peers[link.address]

    def send(self, node: str, address: str, message: Message) -> None:
        """Publish a message at the broker of a node; connects if need be. May be dropped; the protocol sends
        again."""
        if address == self.address:
            return self.own.send(message)
        link = self.portals.get(address) or self.peers.get(address)
        if link is None:
            link = self.peers[address] = Link(self, address, node)
        link.send(message)

    def publish_record(self, record: NodeRecord) -> None:
        """Retain the record at every portal, now and whenever a connection to one is made anew."""
        self.record = record
        for link in dict.fromkeys(self.portals.values()):
            if link.connected:
                link.send(Present(record))

    def watch(self, wanted: bool) -> None:
        """Listen to the records that portals retain, or no longer."""
        self.watching = wanted
        links = [link for link in dict.fromkeys(self.portals.values()) if link.connected]
        self.listing = dict.fromkeys(links) if wanted else {}
        for link in links:
            if wanted:
                self._watch(link)
            elif link is not self.own:
                link.unsubscribe(*self._filters())

    def _filters(self) -> tuple[str, str]:
        return topic(self.domain, "+", "node"), topic(self.domain, "+", "lost")

    def _watch(self, link: Link) -> None:
        """A broker sends what it retains after it answered the subscription, and before it answers the next one: so
        the answer to a second subscription, which asks for nothing new, says that all records have come."""
        if link is not self.own:  # there we hear everything anyway
            link.subscribe(*((text, 0) for text in self._filters()))
        link.listed_mid = link.subscribe((topic(self.domain, self.node_id, "node"), 0))

    # -- called by links

    def connected(self, link: Link) -> None:
        """A connection stands: subscribe, and show the record where it belongs."""
        if link is self.own:
            link.subscribe((topic(self.domain, "+", "+"), 1))
        if link in self.portals.values():
            link.publish(self.topic("lost"), b"", retain=True)  # the will of the connection before is void
            if self.record is not None:
                link.send(Present(self.record))
            if self.watching:
                self.listing[link] = None
                self._watch(link)

    def listed(self, link: Link) -> None:
        """Everything that a portal retains has come, or it is gone and nothing comes any more."""
        if self.watching and link in self.listing:
            del self.listing[link]
            self.emit(RecordsListed(link.address, len(self.listing)))

    def disconnected(self, link: Link) -> None:
        """A standing connection broke."""
        self.listed(link)
        if link in self.portals.values() and link is not self.own:
            self.emit(PortalLeft(link.address))

    def drop(self, link: Link) -> None:
        """A peer's link is of no use any more."""
        if self.peers.get(link.address) is link:
            del self.peers[link.address]

    def forget(self, link: Link, reason: str) -> None:
        """A peer cannot be reached: what waited for it is dropped, and the core told."""
        link.queue.clear()
        self.drop(link)
        if link.node is not None:
            self.emit(PeerUnreachable(link.node, reason[:200]))

    def received(self, link: Link, text: str, payload: bytes) -> None:
        """A message from a broker we listen to: decode it, or say once in a while who sends nonsense."""
        if not payload and text.endswith("/lost"):
            return
        try:
            sender, channel = parse_topic(text, self.domain)
            birth, message = self.codec.decode(channel, payload)
        except BadMessage as error:
            self.counters["refused"] += 1
            sender = text.split("/")[3][:60] if text.count("/") >= 4 else text[:60]
            if len(self._refusals) > MOST_QUEUED:
                self._refusals.clear()
            if self.loop.time() - self._refusals.get(sender, -60.0) >= 60.0:
                self._refusals[sender] = self.loop.time()
                self.note(f"refused a message of {sender!r}: {error}")
            return
        self.counters["received"] += 1
        self.emit(MessageReceived(OWN if link is self.own else link.address, sender, birth, message))

    def close(self) -> None:
        """Say goodbye everywhere."""
        self.closing = True
        self.ticker.cancel()
        for link in [*self._kept(), *self.peers.values()]:
            link.close()
        self.connectors.shutdown(wait=False, cancel_futures=True)
        self.kept_connectors.shutdown(wait=False, cancel_futures=True)
