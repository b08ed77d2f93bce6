"""MQTT: the connections of a node to the brokers that it speaks to, one for each node.

Owns the links (`mqtt_link`), when they are made, and which of them are kept: the own broker and the portals always,
a peer's while messages flow to it. Knows topics and the codec, never what a message means. A member that floods us
is named and handed to `flooded`; its messages beyond the bound are dropped unread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..codec.messages import SERVING, BadMessage, MessageCodec, parse_topic, topic
from ..codec.serving import ROOT
from ..core.events import OWN, Event, MessageReceived, PeerUnreachable, PortalJoined, PortalLeft, RecordsListed
from ..core.messages import Message, Present
from ..core.values import NodeRecord
from .broker_log import FILTER, BrokerLog
from .mqtt_link import Link, Raw
from .refusals import Refusals

if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

CONNECT_THREADS = 4  # for peers, and half as many for the own broker and the portals
IDLE = 60.0  # seconds without a message after which a peer's connection is closed
PARTING = 5.0  # seconds in which an expelled node may still be told that it is
FLOOD = 1000  # messages a second of one sender, over a tick, are no work any more
ASKED = (f"{ROOT}+/request", f"{ROOT}+/health")  # where this node's programs ask
LIGHT = 10  # requests to a served model, and answers, count as one message: they are no work for the core
_SERVING = tuple(f"/{channel}" for channel in SERVING)
MOST_SENDERS = 1000  # that are remembered as senders of nonsense


class Serving(Protocol):
    """What requests to served models and answers are handed to (daemon/serving.py)."""

    def asked(self, text: str, payload: bytes, properties: Any) -> None:
        """A program of this node asks."""

    def heard(self, sender: str, channel: str, payload: bytes) -> None:
        """Another node's daemon asks, or answers."""


class Mqtt:
    """All links of a node. `own` is where its own broker listens for it, with what `credentials()` says; `emit` takes
    events for the core, `note` a line for the journal, `flooded` the id of a member to shut out for a while;
    `own_connected` is called whenever the connection to the own broker stands anew."""

    def __init__(
        self, domain: str, node_id: str, own: str, credentials: Callable[[], tuple[str, str]],
        context: ssl.SSLContext, codec: MessageCodec, births: Iterator[int], keepalive: int,
        emit: Callable[[Event], None], note: Callable[[str], None], flooded: Callable[[str], None],
        own_connected: Callable[[], None], keep_block: Callable[[str, bytes, str], bool],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.domain, self.node_id, self.credentials, self.context = domain, node_id, credentials, context
        self.codec, self.births, self.keepalive = codec, births, keepalive
        self.emit, self.note, self.flooded, self.keep_block = emit, note, flooded, keep_block
        self.own_connected, self.log = own_connected, BrokerLog(note)
        self.connectors = ThreadPoolExecutor(CONNECT_THREADS, thread_name_prefix="mqtt-peers")
        self.kept_connectors = ThreadPoolExecutor(CONNECT_THREADS // 2, thread_name_prefix="mqtt-kept")
        self.record: NodeRecord | None = None
        self.watching = False
        self.listing: dict[Link, None] = {}  # portals whose list is awaited
        self.counters = {"sent": 0, "received": 0, "refused": 0, "flooded": 0}
        self.portals: dict[str, None] = {}
        self.own = Link(self, node_id, own)
        self.links: dict[str, Link] = {node_id: self.own}
        self._refusals, self._unreachable = Refusals(note), Refusals(note)
        self.refused: dict[str, str] = {}  # whose last message could not be read, and why; for `ipdc-edge doctor`
        self._heard: dict[str, float] = {}  # messages of each sender since the last tick
        self.serving: Callable[[], Serving] = _nobody  # what requests to served models are for
        self.serving_lost: Callable[[str], None] = lambda node: None

    def topic(self, channel: str) -> str:
        """Our topic of a channel."""
        return topic(self.domain, self.node_id, channel)

    def named(self, link: Link) -> str:
        """A broker as people know it."""
        return f"the own broker {link.address}" if link.own else f"the broker of {link.node} at {link.address}"

    def start(self) -> None:
        """Begin to connect to the own broker."""
        self.own.connect()
        self.ticker = self.loop.call_later(self.keepalive / 4, self._tick)

    def _tick(self) -> None:
        self.ticker = self.loop.call_later(self.keepalive / 4, self._tick)
        self._heard.clear()
        for link in list(self.links.values()):
            link.misc()
            if link.connected and link.unseen and self.record is not None:
                link.send(Present(self.record))  # the portal's broker did not know us yet: a refusal is silent
            if not link.kept and link.task is None and self.loop.time() - link.used > IDLE:
                link.close()
                self.drop(link)

    # -- what the core wants done

    def send(self, node: str, address: str, message: Message | Raw) -> None:
        """Publish a message at the broker of a node; connects if need be. May be dropped; the protocol sends
        again."""
        link = self.links.get(node)
        if link is None:
            link = self.links[node] = Link(self, node, address)
        elif not link.own:
            link.move(address)
        link.send(message)

    def keep(self, portals: tuple[tuple[str, str], ...]) -> None:
        """Keep connections to these portals (id, address), and to no others."""
        before, self.portals = self.portals, dict.fromkeys(node for node, _ in portals)
        for node in before:
            if node not in self.portals:
                self._demoted(self.links[node])
        for node, address in portals:
            link = self.links.get(node)
            if link is not None and node not in before:  # its last will must become one that the portal retains
                link.reconnect()
            elif link is None:
                link = self.links[node] = Link(self, node, address)
                link.connect()
            if not link.own:
                link.move(address)

    def _demoted(self, link: Link) -> None:
        """Its node is no portal any more."""
        if link.own:
            return link.reconnect()
        self.emit(PortalLeft(link.node))
        link.close()
        self.drop(link)

    def publish_record(self, record: NodeRecord) -> None:
        """Retain the record at every portal, now and whenever a connection to one is made anew."""
        self.record = record
        for link in self._connected_portals():
            link.send(Present(record))

    def _connected_portals(self) -> list[Link]:
        return [link for node in self.portals if (link := self.links[node]).connected]

    def watch(self, wanted: bool) -> None:
        """Listen to the records that portals retain, or no longer."""
        self.watching = wanted
        links = self._connected_portals()
        self.listing = dict.fromkeys(links) if wanted else {}
        for link in links:
            if wanted:
                self._watch(link)
            elif not link.own:
                link.unsubscribe(*self._filters())

    def _filters(self) -> tuple[str, str]:
        return topic(self.domain, "+", "node"), topic(self.domain, "+", "lost")

    def _watch(self, link: Link) -> None:
        """A broker sends what it retains after it answered the subscription, and before it answers the next one: so
        the answer to a second subscription, which asks for nothing new, says that all records have come."""
        if not link.own:  # there we hear everything anyway
            link.subscribe(*((text, 0) for text in self._filters()))
        link.listed_mid = link.subscribe((self.topic("node"), 0))

    def part(self, nodes: tuple[str, ...]) -> None:
        """These were expelled: say what waits to be said to them, and speak to them no more."""
        for node in nodes:
            self.loop.call_later(PARTING, self._part, node)

    def _part(self, node: str) -> None:
        link = self.links.get(node)
        if link is not None and not link.kept:  # kept: it has joined again meanwhile, and is a portal
            link.close()
            self.drop(link)

    def reconnect(self) -> None:
        """This node's own address changed: connections from the old one are dead, and nobody will say so."""
        for link in list(self.links.values()):
            if not link.own:
                link.reconnect()

    # -- called by links

    def asked(self, text: str, payload: bytes, properties: Any) -> None:
        """A program of this node asks a served model."""
        self.serving().asked(text, payload, properties)

    def connected(self, link: Link) -> None:
        """A connection stands: subscribe, and show the record where it belongs."""
        if link.own:
            link.subscribe((topic(self.domain, "+", "+"), 1), (FILTER, 0), *((text, 1) for text in ASKED))
            self.own_connected()
        if link.node in self.portals:
            if not link.own:  # there we hear everything anyway
                link.subscribe((self.topic("node"), 0))
            link.publish(self.topic("lost"), b"", retain=True)  # the will of the connection before is void
            if self.record is not None:
                link.send(Present(self.record))
            if not link.connected:
                return  # it broke meanwhile
            if not link.own:
                self.emit(PortalJoined(link.node))
            if self.watching:
                self.listing[link] = None
                self._watch(link)

    def listed(self, link: Link) -> None:
        """Everything that a portal retains has come, or it is gone and nothing comes any more."""
        if self.watching and link in self.listing:
            del self.listing[link]
            self.emit(RecordsListed(link.node, len(self.listing)))

    def disconnected(self, link: Link) -> None:
        """A standing connection broke."""
        self.listed(link)
        if link.node in self.portals and not link.own:
            self.emit(PortalLeft(link.node))

    def drop(self, link: Link) -> None:
        """A link is of no use any more."""
        if self.links.get(link.node) is link:
            del self.links[link.node]

    def unreachable(self, link: Link, reason: str) -> None:
        """A peer cannot be reached: what waited for it is dropped, and the core told."""
        link.queue.clear()
        self.serving_lost(link.node)
        self._unreachable.tell(link.node, f"{self.named(link)} cannot be reached: {reason}")
        if not link.kept:
            self.drop(link)
        self.emit(PeerUnreachable(link.node, reason[:200]))

    def received(self, link: Link, text: str, payload: bytes) -> None:
        """A message from a broker we listen to: decode it, or say once in a while who sends nonsense."""
        if not payload and text.endswith(("/lost", "/node")):  # it is retained no more
            return
        if text.startswith("$"):
            return self.log.heard(payload.decode("utf-8", "replace"))
        if link.own and self._too_many(text):
            return
        try:
            sender, channel = parse_topic(text, self.domain)
            if channel in SERVING:
                return self.serving().heard(sender, channel, payload) if link.own else None
            birth, message = self.codec.decode(channel, payload)
        except BadMessage as error:
            return self._refuse(text, error)
        self.counters["received"] += 1
        self.refused.pop(sender, None)
        if isinstance(message, Present) and sender == self.node_id:
            link.unseen = b"" if payload == link.unseen else link.unseen
            return
        self.emit(MessageReceived(OWN if link.own else link.node, sender, birth, message))

    def _too_many(self, text: str) -> bool:
        """Whether its sender has said more than anybody's work takes; told once."""
        sender = _sender(text)
        if len(self._heard) >= MOST_SENDERS:
            self._heard.clear()  # one tick's counts; senders are members, so there are never so many
        weight = 1 / LIGHT if text.endswith(_SERVING) else 1
        before = self._heard.get(sender, 0)
        count = self._heard[sender] = before + weight
        most = FLOOD * self.keepalive / 4
        if count <= most:
            return False
        self.counters["flooded"] += 1
        if before <= most and sender != self.node_id:
            self.flooded(sender)
        return True

    def _refuse(self, text: str, error: BadMessage) -> None:
        self.counters["refused"] += 1
        sender = _sender(text)
        if len(self.refused) < MOST_SENDERS:
            self.refused[sender] = str(error)[:200]
        self._refusals.tell(sender, f"refused a message of {sender!r}: {error}")

    def close(self) -> None:
        """Say goodbye everywhere."""
        self.ticker.cancel()
        for link in list(self.links.values()):
            link.close()
        self.connectors.shutdown(wait=False, cancel_futures=True)
        self.kept_connectors.shutdown(wait=False, cancel_futures=True)


def _nobody() -> Serving:
    raise RuntimeError("no daemon is there")


def _sender(text: str) -> str:
    """Who a topic says speaks; the broker has checked it."""
    return text.split("/")[3][:60] if text.count("/") >= 4 else text[:60]
