"""Which member list this node holds, who else holds it, and how a newer one gets round.

Owns the list (already verified when it comes here) and what the others said of theirs. A version never goes back.
Whoever hears of an older list than its own tells of its own; whoever hears of a newer one fetches it; the node
with the authority's key tells everybody, and tells again who has not said that it holds it. So a list needs
neither portals nor luck to arrive.
"""

from __future__ import annotations

from .effects import AdmitMembers, Effect, ExpelMember, FetchMembers, LeaveDomain, Send
from .machine import require
from .membership import Membership
from .messages import Leave, Members
from .values import HeldList, MemberList, NodeRecord

AUTHORITY = "authority"  # the capability of a node that holds the authority's key
RETELL = 5.0  # seconds until who has not confirmed is told again ...
RETELL_LATER = 60.0  # ... and once that has been tried for a while
EAGER = 60.0  # seconds after a change in which it is tried often


class Admission:
    """The domain's members as this node knows them."""

    def __init__(self, membership: Membership, held: HeldList, now: float) -> None:
        self.membership, self.held = membership, held
        self.has_authority = AUTHORITY in membership.own.capabilities
        self.effects: list[Effect] = []
        self.confirmed: dict[str, int] = {}  # the newest version that each member said it holds
        self._open: dict[str, None] = {}  # with the authority's key: members that have not said that they hold ours
        self._begin()
        self.waiting: dict[str, None] = {}  # who told us of a list that we have yet to fetch
        self.parting: dict[str, str] = {}  # who was expelled lately -> its broker: told for a while, so that it knows
        self.changed = self.retell_at = now

    @property
    def members(self) -> MemberList:
        """The present list."""
        return self.held.members

    def admits(self, node: str) -> bool:
        """Whether the node is a member."""
        return self.members.member(node) is not None

    def _begin(self) -> None:
        """A list is new here: who holds it is to be found out."""
        if self.has_authority:
            version = self.members.version
            self._open = {node: None for node in self._others() if self.confirmed.get(node) != version}

    def _heard(self, node: str, version: int) -> None:
        """A member said which version it holds."""
        self.confirmed[node] = version
        if version == self.members.version:
            self._open.pop(node, None)
        elif self.has_authority and node != self.membership.own.id and self.admits(node):
            self._open[node] = None

    def adopt(self, held: HeldList, now: float) -> tuple[str, ...]:
        """Take up a newer list of our authority and spread it; who was expelled by it."""
        old, members = self.members, held.members
        if members.version <= old.version or members.authority != old.authority:
            return ()
        expelled = tuple(member.id for member in old.members if members.member(member.id) is None)
        self.held = held
        self.changed, self.retell_at = now, now + RETELL
        told = self._others() if self.has_authority else tuple(self.waiting)
        if self.membership.own.id in members.portals:
            told += self.membership.present()
        if self.has_authority:
            addresses = self.membership.addresses
            self.parting.update({node: addresses[node][0] for node in expelled
                                 if node in addresses and node != self.membership.own.id})
        self.parting = {node: address for node, address in self.parting.items() if not self.admits(node)}
        for node in dict.fromkeys(told):
            self.tell(node)
        self._tell_parting()
        self.waiting.clear()
        self.effects.append(AdmitMembers(members, expelled))
        own = self.membership.own.id
        if own in expelled:
            self.effects.append(LeaveDomain(f"this node is not a member of domain {members.domain} any more"))
        self.membership.admitted(members, now)
        self.confirmed = {node: version for node, version in self.confirmed.items() if self.admits(node)}
        self._begin()
        return tuple(node for node in expelled if node != own)

    def _others(self) -> tuple[str, ...]:
        return tuple(member.id for member in self.members.members if member.id != self.membership.own.id)

    def tell(self, node: str) -> None:
        """Tell a node which list we hold."""
        address = self.membership.addresses.get(node)
        if address is not None:
            self._tell_at(node, address[0])

    def _tell_at(self, node: str, address: str) -> None:
        own = self.membership.own
        held = Members(self.members.version, self.held.cid, own.mqtt, own.gateway, self.held.packed)
        self.effects.append(Send(node, address, held))

    def _tell_parting(self) -> None:
        """Tell who was expelled, where they were: they verify it like everybody, and are alone from then on."""
        for node, address in self.parting.items():
            self._tell_at(node, address)

    def told(self, node: str, message: Members) -> None:
        """A member says which list it holds."""
        self.membership.learn(node, message.address, message.gateway)
        self._heard(node, message.version)
        if message.version > self.members.version:
            self.waiting[node] = None
            self.effects.append(FetchMembers(node, message.gateway, message.cid, message.version, message.packed))
        elif message.version < self.members.version:
            self.tell(node)

    def authority_told(self, message: Members) -> None:
        """The authority itself tells of a list, from a node that it was restored on and that is a member only by that
        list. The list proves itself; nothing else is believed, and nobody is answered."""
        if message.version > self.members.version and message.packed:
            node = self.members.authority
            self.effects.append(FetchMembers(node, message.gateway, message.cid, message.version, message.packed))

    def record_heard(self, record: NodeRecord) -> None:
        """A member published its record at our broker: what it holds stands there too. Who holds a newer list
        answers ours with it."""
        self._heard(record.id, record.members)
        if record.members != self.members.version:
            self.tell(record.id)

    def leave(self) -> bool:
        """Ask whoever holds the authority's key to take this node off the list; whether somebody is known who does."""
        holders = [peer.record for peer in self.membership.peers.values() if AUTHORITY in peer.record.capabilities]
        self.effects += [Send(record.id, self.membership.addresses[record.id][0], Leave()) for record in holders]
        return bool(holders)

    def left(self, node: str) -> None:
        """A member wants to be taken off the list."""
        if self.has_authority:
            self.effects.append(ExpelMember(node))

    def tick(self, now: float) -> None:
        """Tell again who has not confirmed."""
        if now < self.next_wakeup():
            return
        self.retell_at = now + (RETELL if now - self.changed < EAGER else RETELL_LATER)
        for node in self._open:
            self.tell(node)
        self._tell_parting()
        if now - self.changed >= EAGER:
            self.parting.clear()

    def next_wakeup(self) -> float:
        """When `tick` has something to do next."""
        return self.retell_at if self.has_authority and (self.parting or self._open) else float("inf")

    def check(self) -> None:
        """The invariants of the list."""
        for node in self.membership.peers:
            require(self.admits(node), f"{node} is a peer and no member")
        if self.has_authority:
            late = {node for node in self._others() if self.confirmed.get(node) != self.members.version}
            require(late == set(self._open), f"{late} hold another list, counted are {self._open}")
        require(self.membership.own.members == self.members.version, "the record names another list than the one held")
