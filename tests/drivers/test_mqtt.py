"""The links over real brokers: mailboxes, last wills, records at portals, brokers that die and come back."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipdc_edge import settings as conf
from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.codec.serving import INFER, MOST_REQUEST
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.core.events import OWN, Event, MessageReceived, PeerUnreachable, PortalJoined, PortalLeft, RecordsListed
from ipdc_edge.core.messages import CleanUp, Lost, Message, Present, Refuse
from ipdc_edge.core.values import NodeRecord, Vitals
from ipdc_edge.drivers.broker import BrokerProcess, update
from ipdc_edge.drivers.broker_files import credentials
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.drivers.mqtt import FLOOD, Mqtt
from ipdc_edge.drivers.mqtt_link import MOST_UNSENT, Raw
from ipdc_edge.drivers.tls import client_context
from ipdc_edge.home import Home
from tests.drivers.certificates import Domain
from tests.waiting import eventually_async

JOB = "20260101-000000-abcd"
CODEC = MessageCodec(MapReduce.commands, MapReduce.reports)


class Site:
    """A domain whose nodes have a real broker each; those named in `portals` are its portals."""

    def __init__(self, directory: str, names: tuple[str, ...], portals: tuple[str, ...]) -> None:
        self.domain = Domain(os.path.join(directory, "domain"))
        made = {name: self.domain.admit(name, portal=name in portals) for name in names}
        self.identities = {name: self.domain.now(identity) for name, identity in made.items()}
        self.brokers = {name: Broker(os.path.join(directory, name), identity)
                        for name, identity in self.identities.items()}
        self.portals = tuple((self.identities[name].id, self.brokers[name].address) for name in portals)

    def station(self, name: str) -> Station:
        return Station(name, self.identities[name], self.brokers[name], self.portals)

    def close(self) -> None:
        for broker in self.brokers.values():
            broker.stop()


class Broker:
    """A real mosquitto that can be killed and started again on its port."""

    def __init__(self, directory: str, identity: Identity) -> None:
        self.home, self.identity = Home({"IPDC_HOME": directory}), identity
        os.makedirs(directory)
        self.home.prepare()
        self.port, self.local = free_ports(2)
        with open(self.home.conf, "w") as file:
            file.write(f"listen = 127.0.0.1\nmqtt_port = {self.port}\nlocal_port = {self.local}\n")
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = BrokerProcess(self.home, conf.load(self.home.conf), self.identity)
        self.process.start()

    def stop(self) -> None:
        self.process.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(*names: str, portals: tuple[str, ...] = ("one",)) -> Site:
        made.append(Site(str(tmp_path), names, portals))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Station:
    """A node's links, what they heard and what they noted."""

    def __init__(self, name: str, identity: Identity, broker: Broker, portals: tuple[tuple[str, str], ...]) -> None:
        self.id, self.address = identity.id, broker.address
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.blocks: list[str] = []
        self.floods: list[str] = []
        self.changed = asyncio.Event()
        self.mqtt = Mqtt(
            identity.domain, self.id, f"127.0.0.1:{broker.local}", lambda: credentials(broker.home),
            client_context(identity), CODEC, itertools.count(1000), 10, self.emit, self.notes.append,
            self.floods.append, lambda: None, lambda cid, data, job: self.blocks.append(cid) is None,
        )
        vitals = Vitals(1, 1, 1, 1.0, 0.0, 1.0, 1)
        self.record = NodeRecord(self.id, name, "ready", self.address, "127.0.0.1:1", "0", ("mapreduce",), 1, "none",
                                 vitals)
        self.mqtt.publish_record(self.record)
        self.mqtt.keep(portals)
        self.mqtt.start()

    def tell(self, other: Station, message: Message) -> None:
        self.mqtt.send(other.id, other.address, message)

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


def test_a_message_reaches_the_mailbox_of_its_node_and_no_other(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            one.tell(two, CleanUp(JOB))
            event = await two.heard(said(CleanUp(JOB), one.id))
            assert isinstance(event, MessageReceived) and event.broker == OWN
            one.tell(one, Refuse(JOB, "to myself"))
            await one.heard(said(Refuse(JOB, "to myself"), one.id))
            assert not any(said(CleanUp(JOB), one.id)(event) for event in one.events)

    asyncio.run(main())


def test_a_connection_that_breaks_tells_by_its_will_and_a_later_birth(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            one.tell(two, CleanUp(JOB))
            first = await two.heard(said(CleanUp(JOB), one.id))
            link = one.mqtt.links[two.id]
            assert link.socket is not None
            one.mqtt.loop.remove_reader(link.socket)
            link.socket.close()  # without a goodbye
            lost = await two.heard(said(Lost(), one.id))
            assert lost.birth == first.birth  # type: ignore[attr-defined]
            link.socket = None
            link.broken("closed by the test")
            one.tell(two, Refuse(JOB, "again"))
            again = await two.heard(said(Refuse(JOB, "again"), one.id))
            assert again.birth > first.birth  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_goodbye_publishes_no_will(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two", "three", portals=("three",))
        one, two, three = (here.station(name) for name in ("one", "two", "three"))
        async with stations(one, two, three):
            one.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            one.mqtt.close()
            three.tell(two, Refuse(JOB, "after it"))
            await two.heard(said(Refuse(JOB, "after it"), three.id))
            assert not any(said(Lost(), one.id)(event) for event in two.events)

    asyncio.run(main())


def test_portals_list_the_records_of_all_nodes(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "n0", "n1", "n2")
        portal, rest = here.station("one"), [here.station(f"n{n}") for n in range(3)]
        async with stations(portal, *rest):
            for station in rest:
                await portal.heard(said(Present(station.record), station.id))
            looker = rest[0]
            looker.mqtt.watch(True)
            await looker.heard(lambda event: event == RecordsListed(portal.id))
            before = looker.events[: looker.events.index(RecordsListed(portal.id))]
            seen = {e.sender for e in before if isinstance(e, MessageReceived) and isinstance(e.message, Present)}
            assert seen == {portal.id, *(station.id for station in rest[1:])}, (
                "all records came before the list was called whole"
            )
            here.brokers["one"].stop()
            await looker.heard(lambda event: event == PortalLeft(portal.id))
            looker.events.clear()
            here.brokers["one"].start()
            await looker.heard(lambda event: event == PortalJoined(portal.id))
            await looker.heard(lambda event: event == RecordsListed(portal.id))

    asyncio.run(main())


def test_a_broker_that_comes_back_gets_the_records_again(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            first = await one.heard(said(Present(two.record), two.id))
            one.events.clear()
            here.brokers["one"].stop()
            here.brokers["one"].start()
            again = await one.heard(said(Present(two.record), two.id))
            assert again.birth > first.birth  # type: ignore[attr-defined]
            two.tell(one, CleanUp(JOB))
            event = await one.heard(said(CleanUp(JOB), two.id))
            assert isinstance(event, MessageReceived) and event.broker == OWN

    asyncio.run(main())


def test_a_node_that_becomes_a_portal_gets_records_and_wills_and_one_that_was_none_more(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two", "three", portals=("one", "two"))
        one, two, three = (here.station(name) for name in ("one", "two", "three"))
        async with stations(one, two, three):
            await one.heard(said(Present(three.record), three.id))
            await two.heard(said(Present(three.record), three.id))
            three.mqtt.keep(here.portals[:1])
            assert PortalLeft(two.id) in three.events and list(three.mqtt.links) == [three.id, one.id]
            three.tell(two, CleanUp(JOB))  # a link for messages only
            await two.heard(said(CleanUp(JOB), three.id))
            two.events.clear()
            three.mqtt.keep(here.portals)
            await two.heard(said(Present(three.record), three.id))
            link = three.mqtt.links[two.id]
            await eventually_async(lambda: link.connected, "the connection to the portal")
            assert link.socket is not None
            three.mqtt.loop.remove_reader(link.socket)
            link.socket.close()
            link.client = link.socket = None
            await two.heard(said(Lost(), three.id))

    asyncio.run(main())


def test_a_peer_without_a_broker_is_unreachable_and_its_messages_are_dropped(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        one = site("one").station("one")
        (closed,) = free_ports(1)
        async with stations(one):
            peer = node_id(hashlib.sha256(b"nobody").digest())
            one.mqtt.send(peer, f"127.0.0.1:{closed}", CleanUp(JOB))
            event = await one.heard(lambda event: isinstance(event, PeerUnreachable))
            assert event.node == peer  # type: ignore[attr-defined]
            assert list(one.mqtt.links) == [one.id]

    asyncio.run(main())


def test_a_portal_that_cannot_be_reached_is_tried_on_and_messages_to_it_are_given_up(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one = here.station("one")
        here.brokers["one"].stop()
        two = here.station("two")
        two.tell(one, CleanUp(JOB))
        event = await two.heard(lambda event: isinstance(event, PeerUnreachable))
        assert event.node == one.id and not two.mqtt.links[one.id].queue  # type: ignore[attr-defined]
        here.brokers["one"].start()
        await two.heard(lambda event: event == PortalJoined(one.id))
        for station in (one, two):
            station.mqtt.close()

    asyncio.run(main())


def test_another_node_at_the_address_is_not_spoken_to(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two", "three")
        one, two, three = (here.station(name) for name in ("one", "two", "three"))
        async with stations(one, two, three):
            one.mqtt.send(two.id, three.address, CleanUp(JOB))
            event = await one.heard(lambda event: isinstance(event, PeerUnreachable))
            assert event.node == two.id and three.id in event.reason  # type: ignore[attr-defined]
            one.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            assert not any(said(CleanUp(JOB), one.id)(event) for event in three.events)

    asyncio.run(main())


def test_a_link_follows_its_node_to_another_address(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            one.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            (other,) = free_ports(1)
            forward = await asyncio.start_server(forwarder(here.brokers["two"].port), "127.0.0.1", other)
            one.mqtt.send(two.id, f"127.0.0.1:{other}", Refuse(JOB, "elsewhere"))
            await two.heard(said(Refuse(JOB, "elsewhere"), one.id))
            assert one.mqtt.links[two.id].address == f"127.0.0.1:{other}"
            forward.close()

    asyncio.run(main())


def forwarder(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    """What a node that moved looks like: the same broker behind another port."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

    return forward


def test_nonsense_is_dropped_counted_and_its_sender_named_once(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two")
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            one.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            for _ in range(50):
                one.mqtt.links[two.id].publish(one.mqtt.topic("renew"), b"\xff nonsense", retain=False)
            one.tell(two, Refuse(JOB, "after it"))
            await two.heard(said(Refuse(JOB, "after it"), one.id))
            assert two.mqtt.counters["refused"] == 50
            assert len(two.notes) == 1 and one.id in two.notes[0] and "not JSON" in two.notes[0]

    asyncio.run(main())


def test_a_flood_is_dropped_beyond_a_bound_and_its_sender_handed_over_once(site) -> None:  # type: ignore[no-untyped-def]
    async def main() -> None:
        here = site("one", "two", "three")
        one, two, three = (here.station(name) for name in ("one", "two", "three"))
        async with stations(one, two, three):
            two.mqtt.ticker.cancel()  # all in one tick, however slow this machine is
            most = int(FLOOD * two.mqtt.keepalive / 4)
            for _ in range(most + 50):
                two.mqtt.received(two.mqtt.own, one.mqtt.topic("renew"), b"\xff nonsense")
            assert two.floods == [one.id] and two.mqtt.counters["flooded"] == 50
            three.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), three.id))

    asyncio.run(main())


def test_a_record_that_a_portal_did_not_take_is_shown_again(site) -> None:  # type: ignore[no-untyped-def]
    """A broker that does not know a newcomer yet refuses in silence: nothing says so but that the record does not come
    back."""

    async def main() -> None:
        here = site("one", "two")
        portal, known = here.brokers["one"], here.identities["one"]
        stranger = replace(known, members=replace(known.members, members=known.members.members[:1]))
        assert update(portal.home, stranger)
        one, two = here.station("one"), here.station("two")
        async with stations(one, two):
            link = two.mqtt.links[one.id]
            await eventually_async(lambda: link.connected, "the connection to the portal")
            two.tell(one, CleanUp(JOB))  # refused as well, and after the record
            await eventually_async(lambda: two.mqtt.counters["sent"] > 3, "the record was shown twice")
            assert link.unseen and not any(isinstance(e, MessageReceived) and e.sender == two.id for e in one.events)
            assert update(portal.home, known)
            await one.heard(said(Present(two.record), two.id))
            await eventually_async(lambda: not link.unseen, "the portal has shown it")

    asyncio.run(main())


def test_bytes_that_may_be_lost_are_where_a_broker_takes_nothing_any_more(site) -> None:  # type: ignore[no-untyped-def]
    """paho keeps what the socket does not take, however much that is."""

    async def main() -> None:
        made = site("one", "two", portals=())
        one, two = made.station("one"), made.station("two")
        found: list[bytes] = []
        two.mqtt.serving = lambda: SimpleNamespace(heard=lambda sender, channel, payload: found.append(payload))
        most = 48 << 20  # bytes, more than the kernel takes by far
        async with stations(one, two):
            one.tell(two, CleanUp(JOB))
            await two.heard(said(CleanUp(JOB), one.id))
            link, broker = one.mqtt.links[two.id], made.brokers["two"].process.pid
            assert link.client is not None and broker is not None
            os.kill(broker, signal.SIGSTOP)
            try:
                for number in range(most // MOST_REQUEST):
                    one.mqtt.send(two.id, two.address, Raw(INFER, number.to_bytes(2, "big") + bytes(MOST_REQUEST - 2)))
                waits = sum(len(packet["packet"]) for packet in link.client._out_packet)
                assert 0 < waits < MOST_UNSENT + 2 * MOST_REQUEST
                count = len(link.client._out_packet)
                link.unsent[0] = (SimpleNamespace(is_published=lambda: True), link.unsent[0][1])
                for word in (b"there is room again", b"and now no more"):
                    one.mqtt.send(two.id, two.address, Raw(INFER, word + bytes(MOST_REQUEST - len(word))))
                assert len(link.client._out_packet) == count + 1
                one.tell(two, Refuse(JOB, "what is the core's is not dropped"))
            finally:
                os.kill(broker, signal.SIGCONT)
            await two.heard(said(Refuse(JOB, "what is the core's is not dropped"), one.id))
            await eventually_async(lambda: not link.unsent, "all of it has gone")
            one.mqtt.send(two.id, two.address, Raw(INFER, b"later"))
            await eventually_async(lambda: found[-1:] == [b"later"], "the next one comes")
            assert found[-2].startswith(b"there is room again")
            numbers = [int.from_bytes(payload[:2], "big") for payload in found[:-2]]
            assert numbers == list(range(len(numbers))) and len(numbers) * MOST_REQUEST < most

    asyncio.run(main())


@pytest.mark.parametrize("word", ["watch", "publish", "leave"])
def test_whoever_breaks_tls_while_something_is_written_ends_the_connection_and_nothing_else(site, word: str) -> None:  # type: ignore[no-untyped-def]
    """paho lets TLS' errors out of every call that writes."""
    async def main() -> None:
        made = site("one", "two")
        one, two = made.station("one"), made.station("two")
        async with stations(one, two):
            await two.heard(lambda event: isinstance(event, PortalJoined))
            link = two.mqtt.links[one.id]
            before = len(two.events)

            def broken(*_: object) -> int:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")

            link.client.socket().send = broken  # type: ignore[union-attr]
            if word == "leave":
                return  # the goodbye is written then
            two.mqtt.watch(True) if word == "watch" else two.mqtt.publish_record(two.record)
            assert not link.connected
            assert [event for event in two.events[before:] if isinstance(event, PortalLeft)]
            await eventually_async(lambda: link.connected, "another connection")

    asyncio.run(main())
