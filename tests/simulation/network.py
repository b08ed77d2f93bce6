"""The network between simulated nodes: links to brokers, what brokers retain and tell, and what cuts do to both.

Owns connections as the daemon's `drivers/mqtt.py` makes them: opened when there is something to say, each with a birth
number of its own and a last will that the broker publishes when it breaks. A cut is of a direction: who cannot connect
to whom. What is sent into a cut waits in the sender's socket; it arrives late if the cut heals before the keepalive
notices it, else it is lost with the link. `Weather` does to single messages what a network may: dropped, doubled,
delayed, and so overtaken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipdc_edge.core import events as e
from ipdc_edge.core.messages import Lost, Message, Present
from ipdc_edge.core.values import NodeRecord

if TYPE_CHECKING:
    from .node import SimNode
    from .world import World

KEEPALIVE = (10.0, 15.0)  # seconds until both sides notice that a connection is dead
REFUSED, SILENT = 0.2, (3.0, 8.0)  # seconds of a try to connect: where nothing listens, where nothing answers
UNSEEN = 2.5  # seconds after which a record that a portal has not shown back is published again


@dataclass(frozen=True)
class Weather:
    """What the network does to messages: shares from 0 to 1, delays in seconds."""

    drop: float = 0.0
    double: float = 0.0
    delay: tuple[float, float] = (0.001, 0.02)


CALM = Weather()
STORM = Weather(drop=0.05, double=0.05, delay=(0.001, 1.5))
WORSE = Weather(drop=0.3, double=0.3, delay=(0.0, 4.0))


@dataclass(slots=True)
class Link:
    """A connection that stands: from a node to the broker of another, as the broker was then."""

    source: SimNode
    broker: Broker
    birth: int
    boot: int  # of the broker
    stuck: list[tuple[str, bytes]] = field(default_factory=list)  # sent into a cut


class Broker:
    """One node's: who is connected, what is retained, who listens to the records."""

    def __init__(self, node: SimNode) -> None:
        self.node, self.up, self.boot = node, True, 0
        self.sessions: dict[str, Link] = {}
        self.records: dict[str, tuple[int, NodeRecord]] = {}
        self.wills: dict[str, int] = {}
        self.watchers: dict[str, SimNode] = {}

    def restart(self) -> None:
        """A new process: it knows nothing of the old one's."""
        self.boot += 1
        self.sessions, self.records, self.wills, self.watchers = {}, {}, {}, {}


class Network:
    """All brokers and links of a world, and what is cut."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world, self.weather = world, weather
        self.cuts: dict[tuple[str, str], int] = {}  # (from, to) -> how many cuts are between them
        self.alone: dict[str, int] = {}  # likewise of a node and everybody else
        self.disturbances: dict[object, Callable[[str, str], Weather | None]] = {}
        self.carried = self.bytes = 0

    # -- cuts

    def passes(self, source: str, target: str) -> bool:
        """Whether the source can open a connection to the target, and what it sends arrives."""
        if source == target:
            return True
        return not (self.alone and (self.alone.get(source) or self.alone.get(target))
                    or self.cuts and self.cuts.get((source, target)))

    def cut(self, pairs: list[tuple[str, str]]) -> None:
        """From now on nothing passes from the first to the second of a pair."""
        for pair in pairs:
            self.cuts[pair] = self.cuts.get(pair, 0) + 1
        self._noticed_later({pair[0]: None for pair in pairs})

    def heal(self, pairs: list[tuple[str, str]]) -> None:
        """One cut less."""
        for pair in pairs:
            self.cuts[pair] -= 1
        self._flush({pair[0]: None for pair in pairs})

    def isolate(self, node: str) -> None:
        """Nothing passes between this node and any other."""
        self.alone[node] = self.alone.get(node, 0) + 1
        self._noticed_later(self._around(node))

    def join(self, node: str) -> None:
        """One isolation less."""
        self.alone[node] -= 1
        self._flush(self._around(node))

    def _around(self, node: str) -> dict[str, None]:
        return {node: None, **dict.fromkeys(self.world.by_id[node].broker.sessions)}

    def _links(self, nodes: dict[str, None]) -> list[Link]:
        return [link for node in nodes for link in list(self.world.by_id[node].connections.links.values())]

    def _noticed_later(self, nodes: dict[str, None]) -> None:
        for link in self._links(nodes):
            if not self.passes(link.source.id, link.broker.node.id):
                self.world.after(self.world.between(KEEPALIVE), self._notice, link)

    def _notice(self, link: Link) -> None:
        if not self.passes(link.source.id, link.broker.node.id):
            self.end_session(link)
            link.source.broke(link)

    def _flush(self, nodes: dict[str, None]) -> None:
        for link in self._links(nodes):
            if link.stuck and self.passes(link.source.id, link.broker.node.id):
                stuck, link.stuck = link.stuck, []
                for channel, payload in stuck:
                    self._carry(link, channel, payload)

    # -- connections

    def listens(self, node: SimNode, source: SimNode) -> bool:
        """Whether a node's broker takes a connection of the source."""
        known = node.members.member(source.id) is not None
        return node.broker.up and known and self.passes(source.id, node.id)

    def patience(self, node: SimNode, source: SimNode) -> float:
        """Seconds until the source knows that it cannot connect."""
        silent = node.dark or not self.passes(source.id, node.id)
        return self.world.between(SILENT) if silent else REFUSED

    def connect(self, source: SimNode, target: SimNode, birth: int) -> Link:
        """A new connection; one that the broker still had of the same node ends, and its will is published."""
        broker = target.broker
        old = broker.sessions.get(source.id)
        if old is not None:
            self.end_session(old)
        link = broker.sessions[source.id] = Link(source, broker, birth, broker.boot)
        if target.id in source.connections.portals:
            broker.wills.pop(source.id, None)  # the connection clears its own
        return link

    def end_session(self, link: Link, will: bool = True) -> None:
        """The broker sees that a connection is gone, and publishes its will, unless it was closed with a goodbye."""
        broker, source = link.broker, link.source
        if broker.sessions.get(source.id) is not link:
            return
        del broker.sessions[source.id]
        broker.watchers.pop(source.id, None)
        if not will:
            return
        broker.node.handle(e.MessageReceived(e.OWN, source.id, link.birth, Lost()))
        if broker.node.id in source.connections.portals and broker.node.members.member(source.id) is not None:
            broker.wills[source.id] = link.birth
            told = e.MessageReceived(broker.node.id, source.id, link.birth, Lost())
            for watcher in list(broker.watchers.values()):
                watcher.handle(told)

    # -- messages

    def send(self, link: Link, message: Message) -> tuple[tuple[str, bytes], ...]:
        """One message, through the real codec; the blocks that must be content before it leaves."""
        encoded = self.world.codec.encode(message, link.birth)
        self.carried += 1
        self.bytes += len(encoded.payload)
        if self.passes(link.source.id, link.broker.node.id):
            self._carry(link, encoded.channel, encoded.payload)
        else:
            link.stuck.append((encoded.channel, encoded.payload))
        return encoded.blocks

    def _carry(self, link: Link, channel: str, payload: bytes) -> None:
        world = self.world
        if channel == "node" and link.broker.node.id in link.source.connections.portals:
            # the daemon repeats it until the portal has it
            return world.after(world.between(CALM.delay), self._arrive, link, channel, payload)
        source, target = link.source.id, link.broker.node.id
        weathers = [self.weather]
        weathers += [found for touches in self.disturbances.values() if (found := touches(source, target))]
        copies, delay = 1, 0.0
        for weather in weathers:
            if weather.drop and world.random.random() < weather.drop:
                copies = 0
            if weather.double and world.random.random() < weather.double:
                copies *= 2
        for _ in range(copies):
            delay = sum(world.between(weather.delay) for weather in weathers)
            world.after(delay, self._arrive, link, channel, payload)

    def _arrive(self, link: Link, channel: str, payload: bytes) -> None:
        broker = link.broker
        if not broker.up or broker.boot != link.boot:
            return
        birth, message = self.world.codec.decode(channel, payload)
        sender = link.source.id
        if isinstance(message, Present) and broker.node.id in link.source.connections.portals:
            self._retain(broker, sender, birth, message)
        broker.node.handle(e.MessageReceived(e.OWN, sender, birth, message))

    def _retain(self, broker: Broker, sender: str, birth: int, message: Present) -> None:
        """A node's record comes to a portal's broker, which lets only members in; who is refused tries again."""
        if broker.node.members.member(sender) is None:
            self.world.after(UNSEEN, self.world.by_id[sender].connections.show, broker.node.id)
            return
        broker.records[sender] = (birth, message.record)
        if broker.watchers:
            told = e.MessageReceived(broker.node.id, sender, birth, message)
            for watcher in list(broker.watchers.values()):
                watcher.handle(told)

    def retained(self, broker: Broker) -> list[tuple[str, int, Any]]:
        """What a new subscription to the records begins with: (node, birth, message)."""
        records = [(node, birth, Present(record)) for node, (birth, record) in broker.records.items()]
        return [*records, *((node, birth, Lost()) for node, birth in broker.wills.items())]
