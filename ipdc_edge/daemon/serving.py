"""Requests to served models: from this node's programs and from other nodes' daemons, to the nodes that serve.

Owns which node is asked, asking another one where that does not answer, and the bounds of what waits here for others.
The places of this node are `places.py`. A request may be asked twice: inference changes nothing. Loaded when the first
request comes or the first place opens, never by an idle daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

from ..codec import serving as codec
from ..core.values import NodeRecord
from ..drivers.mqtt_link import Raw, answer_properties
from ..drivers.refusals import Refusals
from .background import note
from .places import Place, Reply, Request
from .serving_health import ask_health

if TYPE_CHECKING:
    from .daemon import Daemon

MOST_ASKED = 256  # requests of this node's programs that wait for answers ...
MOST_ASKED_BYTES = 16 << 20  # ... and their bytes
MOST_TO_ONE, MOST_BYTES_TO_ONE = 64, 1 << 20  # requests that another node has at once: its broker drops what is beyond
AGAIN = 20.0  # seconds after which a request that was not answered is made once more: it may have been lost
WITHIN = 60.0  # seconds in which any node has to answer
QUIET = 2.0  # seconds without a word of a node that is asked, until it is asked whether it is there ...
GONE = 2.0  # ... and after that, until it counts as gone
SHUNNED = 5.0  # seconds in which a node that was gone is not asked, whatever its record says
LOOK_EVERY = 1.0  # seconds between two looks at who serves
NEWS = 3.0  # seconds after which what is known of who serves is looked at again
TICK = 0.25
REMEMBERED = 30.0  # seconds in which a topic that nobody serves now may be served again by somebody
TOO_MANY = "this node has too many requests under way"
LOCAL = "this node"  # the sender of this node's own programs' requests


class Asked:
    """A request of this node's, until it is answered."""

    __slots__ = ("topic", "what", "kind", "name", "body", "reply", "until", "again", "node",
                 "of", "held", "tried", "busy")

    def __init__(self, topic: str, what: str, kind: str, name: str, body: bytes, reply: Reply) -> None:
        self.topic, self.what, self.kind, self.name, self.body, self.reply = topic, what, kind, name, body, reply
        self.until = time.monotonic() + WITHIN
        self.again = time.monotonic() + AGAIN
        self.node = ""  # who was asked last
        self.of: set[str] = set()  # who was ever asked: the first answer of any of them counts
        self.held: set[str] = set()  # ... and has not said that it does not have it, and is not lost
        self.tried: set[str] = set()
        self.busy = False  # whether anybody said so


class Serving:
    """Of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.places: dict[str, list[Place]] = {}  # by topic; several where several jobs have it: the last is asked
        self.asked_now: dict[int, Asked] = {}
        self.bytes = 0
        self.healths = 0  # questions of this node's programs about health (serving_health.py)
        self.number = int.from_bytes(os.urandom(5), "big") << 20  # of no request before this start
        self.known: dict[str, dict[str, str]] = {}  # topic -> node that serves it -> its name
        self.served_at: dict[str, float] = {}  # when anybody was seen to serve a topic
        self.looked_at = -NEWS
        self.looking: asyncio.Task[None] | None = None
        self.heard_at: dict[str, float] = {}  # of nodes that have requests of ours: the last word
        self.pinged: dict[str, float] = {}
        self.shunned: dict[str, float] = {}
        self.ticker: asyncio.TimerHandle | None = None
        self.refusals = Refusals(note)
        self.counters = {"asked": 0, "refused": 0, "busy": 0, "again": 0}

    # -- places of this node

    def words(self) -> tuple[str, ...]:
        """What the node's record says of it."""
        return tuple(codec.SERVES + topic for topic in sorted(self.places)[: codec.MOST_TOPICS])

    def open(self, place: Place) -> None:
        """A runner is loaded: requests may come. Of two jobs on one topic the newer one gets them, while it lasts."""
        self.places.setdefault(place.topic, []).append(place)
        self.daemon.offer.tell()

    def close(self, place: Place) -> None:
        """A place is given up. Safe to call twice."""
        there = self.places.get(place.topic, [])
        if place in there:
            there.remove(place)
            if not there:
                del self.places[place.topic]
                self.known.get(place.topic, {}).pop(self.daemon.id, None)
                self.daemon.offer.tell()
        place.close()

    def place(self, topic: str) -> Place | None:
        """Where this node's requests on a topic go."""
        return self.places[topic][-1] if topic in self.places else None

    # -- from this node's programs

    def asked(self, text: str, payload: bytes, properties: Any) -> None:
        """A request by MQTT at the own broker."""
        correlation = getattr(properties, "CorrelationData", b"")[: codec.MOST_CORRELATION + 1]
        to = str(getattr(properties, "ResponseTopic", ""))
        if not codec.ANSWER_TOPIC.fullmatch(to):
            self.counters["refused"] += 1
            reason = f"a response topic below {codec.ANSWERS} is needed, and was {to[:100]!r}"
            return self._publish(codec.UNANSWERABLE, correlation, codec.error_body(reason))

        def reply(state: str, body: bytes) -> None:
            self._publish(to, correlation, body)

        try:
            found = codec.address(text)
            if found is None:
                raise codec.BadInference(reason=f"{text[:100]!r} is no topic to ask on: {codec.ROOT}TOPIC/request is")
            if len(payload) > codec.MOST_REQUEST:
                raise codec.BadInference(reason=f"a request of {len(payload)} bytes; at most {codec.MOST_REQUEST}")
            if len(correlation) > codec.MOST_CORRELATION:
                correlation = b""
                raise codec.BadInference(reason=f"correlation data of more than {codec.MOST_CORRELATION} bytes")
            if found[1] == "health":
                if len(self.asked_now) + self.healths >= MOST_ASKED:
                    self.counters["busy"] += 1
                    return reply("busy", busy_body(TOO_MANY))
                return ask_health(self, found[0], reply)
            kind = codec.kind_of(str(getattr(properties, "ContentType", "")), payload)
            words = dict(getattr(properties, "UserProperty", ()))
            name = str(words.get("name", ""))
            if not codec.NAME.fullmatch(name):
                raise codec.BadInference(reason="a name that is not up to 100 letters of ASCII")
        except codec.BadInference as error:
            self.counters["refused"] += 1
            return reply("error", codec.error_body(str(error)))
        self.ask(Asked(found[0], "predict", kind, name, payload, reply))

    def _publish(self, to: str, correlation: bytes, body: bytes) -> None:
        self.daemon.mqtt.own.publish(to, body, False, 0, answer_properties(correlation))

    def ask(self, asked: Asked) -> None:
        """Has somebody answer it; says so at once where this node holds too many already."""
        self.counters["asked"] += 1
        if len(self.asked_now) >= MOST_ASKED or self.bytes + len(asked.body) > MOST_ASKED_BYTES:
            self.counters["busy"] += 1
            return asked.reply("busy", busy_body(TOO_MANY))
        self.number += 1
        self.asked_now[self.number] = asked
        self.bytes += len(asked.body)
        if self.ticker is None:
            self.ticker = self.daemon.loop.call_later(TICK, self._tick)
        if time.monotonic() - self.looked_at > NEWS:
            self.look()
        self._place(self.number, asked)

    def ask_one(self, node: str, topic: str, reply: Reply) -> int:
        """Asks a node for its health of a topic; its number in `asked_now`, until it is answered."""
        asked = Asked(topic, "health", "json", "", b"", reply)
        self.number += 1
        self.asked_now[self.number], asked.node, asked.of = asked, node, {node}
        self.heard_at.setdefault(node, time.monotonic())
        self._send_to(node, self.number, asked)
        if self.ticker is None:
            self.ticker = self.daemon.loop.call_later(TICK, self._tick)
        return self.number

    def _over(self, number: int, state: str, body: bytes) -> None:
        asked = self.asked_now.pop(number, None)
        if asked is not None:
            self.bytes -= len(asked.body)
            asked.reply(state, body)

    def _place(self, number: int, asked: Asked) -> None:
        """Gives it to the node that serves its topic and has the fewest requests of ours."""
        asked.node = ""
        serve = self.known.get(asked.topic, {})
        own = self.place(asked.topic)
        candidates = [node for node in serve if node not in asked.tried and node != self.daemon.id]
        loads, sizes = dict.fromkeys(candidates, 0), dict.fromkeys(candidates, len(asked.body))
        if candidates:
            for other in self.asked_now.values():
                if other.node in loads:
                    loads[other.node] += 1
                    sizes[other.node] += len(other.body)
            full = [node for node in candidates if loads[node] >= MOST_TO_ONE or sizes[node] > MOST_BYTES_TO_ONE]
            for node in full:
                asked.busy = True
                del loads[node]
        if own is not None and self.daemon.id not in asked.tried:
            loads[self.daemon.id] = own.load()
        if not loads:
            return self._nobody(number, asked)
        asked.node = node = min(loads, key=lambda one: (loads[one], one != self.daemon.id))
        asked.of.add(node)
        asked.held.add(node)
        if node == self.daemon.id and own is not None:
            return own.ask(Request(asked.kind, asked.name, asked.body, LOCAL, number,
                                   lambda state, body: self._answered(node, number, state, body)))
        self.heard_at.setdefault(node, time.monotonic())
        self._send_to(node, number, asked)

    def _send_to(self, node: str, number: int, asked: Asked) -> None:
        self._send(node, codec.Infer(number, asked.topic, asked.what, asked.kind, asked.name, self._address(),
                                     asked.body))

    def _nobody(self, number: int, asked: Asked) -> None:
        """Nobody is left to ask: somebody has it, all are busy, or nobody serves it; then it waits for somebody who may
        yet come."""
        if asked.held:  # who knows it where it is only slow, and takes it where it was lost
            asked.node = node = min(asked.held)
            if node != self.daemon.id:
                self.heard_at.setdefault(node, time.monotonic())
                self._send_to(node, number, asked)
            return None
        if asked.busy:
            return self._over(number, "busy", busy_body(f"all nodes that serve {asked.topic} are busy"))
        now = time.monotonic()
        lately = now - self.served_at.get(asked.topic, -REMEMBERED) < REMEMBERED
        if self.looking is None and now - self.looked_at < LOOK_EVERY and not lately:
            return self._over(number, "error", codec.error_body(f"no node serves {asked.topic}"))
        asked.tried.clear()
        if now - self.looked_at >= LOOK_EVERY:
            self.look()

    def _answered(self, node: str, number: int, state: str, body: bytes) -> None:
        """A node has said something of a request of ours."""
        asked = self.asked_now.get(number)
        if asked is None or node not in asked.of:
            return None
        if state in ("ok", "error") or asked.what == "health":
            return self._over(number, state, body)
        asked.tried.add(node)
        asked.held.discard(node)
        asked.busy = asked.busy or state == "busy"
        if state == "elsewhere":
            self.known.get(asked.topic, {}).pop(node, None)
        if asked.node != node:
            return None  # another one has it
        self.counters["again"] += 1
        self._place(number, asked)

    # -- who serves

    def look(self) -> None:
        """Sees soon who serves what."""
        if self.looking is None:
            self.looking = self.daemon.background.start(self._looked())

    async def _looked(self) -> None:
        try:
            await self.daemon.look()
            now = time.monotonic()
            self.shunned = {node: until for node, until in self.shunned.items() if until > now}
            self.known = {}
            for record in self.daemon.node.membership.candidates():
                self._learn(record, now)
            self.looked_at = now
        finally:
            self.looking = None
        for number, asked in list(self.asked_now.items()):
            if not asked.node:
                self._place(number, asked)

    def _learn(self, record: NodeRecord, now: float) -> None:
        for word in record.capabilities:
            topic = word.removeprefix(codec.SERVES)
            if topic == word or record.id in self.shunned or record.id == self.daemon.id and topic not in self.places:
                continue
            self.known.setdefault(topic, {})[record.id] = record.name
            self.served_at[topic] = now
        if len(self.served_at) > 1000:
            self.served_at.clear()

    def lost(self, node: str) -> None:
        """A node cannot be reached: what it had is asked of others."""
        self.shunned[node] = time.monotonic() + SHUNNED
        self.heard_at.pop(node, None)
        self.pinged.pop(node, None)
        for serve in self.known.values():
            serve.pop(node, None)
        for number, asked in list(self.asked_now.items()):
            asked.held.discard(node)
            if asked.node == node:
                asked.tried.add(node)
                if asked.what == "health":
                    self._over(number, "error", b"")
                    continue
                self.counters["again"] += 1
                self._place(number, asked)

    def _tick(self) -> None:
        """Looks after what waits; ends by itself when nothing does."""
        now = time.monotonic()
        busy: dict[str, bool] = {}
        for number, asked in list(self.asked_now.items()):
            if now > asked.until:
                self._over(number, "error", codec.error_body(f"no answer within {WITHIN:g} s"))
            elif not asked.node:
                self._place(number, asked)
            elif asked.node != self.daemon.id:
                busy[asked.node] = True
                if now > asked.again and asked.what != "health":
                    self._again(number, asked)
        for node in busy:
            quiet = now - self.heard_at.get(node, now)
            if now - self.pinged.get(node, now) > GONE:
                self.lost(node)
            elif quiet > QUIET and node not in self.pinged:
                self.pinged[node] = now
                topic = next(asked.topic for asked in self.asked_now.values() if asked.node == node)
                self._send(node, codec.Infer(0, topic, "health", "json", "", self._address(), b""))
        self.heard_at = {node: at for node, at in self.heard_at.items() if node in busy}
        self.pinged = {node: at for node, at in self.pinged.items() if node in busy}
        self.ticker = self.daemon.loop.call_later(TICK, self._tick) if self.asked_now else None

    def _again(self, number: int, asked: Asked) -> None:
        """It may have been lost, or wait where much does. Another node is asked where one has room, else the same."""
        asked.again, asked.tried = asked.until, set(asked.held)
        self.counters["again"] += 1
        self._place(number, asked)

    # -- to and from other daemons

    def _address(self) -> str:
        return self.daemon.node.membership.own.mqtt

    def _send(self, node: str, asked: codec.Infer) -> None:
        address = self.daemon.node.membership.addresses.get(node, ("", ""))[0]
        if address and self.daemon.domain.admits(node):
            self.daemon.mqtt.send(node, address, Raw(codec.INFER, codec.encode_infer(asked)))
        else:
            self.daemon.loop.call_soon(self.lost, node)

    def heard(self, sender: str, channel: str, payload: bytes) -> None:
        """What another node's daemon says on one of the two channels."""
        if not self.daemon.domain.admits(sender):
            return
        try:
            if channel == codec.ANSWER:
                answer = codec.decode_answer(payload)
                self.heard_at[sender] = time.monotonic()
                self.pinged.pop(sender, None)
                return self._answered(sender, answer.number, answer.state, answer.body)
            self._serve(sender, codec.decode_infer(payload))
        except codec.BadInference as error:
            self.refusals.tell(sender, f"refused a message of {sender!r} on {channel}: {error}")

    def _serve(self, sender: str, asked: codec.Infer) -> None:
        """Another node asks a model that is served here, as far as it knows."""
        def reply(state: str, body: bytes) -> None:
            if self.daemon.domain.admits(sender):
                payload = codec.encode_answer(codec.Answer(asked.number, state, body))
                self.daemon.mqtt.send(sender, asked.address, Raw(codec.ANSWER, payload))

        place = self.place(asked.topic)
        if asked.what == "health":
            health = place.health() if place is not None else {}
            return reply("ok" if place is not None else "elsewhere", json.dumps(health).encode())
        if place is None:
            return reply("elsewhere", b"")
        place.ask(Request(asked.kind, asked.name, asked.body, sender, asked.number, reply))


def busy_body(reason: str) -> bytes:
    """What who asked is told where there is no room: to ask again later."""
    return codec.error_body(f"busy: {reason}", busy=True)


