"""Nodes find each other: through portals, without them, and after an address changed.

Real daemons and brokers on hosts of their own. Times are the promises of the README, measured from the event to the
moment when the domain is whole again, and printed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.network.hosts import ROOT, Domain, DomainNode, Network
from tests.waiting import eventually

pytestmark = pytest.mark.network

FOUND = 15.0  # seconds in which a node whose address changed is found, and a domain is whole when a portal is back
MAP = os.path.join(ROOT, "ipdc_edge", "commands", "wordcount", "Map.py")
REDUCE = os.path.join(ROOT, "ipdc_edge", "commands", "wordcount", "Reduce.py")
SLOW_MAP = """
import time
def map(key, line):
    time.sleep(0.05)
    for word in line.split():
        yield word, 1
"""


def measured(what: str, condition: Callable[[], object], most: float) -> None:
    """Waits, prints how long it took, and fails when that was more than was promised."""
    began = time.monotonic()
    eventually(condition, what, most + 30)
    took = time.monotonic() - began
    print(f"{what}: {took:.1f} s (at most {most:g})")
    assert took <= most, what


def addresses(node: DomainNode) -> dict[str, str]:
    return {found["name"]: found["address"] for found in node.json("nodes") if found["state"] == "ready"}


def everybody_sees(nodes: list[DomainNode], where: dict[str, str]) -> Callable[[], bool]:
    return lambda: all(addresses(node) == where for node in nodes)


def counted(node: DomainNode, text: str, *options: str) -> list[str]:
    return node.result(node.submit(MAP, REDUCE, "--input", text, *options))


@pytest.fixture()
def text(directory: str) -> str:
    path = os.path.join(directory, "text")
    with open(path, "w") as file:
        file.write("to be or not to be\n" * 200)
    return path


WORDS = sorted(["be\t400", "not\t200", "or\t200", "to\t400"])


@pytest.mark.parametrize("who", [1, 0, 3], ids=["a-portal", "the-first-portal", "no-portal"])
def test_a_node_whose_address_changes_is_found_again(network: Network, directory: str, text: str, who: int) -> None:
    """What IPDC named as its open problem: DHCP gives a node another address."""
    domain = Domain(network, directory, 4)
    moved = domain.nodes[who]
    portals = {member["name"] for member in moved.json("domain", "show")["members"] if member["portal"]}
    assert (moved.host.name in portals) == (who != 3), portals
    where = {node.host.name: f"{node.host.address}:18830" for node in domain.nodes}
    measured("everybody sees everybody", everybody_sees(domain.nodes, where), FOUND)
    moved.host.readdress("10.77.0.77")
    where[moved.host.name] = "10.77.0.77:18830"
    measured(f"{moved.host.name} is found at its new address by all", everybody_sees(domain.nodes, where), FOUND)
    for node in (moved, domain.nodes[2]):
        assert counted(node, text, "-k", "4") == WORDS


def test_a_job_goes_on_when_its_master_and_then_a_worker_get_other_addresses(
    network: Network, directory: str, text: str
) -> None:
    domain = Domain(network, directory, 3)
    slow = os.path.join(directory, "Slow.py")
    with open(slow, "w") as file:
        file.write(SLOW_MAP)
    master = domain.nodes[2]
    job = master.ipdc("submit", slow, REDUCE, "--input", text, "-k", "3", "--id-only", "--no-wait").stdout.strip()
    eventually(lambda: master.json("status", job)["state"] == "running", "the job runs")
    master.host.readdress("10.77.0.88")
    eventually(lambda: len(addresses(domain.nodes[0])) == 3 and
               addresses(domain.nodes[0])["node3"].startswith("10.77.0.88"), "the master is found")
    domain.nodes[1].host.readdress("10.77.0.89")
    eventually(lambda: master.json("status", job)["state"] not in ("queued", "running"), "the job ends", 180)
    assert master.json("status", job)["state"] == "succeeded", master.json("status", job)
    assert master.result(job) == WORDS


def test_with_every_portal_down_jobs_run_and_start_and_when_one_is_back_the_domain_is_whole(
    network: Network, directory: str, text: str
) -> None:
    domain = Domain(network, directory, 5)
    names = {member["id"]: member["portal"] for member in domain.nodes[0].json("domain", "show")["members"]}
    portals = [node for node in domain.nodes if names[node.id]]
    left = [node for node in domain.nodes if not names[node.id]]
    assert len(portals) == 3 and len(left) == 2
    slow = os.path.join(directory, "Slow.py")
    with open(slow, "w") as file:
        file.write(SLOW_MAP)
    running = left[0].ipdc("submit", slow, REDUCE, "--input", text, "-k", "5", "--id-only", "--no-wait").stdout.strip()
    eventually(lambda: left[0].json("status", running)["state"] == "running", "the job runs")
    for portal in portals:
        portal.kill()
    both = {node.host.name for node in left}
    for node in left:
        eventually(lambda node=node: node.ready() == both, f"{node} knows who is left", 60)
    assert counted(left[1], text, "-k", "2") == WORDS, "a new job among those that are left"
    workers = left[1].json("jobs")[-1]["nodes"]
    assert {worker["name"] for worker in workers if worker["tasks_done"]} <= both
    eventually(lambda: left[0].json("status", running)["state"] == "succeeded", "the job from before ends", 180)
    assert left[0].result(running) == WORDS
    left[1].stop()
    left[1].start()
    eventually(lambda: left[1].ready() == both, "a node that starts with no portal remembers the others", 60)
    portals[0].start()
    whole = both | {portals[0].host.name}
    measured("the domain is whole with one portal back",
             lambda: all(node.ready() == whole for node in [*left, portals[0]]), FOUND)


def test_a_node_moved_while_it_was_off(network: Network, directory: str, text: str) -> None:
    """The only portal comes back at another address, and has to find the others, who cannot know where it is."""
    domain = Domain(network, directory, 2)
    first, second = domain.nodes
    first.stop()
    first.host.readdress("10.77.0.99")
    first.start()
    where = {"node1": "10.77.0.99:18830", "node2": f"{second.host.address}:18830"}
    measured("a portal that moved while it was off is found", everybody_sees(domain.nodes, where), FOUND)
    assert counted(second, text, "-k", "2") == WORDS
