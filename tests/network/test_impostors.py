"""A member that acts as another one has no effect: on topics, at brokers, on others' jobs, whatever it knows.

The impostor is a real member (node4: its broker runs, its daemon is off) that knows everything: the tests listen at the
others' brokers with their own passwords and tell it job ids, tasks and attempts. Each time the job that runs meanwhile
must end with the exact result. Whoever may do the same does it with the same bytes, and it counts.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from ipdc_edge.apps import built_in
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.core import messages as m
from ipdc_edge.core.values import Attempt, Failure, Result
from ipdc_edge.drivers.broker_files import credentials
from ipdc_edge.drivers.identity import Identity
from ipdc_edge.home import Home
from tests.drivers.mqtt5 import NO_SUBSCRIBERS, NOT_AUTHORIZED, SUCCESS, Client, Refused
from tests.network import raw
from tests.network.hosts import Domain, DomainNode
from tests.waiting import eventually

pytestmark = pytest.mark.network

LOCAL = 18833
BIRTH = 1 << 40  # of the impostor's connections: later than its daemon's
SPLITS = 3
LINES = 1100 * SPLITS  # of 1 kB: as many splits as workers
MAP = """
import os, time
def map(key, line):
    while not os.path.exists({gate!r}):
        time.sleep(0.05)
    for word in line.split():
        yield word, 1
"""
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"


def codec() -> MessageCodec:
    return MessageCodec([c for app in built_in() for c in app.commands], [r for app in built_in() for r in app.reports])


class Tap:
    """Hears everything at a node's broker, with the password that only that node has."""

    def __init__(self, node: DomainNode) -> None:
        user, password = credentials(Home({"IPDC_HOME": node.home}))
        connection = raw.inside(node.host, lambda: socket.create_connection(("127.0.0.1", LOCAL)))
        self.node, self.client = node, Client(connection, "tap", user, password, keepalive=0)
        self.client.subscribe("ipdc/#", "$SYS/broker/log/#")

    def heard(self, who: str, channel: str, text: str = "") -> list[dict[str, object]]:
        """The messages of somebody on a channel that have this text in them."""
        end = f"/{who}/{channel}"
        return [json.loads(data) for topic, data in list(self.client.settle())
                if topic.endswith(end) and data and text in data.decode()]

    def log(self) -> str:
        """What the broker said of itself."""
        return "\n".join(data.decode() for topic, data in self.client.settle() if topic.startswith("$SYS"))


@dataclass
class Running:
    """A job whose maps wait at a gate: what there is to know of it."""

    id: str
    orders: dict[str, list[dict[str, object]]]  # by worker: what it was ordered
    master: DomainNode
    gate: str

    def attempts(self, worker: str) -> list[tuple[str, Attempt]]:
        return [(str(order["task"]), Attempt(*order["attempt"])) for order in self.orders[worker]]  # type: ignore[misc]

    def view(self) -> dict[str, object]:
        """What of the job's state nobody may change."""
        seen = self.master.json("status", self.id)
        return {name: seen[name] for name in ("state", "phase", "error", "failure", "maps", "reduces", "nodes")}


class House:
    """The domain, with the impostor's and the others' identities."""

    def __init__(self, domain: Domain) -> None:
        self.domain, self.directory = domain, domain.directory
        self.one, self.master, self.worker, self.impostor = domain.nodes
        self.ids = {node: raw.identity_of(node) for node in domain.nodes}
        self.impostor.daemon.stop()
        self.taps = {node: Tap(node) for node in domain.nodes}
        self.number = 0
        self.text = os.path.join(self.directory, "text")
        line = " ".join(f"word{n % 97}" for n in range(150)).ljust(1023) + "\n"
        with open(self.text, "w") as file:
            file.write(line * LINES)
        self.expected = sorted(f"{word}\t{n * LINES}" for word, n in Counter(line.split()).items())

    def topic(self, who: DomainNode, channel: str) -> str:
        return f"ipdc/1/{self.domain.name}/{self.ids[who].id}/{channel}"

    def client(self, at: DomainNode, own: Identity | None = None, client_id: str = "", **options: object) -> Client:
        """A raw client from the impostor's host, with its certificate unless told another."""
        own = own or self.ids[self.impostor]
        connection = raw.tls(self.impostor.host, at.host.address, raw.MQTT, own)
        return raw.inside(self.impostor.host, lambda: Client(connection, client_id, **options))  # type: ignore[arg-type]

    def say(self, at: DomainNode, *messages: m.Message, own: DomainNode | None = None) -> None:
        """Says something at a node's broker as the impostor, or as `own`, and returns when the daemon there has heard
        it: it has answered what was said last."""
        speaker = own or self.impostor
        client, birth = self.client(at, self.ids[speaker]), BIRTH if own is None else 1
        for message in messages:
            encoded = codec().encode(message, birth)
            assert client.publish(self.topic(speaker, encoded.channel), encoded.payload) == SUCCESS
        ear, address = self.taps[self.impostor], self.impostor.host.address
        before = len(ear.heard(self.ids[at].id, "node"))
        ask = codec().encode(m.Ask(f"{address}:{raw.MQTT}", f"{address}:{raw.GATEWAY}"), BIRTH)
        if own is None:
            assert client.publish(self.topic(speaker, "ask"), ask.payload) == SUCCESS
            eventually(lambda: len(ear.heard(self.ids[at].id, "node")) > before, f"{at} answers")
        client.close()

    def submit(self) -> Running:
        self.number += 1
        gate = os.path.join(self.directory, f"gate{self.number}")
        paths = [os.path.join(self.directory, f"{name}{self.number}.py") for name in ("Map", "Reduce")]
        for path, text in zip(paths, (MAP.format(gate=gate), REDUCE)):
            with open(path, "w") as file:
                file.write(text)
        job = self.master.ipdc("submit", *paths, "--input", self.text, "-k", "3", "--id-only", "--no-wait")
        running = Running(job.stdout.strip(), {}, self.master, gate)
        own = self.ids[self.master].id
        for node in (self.one, self.master, self.worker):
            tap = self.taps[node]
            running.orders[self.ids[node].id] = eventually(
                lambda tap=tap: tap.heard(own, "do-map", running.id), f"{node} has an order of {running.id}", 40)
        eventually(lambda: all(node["state"] == "working" for node in running.view()["nodes"]), "all work")
        return running

    @contextmanager
    def job(self) -> Iterator[Running]:
        """A job that runs, and afterwards ends with the exact result, as if nothing had been."""
        running = self.submit()
        before = running.view()
        yield running
        assert running.view() == before
        with open(running.gate, "w"):
            pass
        eventually(lambda: running.view()["state"] not in ("queued", "running"), "the job ends", 90)
        after = running.view()
        assert after["state"] == "succeeded" and after["failure"] is None, after
        assert self.master.result(running.id) == sorted(self.expected)
        for worker in running.orders:  # by whom it was ordered from before, in that very attempt
            reports = self.taps[self.master].heard(worker, "buffer", running.id)
            done = {(report["task"], Attempt(*report["attempt"])) for report in reports}  # type: ignore[misc]
            assert set(running.attempts(worker)) <= done, (worker, done)
        workers = {node["name"] for node in after["nodes"]}  # type: ignore[attr-defined]
        assert workers == {"node1", "node2", "node3"}
        print(f"job {running.id}: succeeded on {', '.join(sorted(workers))}, {len(self.expected)} lines, all exact")


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with raw.own_domain(4, sandbox="rlimits") as domain:  # the maps wait at a file of this machine
        yield House(domain)


def tell(what: str, at: DomainNode, outcome: str) -> None:
    raw.attempt("a member", what, f"{at}", outcome)


def test_topics_wills_and_names_of_others(house: House) -> None:
    own, victim = house.ids[house.impostor], house.ids[house.master]
    with house.job() as job:
        for at in (house.master, house.worker):
            client = house.client(at)
            for channel in ("renew", "cancel", "clean-up", "do-map", "buffer", "node", "lost", "members", "leave"):
                for retain in (False, True):
                    reason = client.publish(house.topic(house.master, channel), b'{"forged": 1}', retain)
                    assert reason == NOT_AUTHORIZED, (channel, retain)
            tell("publishes on another's nine channels, retained too", at, "not authorized")
            for topic in ("$SYS/broker/log/N", "$SYS/broker/version", "$share/a/b", "ipdc/access/1", "x"):
                assert client.publish(topic, b"forged") == NOT_AUTHORIZED, topic
            tell("publishes on $SYS and elsewhere", at, "not authorized")
            assert client.publish(house.topic(house.impostor, "renew"), b"true") == SUCCESS
            tell("publishes on its own channel", at, "delivered")
            client.close()
            for retain in (False, True):
                try:
                    house.client(at, will=(house.topic(house.master, "lost"), b'{"forged": 2}', retain)).vanish()
                except Refused as refused:  # newer brokers refuse the will itself
                    assert refused.reason == NOT_AUTHORIZED
            house.client(at, will=(house.topic(house.impostor, "lost"), b'{"mine": 3}', False)).vanish()
            eventually(lambda at=at: house.taps[at].heard(own.id, "lost", "mine"), "its own will")
            tell("leaves a will on another's topic", at, "nobody hears it, but its own")
            heard = house.taps[at].client.settle()
            assert not [topic for topic, data in heard if b"forged" in data and topic.startswith("ipdc/")]
        tap = house.taps[house.master]
        mark = len(tap.log())
        for name in (victim.id, house.ids[house.worker].id, "daemon"):
            first = house.client(house.master, client_id=name)
            assert first.publish(house.topic(house.impostor, "renew"), b"true") == SUCCESS
            second = house.client(house.master, client_id=name)
            assert first.ended()
            second.close()
        eventually(lambda: own.id in tap.log()[mark:], "the broker says that the impostor threw itself out")
        for other in (victim.id, house.ids[house.worker].id, house.ids[house.one].id):
            assert f"Client {other} " not in tap.log()[mark:], tap.log()[mark:]
        tell("connects under another's client id", house.master, "throws out itself, and nobody else")
        assert {node["name"] for node in house.one.json("nodes") if node["state"] == "ready"} >= {"node2", "node3"}
        assert job.view()["state"] == "running"


def test_what_others_are_told_is_not_heard(house: House) -> None:
    top = f"ipdc/1/{house.domain.name}"
    filters = ("#", "ipdc/#", f"{top}/+/+", f"{top}/{house.ids[house.master].id}/do-map", "$SYS/#", "$SYS/broker/log/#",
               "$share/group/ipdc/#", f"{top}/+/node")
    ears = {at: house.client(at, keepalive=0) for at in (house.one, house.worker)}
    for ear in ears.values():
        ear.subscribe(*filters)
    with house.job() as job:
        pass
    for at, ear in ears.items():
        heard = {topic.rpartition("/")[2] for topic, _ in ear.settle()}
        assert heard <= {"node", "lost"} and "node" in heard, heard
        assert house.taps[at].heard(house.ids[house.master].id, "do-map", job.id)
        assert not any(job.id.encode() in data for _, data in ear.messages)
        tell("subscribes to everything and to $SYS", at, f"hears {', '.join(sorted(heard))}")
        ear.close()


def test_the_record_of_another_at_a_portal_stays(house: House) -> None:
    victim, portal = house.master, house.one
    topic = house.topic(victim, "node")

    def retained() -> dict[str, object]:
        client = house.client(portal)
        client.subscribe(f"ipdc/1/{house.domain.name}/+/node")
        found = {at: json.loads(data)["record"] if "record" in json.loads(data) else json.loads(data)
                 for at, data in client.settle() if data}
        client.close()
        return found

    def shown() -> dict[str, object]:
        return next({name: node[name] for name in ("id", "address", "state")}
                    for node in portal.json("nodes") if node["name"] == victim.host.name)

    fixed = ("id", "name", "mqtt", "gateway", "state", "version")
    real, seen = retained()[topic], shown()
    lie = {**real, "v": 1, "birth": 1 << 60, "mqtt": f"{house.impostor.host.address}:{raw.MQTT}", "state": "gone"}  # type: ignore[dict-item]
    client = house.client(portal)
    for payload in (json.dumps(lie).encode(), b""):
        assert client.publish(topic, payload, retain=True) == NOT_AUTHORIZED
    tell("overwrites and clears another's record", portal, "not authorized")
    # under its own name, which it may
    assert client.publish(house.topic(house.impostor, "node"), json.dumps(lie).encode(), retain=True) == SUCCESS
    client.close()
    house.say(portal)
    assert shown() == seen
    now = retained()
    assert [now[topic][name] for name in fixed] == [real[name] for name in fixed]  # type: ignore[index]
    assert now[house.topic(house.impostor, "node")]["birth"] == 1 << 60  # type: ignore[index]
    tell("shows another's record as its own", portal, "is retained as its own, and nobody believes it")
    client = house.client(portal)
    assert client.publish(house.topic(house.impostor, "node"), b"", retain=True) in (SUCCESS, NO_SUBSCRIBERS)
    client.close()


def forgeries(house: House, job: Running, node: str) -> list[m.Message]:
    """What a worker says to its master, of every attempt that there is."""
    said: list[m.Message] = []
    address = house.impostor.host.address
    for worker in job.orders:
        for task, attempt in job.attempts(worker):
            result = Result(node or worker, raw_cid(b"forged"), 6, {})
            said += [m.Report(job.id, channel, task, attempt, result) for channel in ("buffer", "get-result")]
            said += [m.Failed(job.id, task, attempt, Failure(kind, "forged", raw_cid(b"forged") * (kind == "fetch")))
                     for kind in ("user", "fetch", "dropped", "node")]
            said += [m.Renew(job.id, (m.Held(task, attempt, 1 << 40),))]
    guess = Attempt(attempt.birth, attempt.number + 1)
    said += [m.Report(job.id, "buffer", "map-00000", guess, Result(node or worker, raw_cid(b"forged"), 6, {}))]
    said += [m.Accept(job.id, 8, f"{address}:{raw.MQTT}", f"{address}:{raw.GATEWAY}"), m.Refuse(job.id, "forged")]
    return said


def test_reports_and_leases_of_others_tasks(house: House) -> None:
    own, ear = house.ids[house.impostor].id, house.taps[house.impostor]
    master = house.ids[house.master].id
    with house.job() as job:
        for node in (own, ""):
            house.say(house.master, *forgeries(house, job, node))
            whom = "itself" if node else "the worker"
            tell(f"reports, fails, renews and takes all tasks of {job.id} in the name of {whom}", house.master,
                 "no effect")
        assert ear.heard(master, "clean-up", job.id), "the master says that it has no part in the job"
        assert not [word for word in ("do-map", "received", "renewed") if ear.heard(master, word)]


def commands(house: House, job: Running, worker: str) -> list[m.Message]:
    """What a master says to its worker."""
    address = house.impostor.host.address
    said: list[m.Message] = [m.Cancel(job.id, "forged"), m.CleanUp(job.id)]
    for task, attempt in job.attempts(worker):
        said += [m.Received(job.id, task, attempt), m.Renewed(job.id, (attempt,)),
                 m.Command(job.id, "do-map", task, attempt, "buffer", job.orders[worker][0]["params"])]  # type: ignore[arg-type]
    # the same job's id as one of its own, of which there is nothing to fetch
    offer = m.Download(job.id, raw_cid(b"forged"), "mapreduce", 1, f"{address}:{raw.MQTT}", f"{address}:{raw.GATEWAY}")
    return [*said, offer, *said]


def test_commands_for_others_jobs(house: House) -> None:
    ear = house.taps[house.impostor]
    with house.job() as job:
        for at in (house.worker, house.master):
            house.say(at, *commands(house, job, house.ids[at].id))
            assert ear.heard(house.ids[at].id, "refuse", "does not know the job")
            tell(f"cancels, cleans up, orders and acknowledges tasks of {job.id}", at,
                 "no effect: the job is not its own")


def test_who_may_does_it_with_the_same_bytes(house: House) -> None:
    """The probes of the tests before are known to work."""
    job = house.submit()
    worker, tap = house.ids[house.worker].id, house.taps[house.master]
    task, attempt = job.attempts(worker)[0]
    house.say(house.master, m.Failed(job.id, task, attempt, Failure("user", "forged", "")), own=house.worker)
    eventually(lambda: job.view()["failure"], "the failure counts")
    tell("the worker itself fails its task", house.master, "it is given to another")
    house.say(house.worker, m.Cancel(job.id, "forged"), own=house.master)
    order = m.Command(job.id, "do-map", task, attempt, "buffer", job.orders[worker][0]["params"])  # type: ignore[arg-type]
    house.say(house.worker, order, own=house.master)
    eventually(lambda: tap.heard(worker, "refuse", "does not know the job"), "it has freed the job")
    tell("the master itself cancels its job", house.worker, "it is freed")
    house.master.ipdc("cancel", job.id)
    with open(job.gate, "w"):
        pass
    eventually(lambda: job.view()["state"] == "cancelled", "it is cancelled")
