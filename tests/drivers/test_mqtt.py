"""The links over real brokers: mailboxes, last wills, records at portals, brokers that die and come back."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipdc_edge import settings as conf
from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.core.events import OWN, Event, MessageReceived, PeerUnreachable, PortalLeft, RecordsListed
from ipdc_edge.core.messages import CleanUp, Lost, Present, Refuse
from ipdc_edge.core.values import NodeRecord, Vitals
from ipdc_edge.drivers.broker import BrokerProcess
from ipdc_edge.drivers.mqtt import Mqtt
from ipdc_edge.home import Home
from tests.waiting import eventually_async

JOB = "20260101-000000-abcd"
CODEC = MessageCodec(MapReduce.commands, MapReduce.reports)


class Broker:
    """A real mosquitto that can be killed and started again on its port."""

    def __init__(self, directory: str) -> None:
        self.home = Home({"IPDC_HOME": directory})
        os.makedirs(directory)
        self.home.prepare()
        (self.port,) = free_ports(1)
        with open(self.home.conf, "w") as file:
            file.write(f"mqtt_port = {self.port}\n")
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = BrokerProcess(self.home, conf.load(self.home.conf))
        self.process.start()

    def stop(self) -> None:
        self.process.stop()


@pytest.fixture
def brokers(tmp_path):  # type: ignore[no-untyped-def]
    made: list[Broker] = []

    def make() -> Broker:
        made.append(Broker(str(tmp_path / f"broker{len(made)}")))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


class Station:
    """A node's links, what they heard and what they noted."""

    def __init__(self, name: str, address: str, portals: tuple[str, ...], birth: int = 1) -> None:
        self.id = node_id(hashlib.sha256(name.encode()).digest())
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.blocks: list[str] = []
        self.changed = asyncio.Event()
        births = itertools.count(birth * 1000)
        self.mqtt = Mqtt(
            "test",
            self.id,
            address,
            portals,
            CODEC,
            births,
            10,
            self.emit,
            self.notes.append,
            lambda cid, data, job: self.blocks.append(cid) is None,
        )
        self.record = NodeRecord(
            self.id,
            name,
            "ready",
            address,
            "127.0.0.1:1",
            "0",
            ("mapreduce",),
            1,
            "none",
            Vitals(1, 1, 1, 1.0, 0.0, 1.0, 1),
        )
        self.mqtt.publish_record(self.record)
        self.mqtt.start()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.changed.set()

    async def heard(self, condition: Callable[[Event], Any]) -> Event:
        """The first event, past or future, that meets the condition."""
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if condition(event):
                        return event
                self.changed.clear()
                await self.changed.wait()

    async def up(self) -> None:
        await eventually_async(lambda: self.mqtt.own.connected, "the connection to the own broker")


def said(message: object, sender: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, MessageReceived) and event.message == message and event.sender == sender


@asynccontextmanager
async def stations(*made: Station) -> AsyncIterator[None]:
    try:
        for station in made:
            await station.up()
        yield
    finally:
        for station in made:
            station.mqtt.close()


def test_a_message_reaches_the_mailbox_of_its_node_and_no_other(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a, b = brokers(), brokers()
        one, two = Station("one", a.address, (a.address,)), Station("two", b.address, (a.address,))
        async with stations(one, two):
            one.mqtt.send(two.id, b.address, CleanUp(JOB))
            event = await two.heard(said(CleanUp(JOB), one.id))
            assert isinstance(event, MessageReceived) and event.broker == OWN
            one.mqtt.send(one.id, a.address, Refuse(JOB, "to myself"))
            await one.heard(said(Refuse(JOB, "to myself"), one.id))
            assert not any(said(CleanUp(JOB), one.id)(event) for event in one.events)

    asyncio.run(main())


def test_a_connection_that_breaks_tells_by_its_will_and_a_later_birth(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a, b = brokers(), brokers()
        one, two = Station("one", a.address, (a.address,)), Station("two", b.address, (b.address,))
        async with stations(one, two):
            one.mqtt.send(two.id, b.address, CleanUp(JOB))
            first = await two.heard(said(CleanUp(JOB), one.id))
            link = one.mqtt.peers[b.address]
            assert link.socket is not None
            one.mqtt.loop.remove_reader(link.socket)
            link.socket.close()  # without a goodbye
            lost = await two.heard(said(Lost(), one.id))
            assert lost.birth == first.birth  # type: ignore[attr-defined]
            link.socket = None
            link.broken("closed by the test")
            one.mqtt.send(two.id, b.address, Refuse(JOB, "again"))
            again = await two.heard(said(Refuse(JOB, "again"), one.id))
            assert again.birth > first.birth  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_goodbye_publishes_no_will(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a, b = brokers(), brokers()
        one, two, three = (Station(name, x.address, (x.address,)) for name, x in (("one", a), ("two", b), ("three", a)))
        async with stations(one, two):
            one.mqtt.send(two.id, b.address, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            one.mqtt.close()
            three.mqtt.send(two.id, b.address, Refuse(JOB, "after it"))
            await two.heard(said(Refuse(JOB, "after it"), three.id))
            assert not any(said(Lost(), one.id)(event) for event in two.events)
        three.mqtt.close()

    asyncio.run(main())


def test_portals_list_the_records_of_all_nodes(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        portal, others = brokers(), [brokers() for _ in range(3)]
        first = Station("portal", portal.address, (portal.address,))
        rest = [Station(f"n{n}", broker.address, (portal.address,)) for n, broker in enumerate(others)]
        async with stations(first, *rest):
            for station in rest:
                await first.heard(said(Present(station.record), station.id))
            looker = rest[0]
            looker.mqtt.watch(True)
            await looker.heard(lambda event: event == RecordsListed(portal.address))
            before = looker.events[: looker.events.index(RecordsListed(portal.address))]
            seen = {e.sender for e in before if isinstance(e, MessageReceived) and isinstance(e.message, Present)}
            assert seen == {first.id, *(station.id for station in rest)}, (
                "all records came before the list was called whole"
            )
            portal.stop()
            await looker.heard(lambda event: event == PortalLeft(portal.address))
            looker.events.clear()
            portal.start()
            await looker.heard(lambda event: event == RecordsListed(portal.address))

    asyncio.run(main())


def test_a_broker_that_comes_back_gets_the_records_again(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a, b = brokers(), brokers()
        one, two = Station("one", a.address, (a.address,)), Station("two", b.address, (a.address,))
        async with stations(one, two):
            first = await one.heard(said(Present(two.record), two.id))
            one.events.clear()
            a.stop()
            a.start()
            again = await one.heard(said(Present(two.record), two.id))
            assert again.birth > first.birth  # type: ignore[attr-defined]
            two.mqtt.send(one.id, a.address, CleanUp(JOB))
            event = await one.heard(said(CleanUp(JOB), two.id))
            assert isinstance(event, MessageReceived) and event.broker == OWN

    asyncio.run(main())


def test_a_peer_without_a_broker_is_unreachable_and_its_messages_are_dropped(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a = brokers()
        (closed,) = free_ports(1)
        one = Station("one", a.address, (a.address,))
        async with stations(one):
            peer = node_id(hashlib.sha256(b"nobody").digest())
            one.mqtt.send(peer, f"127.0.0.1:{closed}", CleanUp(JOB))
            event = await one.heard(lambda event: isinstance(event, PeerUnreachable))
            assert event.node == peer  # type: ignore[attr-defined]
            assert not one.mqtt.peers

    asyncio.run(main())


def test_nonsense_is_dropped_counted_and_its_sender_named_once(brokers) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        a, b = brokers(), brokers()
        one, two = Station("one", a.address, (a.address,)), Station("two", b.address, (b.address,))
        async with stations(one, two):
            one.mqtt.send(two.id, b.address, CleanUp(JOB))
            link = one.mqtt.peers[b.address]
            await two.heard(said(CleanUp(JOB), one.id))
            for _ in range(50):
                link.publish(one.mqtt.topic("renew"), b"\xff nonsense", retain=False)
            one.mqtt.send(two.id, b.address, Refuse(JOB, "after it"))
            await two.heard(said(Refuse(JOB, "after it"), one.id))
            assert two.mqtt.counters["refused"] == 50
            assert len(two.notes) == 1 and one.id in two.notes[0] and "not JSON" in two.notes[0]

    asyncio.run(main())
