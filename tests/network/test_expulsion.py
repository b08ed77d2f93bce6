"""Who is expelled is out, at every node and within ten seconds, whatever is down or cut off just then.

The expelled one in most tests is a member without a daemon, so that its connections are those of the test and of
nobody else. Beside it a loyal member does the same, so that the probe is known to work.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ipdc_edge.drivers.mqtt import PARTING
from tests.network.hosts import ROOT, Domain, DomainNode
from tests.network.raw import Member, attempt, is_cut, line_of, logged, measured, own_domain
from tests.waiting import eventually

pytestmark = pytest.mark.network

OUT = 10.0  # seconds that are promised
REDUCE = os.path.join(ROOT, "ipdc_edge", "commands", "wordcount", "Reduce.py")
SLOW_MAP = """
import time
def map(key, line):
    time.sleep(0.05)
    for word in line.split():
        yield word, 1
"""


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    with own_domain(5) as made:
        yield made


@pytest.fixture(autouse=True)
def no_bugs(domain: Domain) -> Iterator[None]:
    """No daemon reports a bug."""
    yield
    for node in domain.nodes:
        assert "Traceback" not in node.daemon.log(), node.daemon.log()


class Held:
    """Open connections of a member at every one of these nodes."""

    def __init__(self, member: Member, nodes: list[DomainNode]) -> None:
        for node in nodes:
            eventually(lambda node=node: member.gets_in(node), f"{member.name} gets in at {node}")
        self.clients = {node: member.mqtt(node) for node in nodes}
        self.askers = {node: member.gateway(node) for node in nodes}

    def open(self) -> int:
        """How many of them are open."""
        sockets = [held.socket for held in (*self.clients.values(), *self.askers.values())]
        return sum(not is_cut(found) for found in sockets)

    def speak(self) -> None:
        """Every one of them is of use."""
        for client in self.clients.values():
            client.settle()
        for asker in self.askers.values():
            asker.ask()

    def close(self) -> None:
        for held in (*self.clients.values(), *self.askers.values()):
            held.socket.close()


@contextmanager
def pair(domain: Domain, nodes: list[DomainNode]) -> Iterator[tuple[Member, Held, Member, Held]]:
    """A thief and a loyal member, both with open connections at these nodes."""
    number = len(domain.network.hosts)
    thief, loyal = Member(domain, f"thief{number}"), Member(domain, f"loyal{number}")
    held, kept = Held(thief, nodes), Held(loyal, nodes)
    held.speak()
    yield thief, held, loyal, kept
    held.close()
    kept.close()
    domain.nodes[0].ipdc("expel", loyal.name)


def names(node: DomainNode) -> set[str]:
    return {member["name"] for member in node.json("domain", "show")["members"]}


def is_alone(node: DomainNode) -> bool:
    """Whether its daemon, which begins anew about now, says so."""
    done = node.ipdc("domain", "show", "--json", check=False)
    return done.returncode == 0 and bool(json.loads(done.stdout)["alone"])


@pytest.mark.parametrize("portals", ["up", "down"])
def test_an_expelled_members_open_connections_are_cut_at_every_node(domain: Domain, portals: str) -> None:
    first, second, third = domain.nodes[:3]
    roles = {member["name"]: member["portal"] for member in first.json("domain", "show")["members"]}
    assert all(roles[node.host.name] for node in (first, second, third)) and sum(roles.values()) == 3, roles
    down = [second, third] if portals == "down" else []
    left = [node for node in domain.nodes if node not in down]
    brokers = [node.broker.process for node in left]
    with pair(domain, left) as (thief, held, loyal, kept):
        for node in down:
            node.kill()
        began = time.monotonic()
        first.ipdc("expel", thief.name)
        measured(f"portals {portals}: {2 * len(left)} open connections of an expelled member are cut",
                 lambda: held.open() == 0, OUT, began)
        assert kept.open() == 2 * len(left), "the loyal member's are not"
        kept.speak()
        assert [node.broker.process for node in left] == brokers, "and no broker began anew"
        for node in left:
            for door, outcome in thief.kept_out(node).items():
                refusal = f"a connection from {thief.host.address} was refused"
                said = logged(node, refusal, door.replace("mqtt", "broker"))
                attempt(thief.name, "connects again", f"{door} of {node}", outcome, said)
            assert len(thief.kept_out(node)) == 2
            assert loyal.gets_in(node)
            attempt(loyal.name, "connects again", f"mqtt and gateway of {node}", "lets in")
        for node in down:
            node.start()
        for node in down:
            measured(f"{node}, which was down, keeps the expelled one out",
                     lambda node=node: len(thief.kept_out(node)) == 2, OUT)
            eventually(lambda node=node: loyal.gets_in(node), f"{loyal.name} gets in at {node}")
    domain.wait_ready(seconds=60)


def test_a_node_that_was_cut_off_meanwhile_learns_it_when_it_is_back(domain: Domain) -> None:
    away = domain.nodes[4]
    with pair(domain, domain.nodes) as (thief, held, _, kept):
        away.host.cut()
        eventually(lambda: "node5" not in domain.nodes[0].ready(), "node5 is lost to the others", 40)
        domain.nodes[0].ipdc("expel", thief.name)
        others = 2 * (len(domain.nodes) - 1)
        measured("the other nodes cut it", lambda: held.open() <= 2, OUT)
        assert thief.name in names(away) and held.open() <= 2 <= others
        away.host.heal()
        began = time.monotonic()
        measured("a node that was cut off has the list", lambda: thief.name not in names(away), OUT, began)
        measured("and has ended the expelled one's connections", lambda: held.open() == 0, OUT, began)
        eventually(lambda: len(thief.kept_out(away)) == 2, "the thief is kept out")
    domain.wait_ready(seconds=60)


def test_an_expelled_worker_is_alone_and_the_job_that_it_worked_for_ends_right(domain: Domain) -> None:
    master, worker = domain.nodes[1], domain.nodes[4]
    slow, words = os.path.join(domain.directory, "Slow.py"), []
    with open(slow, "w") as file:
        file.write(SLOW_MAP)
    for number in range(8):
        path = os.path.join(domain.directory, f"text{number}")
        with open(path, "w") as file:
            file.write("to be or not to be\n" * 20)
        words += ["--input", path]
    job = master.ipdc("submit", slow, REDUCE, *words, "-k", "5", "--id-only", "--no-wait").stdout.strip()
    working = "node5"
    eventually(lambda: working in {n["name"] for n in master.json("status", job)["nodes"] if n["holds"]},
               f"{working} works for the job: {master.json('status', job)}")
    began = time.monotonic()
    domain.nodes[0].ipdc("expel", working)
    measured("the expelled node is alone", lambda: is_alone(worker), OUT, began)
    print("its log:", logged(worker, "is not a member of domain house any more"))
    assert line_of(worker.daemon.log(), "is up in domain alone")
    eventually(lambda: master.json("status", job)["state"] not in ("queued", "running"), "the job ends", 120)
    assert master.json("status", job)["state"] == "succeeded", master.json("status", job)
    assert master.result(job) == sorted(["be\t320", "not\t160", "or\t160", "to\t320"])
    print(f"the job ended right {time.monotonic() - began:.1f} s after the expulsion")
    assert all(working not in node.ready() | names(node) for node in domain.nodes[:4])
    domain.join(worker)
    attempt(working, "joins again with a new token", "domain", "joined")
    domain.wait_ready(seconds=30)


def test_expulsions_one_after_the_other(domain: Domain) -> None:
    nodes = domain.nodes
    thieves = [Member(domain, f"gang{number}") for number in range(3)]
    held = [Held(thief, nodes) for thief in thieves]
    brokers = [node.broker.process for node in nodes]
    began = time.monotonic()
    for thief in thieves:
        nodes[0].ipdc("expel", thief.name)
    measured("three expelled one after the other are cut everywhere", lambda: not sum(h.open() for h in held), OUT,
             began)
    for thief in thieves:
        assert all(len(thief.kept_out(node)) == 2 for node in nodes)
    assert [node.broker.process for node in nodes] == brokers and all(node.broker.running for node in nodes)
    for each in held:
        each.close()


def test_who_leaves_is_off_everybodys_list(domain: Domain) -> None:
    leaver = domain.add("leaver")
    domain.join(leaver)
    began = time.monotonic()
    said = leaver.ipdc("leave", "--yes").stdout
    assert "The domain does not know yet" not in said, said
    domain.nodes.remove(leaver)
    measured("who left is off everybody's list",
             lambda: all("leaver" not in names(node) | node.ready() for node in domain.nodes), OUT, began)
    assert is_alone(leaver)


def test_a_portal_that_leaves_and_joins_at_once_stays() -> None:
    """What ends the connections of who is no member, some seconds later, must not end the new member's."""
    with own_domain(2) as small:
        inviter, portal = small.nodes
        portal.ipdc("leave", "--yes")
        small.join(portal)
        later = time.monotonic() + PARTING + 1
        eventually(lambda: time.monotonic() > later, "who left is not spoken to any more")
        small.join(small.add("node3"))  # all publish their records anew
        small.wait_ready(seconds=30)
        assert "Traceback" not in inviter.daemon.log(), inviter.daemon.log()
