"""The nodes of the domain as far as this node sees them, and what this node says of itself.

Owns: the records of other nodes with what each portal testifies of them, everybody's addresses, which portals to
keep a connection to, and when this node's own record is published anew. A node counts as gone only when no portal
says otherwise; a portal whose connection broke testifies nothing, and with no portal left the nodes last seen are
remembered as they were, and asked directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .effects import Effect, KeepPortals, PublishRecord, Save, Send, WatchRecords
from .events import OWN
from .machine import BrokenInvariant, require
from .messages import Ask, Present
from .timing import NEVER
from .values import MemberList, NodeRecord, Vitals

REFRESH = 15.0  # seconds: a record is published at most this often ...
CONNECTIONS = 1 << 20  # a birth number: the number of the node's start times this, plus a count of connections
UNKNOWN = -1  # the number of a start, while a node has not spoken
STALE = 300.0  # ... and at least this often while anybody could care
WATCH = 30.0  # seconds that watching goes on after somebody looked
SAVED = 30.0  # seconds: addresses are made durable at most this often
ASKED = 5.0  # seconds between two rounds of asking everybody, while there is no portal
DIRECT = "direct"  # stands for the node itself where a portal testifies: it told us, or could not be reached
LISTED_LATE = 1.0  # seconds to wait for a portal's list before placing with what is known


@dataclass(slots=True)
class Peer:
    """Another node: its newest record, and for each portal the newest birth number and whether it was alive then."""

    record: NodeRecord
    testimony: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def alive(self) -> bool:
        return not self.testimony or any(alive for _, alive in self.testimony.values())


class Membership:
    """The node's picture of its domain."""

    def __init__(self, own: NodeRecord, members: MemberList) -> None:
        self.own = own
        self.portals = members.portals
        self.connected: dict[str, None] = {}  # portals to which a connection stands
        self.peers: dict[str, Peer] = {}
        self.heard: dict[str, int] = {}  # newest birth number of each peer's connections to our own broker
        self.addresses: dict[str, tuple[str, str]] = {own.id: (own.mqtt, own.gateway)}  # (broker, gateway)
        self.effects: list[Effect] = []
        self.listed = False  # whether every portal has listed all its records since watching began
        self.starts: dict[str, int] = {}  # of each peer, the newest number of its starts
        self.watch_until = 0.0
        self.watching_since: float | None = None
        self.ask_at = 0.0
        self._published: tuple[NodeRecord, float] | None = None
        self._changed = True
        self._kept: KeepPortals | None = None
        self._unsaved: dict[str, None] = {}  # peers whose addresses changed since they were saved ...
        self._saved_at = 0.0  # ... then

    # -- this node's own record

    def measured(self, vitals: Vitals, now: float) -> None:
        """Take in new vitals; publish when they differ enough to matter."""
        self.own = replace(self.own, vitals=vitals)
        if self._published is None or _material(self._published[0], self.own):
            self._changed = True
        self.publish_if_due(now)

    def begin_as(self, state: str) -> None:
        """What the node is from its start on; it is told with the first vitals."""
        self.own = replace(self.own, state=state)

    def set_state(self, state: str, now: float) -> None:
        """Become ready, draining or gone; told to the portals at once."""
        self.own = replace(self.own, state=state)
        self._publish(now)

    def offer(self, capabilities: tuple[str, ...], slots: int, unable: tuple[str, ...], now: float) -> None:
        """What this node can do, how much at once, and what not; told to the portals at once."""
        self.own = replace(self.own, capabilities=capabilities, slots=slots, unable=unable)
        self._publish(now)

    def publish_if_due(self, now: float) -> None:
        """Publish the record if it changed and the last one is old enough, or if it grew stale."""
        if self._published is None:
            if self.own.vitals.memory_total:
                self._publish(now)
            return
        if now >= self._due():
            self._publish(now)

    def _due(self) -> float:
        """When the record is to be published anew."""
        return self._published[1] + (REFRESH if self._changed else STALE) if self._published else NEVER

    def _publish(self, now: float) -> None:
        self._published, self._changed = (self.own, now), False
        self.effects.append(PublishRecord(self.own))

    def moved(self, mqtt: str, gateway: str, partners: Iterable[str], now: float) -> None:
        """This node is reached elsewhere: tell the portals, and at once whoever needs to know: the `partners` in jobs,
        and everybody when this node is a portal."""
        self.own = replace(self.own, mqtt=mqtt, gateway=gateway)
        self.addresses[self.own.id] = (mqtt, gateway)
        self._publish(now)
        told = [*partners, *(self.addresses if self.is_portal else ())]
        for node in dict.fromkeys(told):
            if node != self.own.id and node in self.addresses:
                self.effects.append(Send(node, self.addresses[node][0], Present(self.own)))

    # -- portals

    @property
    def is_portal(self) -> bool:
        """Whether the others meet at this node's broker."""
        return self.own.id in self.portals

    def admitted(self, members: MemberList, now: float) -> None:
        """The member list changed: forget who is not on it, keep to its portals, and show which one we hold."""
        self.portals = members.portals
        for node in list(self.addresses):
            if node != self.own.id and members.member(node) is None:
                del self.addresses[node]
                self.peers.pop(node, None)
                self._unsaved.pop(node, None)
        self.own = replace(self.own, members=members.version)
        self._publish(now)
        self.keep_portals()
        if self.watching_since is not None:  # a newcomer's record may have come before the list that has it
            self.listed = False
            self.effects.append(WatchRecords(True))
        if any(node not in self.addresses for node in self.portals):
            self.watch(now + WATCH, now)  # a portal's own record, at another portal, says where it is

    def keep_portals(self) -> None:
        """Say which portals to keep a connection to, and where, if that is not what was said last."""
        known = tuple((node, self.addresses[node][0]) for node in self.portals if node in self.addresses)
        if self._kept is None or self._kept.portals != known:
            self._kept = KeepPortals(known)
            self.effects.append(self._kept)

    def portal_joined(self, portal: str) -> None:
        """A connection to a portal stands: from now on it testifies."""
        self.connected[portal] = None

    def portal_left(self, portal: str) -> None:
        """What a portal said of others counts no more, unless nobody else ever said anything."""
        self.connected.pop(portal, None)
        for peer in self.peers.values():
            if len(peer.testimony) > 1:
                peer.testimony.pop(portal, None)

    def has_portal(self) -> bool:
        """Whether any portal can tell us who is there."""
        return bool(self.connected) or self.is_portal

    # -- others

    def remember(self, node: str, mqtt: str, gateway: str) -> None:
        """Addresses known from before this start, or told when the node joined."""
        if node != self.own.id:
            self.addresses[node] = (mqtt, gateway)

    def record_heard(self, broker: str, birth: int, record: NodeRecord) -> None:
        """A node's record, shown by a portal or by the node itself at our broker. An older connection's one is late
        and ignored."""
        if record.id == self.own.id:
            return
        portal = DIRECT if broker == OWN and not self.is_portal else broker
        peer = self.peers.get(record.id)
        if peer is None:
            peer = self.peers[record.id] = Peer(record)
        known = peer.testimony.get(portal)
        if known is not None and birth < known[0]:
            return
        elsewhere = {other: born for other, (born, alive) in peer.testimony.items() if alive and other != portal}
        # A portal that was cut off may show an old one, and one that lies anything: what a node said at our own broker,
        # where nobody speaks but itself, counts more.
        if broker == OWN or (OWN not in elsewhere and birth >= max(elsewhere.values(), default=0)):
            peer.record = record
            self.learn(record.id, record.mqtt, record.gateway)
        if portal != DIRECT:
            peer.testimony.pop(DIRECT, None)
        elif self.has_portal():
            return  # it only told us: the portals testify
        else:
            peer.testimony.clear()
        peer.testimony[portal] = (birth, record.state != "gone")

    def loss_heard(self, portal: str, birth: int, node: str) -> None:
        """A portal's broker says that a node's connection broke."""
        peer = self.peers.get(node)
        if portal == OWN and not self.is_portal:
            portal = DIRECT
            if peer is not None and DIRECT not in peer.testimony:
                return
        if peer is not None and birth >= peer.testimony.get(portal, (0, True))[0]:
            peer.testimony[portal] = (birth, False)

    def unreachable(self, node: str) -> None:
        """No connection to a peer could be had: with no portal to ask, that is all there is to know."""
        peer = self.peers.get(node)
        if peer is not None and not self.has_portal():
            peer.testimony = {DIRECT: (self.heard.get(node, 0), False)}

    def found(self, node: str, mqtt: str) -> None:
        """A member answers at an address that was only guessed."""
        known = self.addresses.get(node, ("", ""))
        if known[0] != mqtt:
            self.learn(node, mqtt, known[1])

    def peer_spoke(self, node: str, birth: int) -> bool:
        """A peer's message came over our own broker on a connection of this birth; whether it is the first one since
        the peer started, as far as we know."""
        self.heard[node] = max(birth, self.heard.get(node, 0))
        before, start = self.starts.get(node, UNKNOWN), birth // CONNECTIONS
        self.starts[node] = max(start, before)
        return start > before

    def is_stale(self, node: str, birth: int) -> bool:
        """Whether a loss is of a connection older than one that we heard from since."""
        return birth < self.heard.get(node, 0)

    def learn(self, node: str, mqtt: str, gateway: str) -> None:
        """A peer told its addresses. They outlive a restart, but for those of the last moment: flash is precious, and a
        peer may say what it likes how often it likes."""
        if self.addresses.get(node) != (mqtt, gateway) and node != self.own.id:
            self.addresses[node] = (mqtt, gateway)
            self._unsaved[node] = None
            if node in self.portals:
                self.keep_portals()

    def _save_addresses(self, now: float) -> None:
        self._saved_at = now
        for node in self._unsaved:
            mqtt, gateway = self.addresses[node]
            self.effects.append(Save("peer", node, {"mqtt": mqtt, "gateway": gateway}))
        self._unsaved.clear()

    def present(self) -> tuple[str, ...]:
        """The peers that are there."""
        return tuple(node for node, peer in self.peers.items() if peer.alive())

    def candidates(self) -> list[NodeRecord]:
        """Records of every node that may take work, this one first, in the order they were met."""
        return [self.own] + [peer.record for peer in self.peers.values() if peer.alive()]

    # -- watching the portals

    def watch(self, until: float, now: float) -> None:
        """Listen to the portals' records at least until then."""
        if self.watching_since is None:
            self.watching_since = now
            self.effects.append(WatchRecords(True))
        self.watch_until = max(self.watch_until, until)
        if not self.has_portal() and now >= self.ask_at:
            self.ask_at = now + ASKED
            for node, (mqtt, _) in self.addresses.items():
                if node != self.own.id:
                    self.effects.append(Send(node, mqtt, Ask(self.own.mqtt, self.own.gateway)))

    def knows_the_domain(self, now: float) -> bool:
        """Whether every record that a portal holds has come, or that was waited for long enough."""
        if self.watching_since is None:
            return False
        return self.listed or now - self.watching_since >= LISTED_LATE

    def tick(self, now: float) -> None:
        """Do what is due: end watching, publish the record."""
        if self.watching_since is not None and now >= self.watch_until:
            self.watching_since = None
            self.listed = False
            self.effects.append(WatchRecords(False))
        if self._unsaved and now >= self._saved_at + SAVED:
            self._save_addresses(now)
        self.publish_if_due(now)

    def next_wakeup(self, now: float) -> float:
        """When `tick` has something to do next."""
        due = [self._due()] if self._published else []
        if self._unsaved:
            due.append(self._saved_at + SAVED)
        if self.watching_since is not None:
            due.append(self.watch_until)
            if not self.listed and now < self.watching_since + LISTED_LATE:
                due.append(self.watching_since + LISTED_LATE)
        return min(due, default=now + STALE)

    def check(self) -> None:
        """The invariants of the picture."""
        require(self.own.id not in self.peers, f"{self.own.id} lists itself as a peer")
        own = self.own
        require(self.addresses[own.id] == (own.mqtt, own.gateway), "the own addresses are not those of the record")
        for node, peer in self.peers.items():
            if peer.record.id != node or node not in self.addresses:
                raise BrokenInvariant(f"peer {node} has the record of {peer.record.id}, or no address")


def _material(old: NodeRecord, new: NodeRecord) -> bool:
    """Whether the difference could change a placement, or what somebody does: a tenth of the memory, a quarter of the
    processor, throttling, power."""
    a, b = old.vitals, new.vitals
    return (
        old.state != new.state
        or abs(a.memory_available - b.memory_available) > a.memory_total / 10
        or abs(a.cpu_idle - b.cpu_idle) > 0.25
        or (a.throttled, a.undervoltage) != (b.throttled, b.undervoltage)
        or abs((a.temperature or 0.0) - (b.temperature or 0.0)) > 5
        or abs(a.disk_free - b.disk_free) > a.disk_free / 10
    )
