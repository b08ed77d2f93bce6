"""Boards without a clock: nodes in 1970 and ten years ahead are members like others. The member list's version alone
says what is newer, and it never goes back.

Clocks are faked by libfaketime below every process of a node. It shifts the monotonic clock by the same amount, which
still runs evenly, as it does on a board that has just been switched on.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec import member_list
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.core.messages import Members
from tests.drivers.mqtt5 import SUCCESS
from tests.network.hosts import PYTHON, Domain, DomainNode
from tests.network.raw import Member, attempt, identity_of, line_of, measured, own_domain
from tests.waiting import eventually

pytestmark = pytest.mark.network

OUT = 10.0  # seconds that are promised
MAP = """
import time
def map(key, line):
    time.sleep(0.03)
    for word in line.split():
        yield word, 1
"""
REDUCE = """
def reduce(key, values):
    yield key, sum(values)
"""


def clock(year: str) -> tuple[str, ...]:
    """The words before a command for which it is ten seconds after that year's beginning; "now": none."""
    found = sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("needs faketime")
    if year == "now":
        return ()
    return ("env", f"LD_PRELOAD={found[0]}", f"FAKETIME=@{year}-01-01 00:00:10", "NO_FAKE_STAT=1", "TZ=UTC")


def year_of(node: DomainNode) -> str:
    words = node._wrap + (PYTHON, "-c", "import time; print(time.gmtime().tm_year)")
    return node.host.run(*words).stdout.strip()


AHEAD = str(time.gmtime().tm_year + 10)


@pytest.fixture(scope="module", params=["1970", AHEAD], ids=["creator-in-1970", "creator-ahead"])
def domain(request: pytest.FixtureRequest) -> Iterator[Domain]:
    """Three nodes: one in 1970, one ten years ahead, one that is right; who creates the domain is a parameter."""
    years = [request.param, {"1970": AHEAD, AHEAD: "1970"}[request.param], "now"]
    with own_domain(0) as made:
        for number, year in enumerate(years, 1):
            node = DomainNode(made.network.host(f"node{number}"), made.directory, wrap=clock(year))
            made.nodes.append(node)
            node.start()
            if number == 1:
                node.ipdc("domain", "create", made.name)
            else:
                made.join(node)
            attempt(f"node{number}", "creates the domain" if number == 1 else "joins", f"its clock: {year_of(node)}",
                    "done")
            assert year_of(node) == (year if year != "now" else str(time.gmtime().tm_year))
        made.wait_ready()
        yield made
        for node in made.nodes:
            assert "Traceback" not in node.daemon.log(), node.daemon.log()


def works(domain: Domain, master: DomainNode) -> None:
    """A job of this master's in which every node does something."""
    code = os.path.join(domain.directory, "Map.py"), os.path.join(domain.directory, "Reduce.py")
    words = []
    for path, text in zip(code, (MAP, REDUCE)):
        Path(path).write_text(text)
    for number in range(12):
        path = os.path.join(domain.directory, f"text{number}")
        Path(path).write_text("to be or not to be\n" * 10)
        words += ["--input", path]
    job = master.submit(*code, *words, "-k", "3")
    assert master.result(job) == ["be\t240", "not\t120", "or\t120", "to\t240"]
    done = {node["name"]: node["tasks_done"] for node in master.json("status", job)["nodes"]}
    attempt(f"{master.host.name} in {year_of(master)}", "is master of a job", "domain", f"right; tasks done: {done}")
    assert len(done) == 3 and all(done.values()), done


def version(node: DomainNode) -> int:
    return int(node.json("domain", "show")["version"])


def test_every_node_is_master_and_worker(domain: Domain) -> None:
    for node in domain.nodes:
        works(domain, node)


def test_who_is_expelled_is_out_and_the_members_are_not(domain: Domain) -> None:
    thief, loyal = Member(domain, "thief"), Member(domain, "loyal")
    for node in domain.nodes:
        eventually(lambda node=node: thief.gets_in(node) and loyal.gets_in(node), f"both get in at {node}")
    began = time.monotonic()
    domain.nodes[0].ipdc("expel", "thief")
    measured("the expelled one is out at every node", lambda: all(len(thief.kept_out(n)) == 2 for n in domain.nodes),
             OUT, began)
    for node in domain.nodes:
        assert loyal.gets_in(node)
        attempt("the thief, then a member", "connects", f"{node} in {year_of(node)}",
                f"refused: {thief.kept_out(node)}; let in")
    domain.wait_ready()
    domain.nodes[0].ipdc("expel", "loyal")


def test_a_node_that_restarts_with_another_clock_goes_on(domain: Domain) -> None:
    for node, year in zip(domain.nodes[1:], ("now", "1970")):
        node.stop()
        node.wrapped(*clock(year))
        node.start()
    domain.wait_ready(seconds=30)
    for node in domain.nodes[1:]:
        works(domain, node)
    newcomer = Member(domain, "newcomer")
    for node in domain.nodes:
        eventually(lambda node=node: newcomer.gets_in(node), f"a newcomer gets in at {node}")
    domain.nodes[0].ipdc("expel", "newcomer")
    for node in domain.nodes:
        eventually(lambda node=node: len(newcomer.kept_out(node)) == 2, f"it is out at {node}")


def tell(member: Member, node: DomainNode, signed: bytes, claimed: int) -> None:
    """The member says at the node's broker that it holds this list, which it sends along."""
    own = member.host.address
    message = Members(claimed, raw_cid(signed), f"{own}:18830", f"{own}:18831", member_list.pack(signed))
    client = member.mqtt(node)
    payload = MessageCodec((), ()).encode(message, 1 << 20).payload
    assert client.publish(member.topic("members"), payload) == SUCCESS
    client.close()


def test_an_older_list_that_a_member_tells_changes_nothing_and_a_newer_one_does(domain: Domain) -> None:
    first, last = domain.nodes[0], domain.nodes[2]
    spy, honest, thief = (Member(domain, name) for name in ("spy", "honest", "enemy"))
    for node in domain.nodes:
        eventually(lambda node=node: all(m.gets_in(node) for m in (spy, honest, thief)), f"all get in at {node}")
    old, known = identity_of(first).signed, version(first)
    first.ipdc("expel", "enemy")
    for node in domain.nodes:
        eventually(lambda node=node: version(node) == known + 1 and len(thief.kept_out(node)) == 2, f"{node} has it")
    for node in domain.nodes:
        for claimed in (known, known + 1, known + 1000):
            tell(spy, node, old, claimed)
        # the first two say nothing new; the third is told as what it is not, and the spy is disbelieved for a while
        eventually(lambda node=node: tell(spy, node, old, known + 1000) or line_of(
            node.daemon.log(), f"member list {known + 1000} of {spy.identity.id} is not taken"), f"{node} refuses it")
        assert version(node) == known + 1
    first.daemon.stop()
    first.ipdc("expel", "spy")  # the list lies on a node whose daemon is off, and only the honest member has it
    new = identity_of(first).signed
    eventually(lambda: tell(honest, last, new, known + 2) or version(last) == known + 2, "the newer list is taken")
    attempt("a member", f"tells list {known + 2}", str(last), "taken")
    for node in domain.nodes:
        taken = [int(found) for found in re.findall(r"^member list (\d+): ", node.daemon.log(), re.MULTILINE)]
        assert taken == sorted(set(taken)), f"{node} went back: {taken}"
    for node in domain.nodes[1:]:
        assert version(node) >= known + 1 and len(thief.kept_out(node)) == 2
        attempt("a member", f"tells list {known} as {known}, {known + 1}, {known + 1000}", str(node),
                f"nothing: it holds {version(node)}")
    assert len(spy.kept_out(last)) == 2
    first.start()
    domain.wait_ready(seconds=30)
    first.ipdc("expel", "honest")
