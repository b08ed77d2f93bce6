"""A simulated node's connections to brokers, as `drivers/mqtt.py` and `mqtt_link.py` keep them.

Owns when they are made and tried again, what waits for them, and what a new one to a portal begins with. All of it is
forgotten when the node's process ends: the node makes itself new ones.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ipdc_edge.core import events as e
from ipdc_edge.core.messages import Command, Message, Present
from ipdc_edge.core.values import NodeRecord
from tests.simulation.network import Link

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

QUEUED = 1000  # messages that wait for a connection
RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)  # pauses before the own broker or a portal is tried again
TRIES = 2  # until a node counts as unreachable
CONNECT = (0.002, 0.02)  # seconds
LISTED = 0.01  # seconds until a portal has shown what it retains
NO_ROOM = "No space left on device"


class Connections:
    """Those of one run of a node's process."""

    def __init__(self, node: SimNode) -> None:
        self.node, self.network = node, node.world.network
        self.links: dict[str, Link] = {}
        self.queues: dict[str, list[Message]] = {}  # for whom there is no connection yet
        self.portals: dict[str, None] = {}
        self.record: NodeRecord | None = None
        self.watching = False
        self.listing: dict[str, None] = {}  # portals whose list is awaited

    # -- messages

    def send(self, node: str, message: Message) -> None:
        """To the broker of a node; connects if need be."""
        link = self.links.get(node)
        if link is not None:
            self._say(link, message)
        elif node not in self.queues:
            self._begin(node, message)
        elif len(self.queues[node]) < QUEUED:
            self.queues[node].append(message)

    def _say(self, link: Link, message: Message) -> None:
        blocks = self.network.send(link, message)
        if blocks and isinstance(message, Command):
            if self.node.disk.full:
                reason = f"its parameters could not be stored: {NO_ROOM}"
                return self.node.later(0.0, self.node.handle, e.ResultFailed(message.job, reason))
            for cid, block in blocks:
                self.node.keep(cid, json.loads(block), message.job)

    # -- connecting

    def _begin(self, node: str, *messages: Message) -> None:
        if node not in self.queues:
            self.queues[node] = list(messages)
            self.node.later(self.node.world.between(CONNECT), self._connect, node, 1)

    def _connect(self, node: str, tries: int) -> None:
        kept = node in self.portals
        if node in self.links or (node not in self.queues and not kept):
            return
        target = self.node.world.by_id[node]
        if not self.network.listens(target, self.node):
            return self.node.later(self.network.patience(target, self.node), self._failed, node, tries)
        self.node.births += 1
        link = self.links[node] = self.network.connect(self.node, target, self.node.births)
        if kept:
            self._joined(target, link)
        for message in self.queues.pop(node, []):
            self._say(link, message)

    def _failed(self, node: str, tries: int) -> None:
        kept = node in self.portals
        waiting = self.queues.get(node)
        if tries >= TRIES and node != self.node.id and waiting is not None and (waiting or not kept):
            if kept:
                waiting.clear()
            else:
                del self.queues[node]
            self.node.handle(e.PeerUnreachable(node, "nobody answers"))
        if node in self.queues or kept:
            self.node.later(RETRY[min(tries, len(RETRY)) - 1], self._connect, node, tries + 1)

    def broke(self, link: Link) -> None:
        """This side sees that a connection is gone."""
        node = link.broker.node.id
        if self.links.get(node) is not link:
            return
        del self.links[node]
        if node in self.listing:
            del self.listing[node]
            self.node.handle(e.RecordsListed(node, len(self.listing)))
        if node in self.portals and node != self.node.id:
            self.node.handle(e.PortalLeft(node))
        if node in self.portals or node == self.node.id:
            self._begin(node)

    def part(self, link: Link) -> None:
        """An expelled node has been told what there was to tell."""
        node = link.broker.node.id
        if self.links.get(node) is link and node not in self.portals and self.node.members.member(node) is None:
            del self.links[node]
            self.network.end_session(link)

    # -- portals

    def keep(self, portals: tuple[tuple[str, str], ...]) -> None:
        """Keep connections to these portals (id, address), and to no others."""
        before, self.portals = self.portals, dict.fromkeys(node for node, _ in portals)
        for node in before:
            if node not in self.portals and self._dropped(node):
                self.node.later(0.0, self.node.handle, e.PortalLeft(node))
        for node in self.portals:
            if node not in before:
                self._dropped(node)  # its last will must become one that the portal retains
                self._begin(node)

    def _dropped(self, node: str) -> bool:
        link = self.links.pop(node, None)
        if link is not None:
            self.node.after(0.0, self.network.end_session, link)
        return link is not None

    def publish(self, record: NodeRecord) -> None:
        """Retain the record at every portal."""
        self.record = record
        for portal in self.portals:
            self.show(portal)

    def show(self, portal: str) -> None:
        """Publish the record at a portal, if a connection stands."""
        link = self.links.get(portal)
        if link is not None and self.record is not None:
            self._say(link, Present(self.record))

    def _joined(self, portal: SimNode, link: Link) -> None:
        """What a connection to a portal begins with."""
        if self.record is not None:
            self._say(link, Present(self.record))
        if portal is not self.node:
            self.node.later(0.0, self.node.handle, e.PortalJoined(portal.id))
        if self.watching:
            self.listing[portal.id] = None
            self._watch(portal)

    def watch(self, wanted: bool) -> None:
        """Listen to the records that portals retain, or no longer."""
        self.watching = wanted
        connected = [self.node.world.by_id[node] for node in self.portals if node in self.links]
        self.listing = {portal.id: None for portal in connected} if wanted else {}
        for portal in connected:
            if wanted:
                self._watch(portal)
            else:
                portal.broker.watchers.pop(self.node.id, None)

    def _watch(self, portal: SimNode) -> None:
        if portal is not self.node:  # there we hear everything anyway
            portal.broker.watchers[self.node.id] = self.node
        self.node.later(LISTED, self._listed, portal)

    def _listed(self, portal: SimNode) -> None:
        """Everything that a portal retains, and then the answer to the second subscription."""
        if portal.id not in self.listing or portal.id not in self.links:
            return
        if portal is not self.node:
            for node, birth, message in self.network.retained(portal.broker):
                self.node.handle(e.MessageReceived(portal.id, node, birth, message))
        if portal.id in self.listing:
            del self.listing[portal.id]
            self.node.handle(e.RecordsListed(portal.id, len(self.listing)))
