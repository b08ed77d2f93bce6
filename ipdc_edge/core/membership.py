"""Who is in the domain, as far as this node knows, and what this node says of itself.

Owns: the records of other nodes with what each portal testifies of them, the addresses of peers it has spoken
with, and when this node's own record is published anew. A node counts as gone only when no portal says
otherwise; a portal whose connection broke testifies nothing, and with no portal left the nodes last seen are
remembered as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .events import Effect, PublishRecord, WatchRecords
from .machine import BrokenInvariant, require
from .values import NodeRecord, Vitals

REFRESH = 15.0  # seconds: a record is published at most this often ...
CONNECTIONS = 1 << 20  # a birth number: the number of the node's start times this, plus a count of connections
STALE = 300.0  # ... and at least this often while anybody could care
WATCH = 30.0  # seconds that watching goes on after somebody looked
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

    def __init__(self, own: NodeRecord) -> None:
        self.own = own
        self.peers: dict[str, Peer] = {}
        self.heard: dict[str, int] = {}  # newest birth number of each peer's connections to our own broker
        self.addresses: dict[str, tuple[str, str]] = {own.id: (own.mqtt, own.gateway)}  # (broker, gateway)
        self.effects: list[Effect] = []
        self.listed = False  # whether every portal has listed all its records since watching began
        self.starts: dict[str, int] = {}  # of each peer, the newest number of its starts
        self.watch_until = 0.0
        self.watching_since: float | None = None
        self._published: tuple[NodeRecord, float] | None = None
        self._changed = True

    # -- this node's own record

    def measured(self, vitals: Vitals, now: float) -> None:
        """Take in new vitals; publish when they differ enough to matter."""
        self.own = replace(self.own, vitals=vitals)
        if self._published is None or _material(self._published[0], self.own):
            self._changed = True
        self.publish_if_due(now)

    def set_state(self, state: str, now: float) -> None:
        """Become ready, draining or gone; told to the portals at once."""
        self.own = replace(self.own, state=state)
        self._publish(now)

    def publish_if_due(self, now: float) -> None:
        """Publish the record if it changed and the last one is old enough, or if it grew stale."""
        if self._published is None:
            if self.own.vitals.memory_total:
                self._publish(now)
            return
        age = now - self._published[1]
        if (self._changed and age >= REFRESH) or age >= STALE:
            self._publish(now)

    def _publish(self, now: float) -> None:
        self._published, self._changed = (self.own, now), False
        self.effects.append(PublishRecord(self.own))

    # -- others

    def record_heard(self, portal: str, birth: int, record: NodeRecord) -> None:
        """A portal shows a record; an older connection's one is late and ignored."""
        if record.id == self.own.id:
            return
        peer = self.peers.get(record.id)
        if peer is None:
            peer = self.peers[record.id] = Peer(record)
        known = peer.testimony.get(portal)
        if known is not None and birth < known[0]:
            return
        peer.record = record
        peer.testimony[portal] = (birth, record.state != "gone")
        self.addresses[record.id] = (record.mqtt, record.gateway)

    def loss_heard(self, portal: str, birth: int, node: str) -> None:
        """A portal's broker says that a node's connection broke."""
        peer = self.peers.get(node)
        if peer is not None and birth >= peer.testimony.get(portal, (0, True))[0]:
            peer.testimony[portal] = (birth, False)

    def portal_left(self, portal: str) -> None:
        """We lost a portal: its testimony ends, unless it is the last word there is on a node."""
        for peer in self.peers.values():
            if len(peer.testimony) > 1:
                peer.testimony.pop(portal, None)

    def peer_spoke(self, node: str, birth: int) -> bool:
        """A peer's message came over our own broker on a connection of this birth; whether that shows that
        the peer started anew since the last one."""
        self.heard[node] = max(birth, self.heard.get(node, 0))
        before, start = self.starts.get(node), birth // CONNECTIONS
        self.starts[node] = max(start, before or 0)
        return before is not None and start > before

    def is_stale(self, node: str, birth: int) -> bool:
        """Whether a loss is of a connection older than one that we heard from since."""
        return birth < self.heard.get(node, 0)

    def learn(self, node: str, address: str, gateway: str) -> None:
        """A peer told its addresses in a job's message."""
        self.addresses[node] = (address, gateway)

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
        self.publish_if_due(now)

    def next_wakeup(self, now: float) -> float:
        """When `tick` has something to do next."""
        due = [self._published[1] + (REFRESH if self._changed else STALE)] if self._published else []
        if self.watching_since is not None:
            due.append(self.watch_until)
            if not self.listed and now < self.watching_since + LISTED_LATE:
                due.append(self.watching_since + LISTED_LATE)
        return min(due, default=now + STALE)

    def check(self) -> None:
        """The invariants of the picture."""
        require(self.own.id not in self.peers, f"{self.own.id} lists itself as a peer")
        for node, peer in self.peers.items():
            if peer.record.id != node or node not in self.addresses:
                raise BrokenInvariant(f"peer {node} has the record of {peer.record.id}, or no address")


def _material(old: NodeRecord, new: NodeRecord) -> bool:
    """Whether the difference could change a placement: a tenth of the memory, a quarter of the processor,
    throttling."""
    a, b = old.vitals, new.vitals
    return (
        old.state != new.state
        or abs(a.memory_available - b.memory_available) > a.memory_total / 10
        or abs(a.cpu_idle - b.cpu_idle) > 0.25
        or a.throttled != b.throttled
        or abs((a.temperature or 0.0) - (b.temperature or 0.0)) > 5
        or abs(a.disk_free - b.disk_free) > a.disk_free / 10
    )
