"""With real Avahi daemons: a node is found by others on the LAN without any address being set."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipdc_edge.codec.node_id import node_id
from ipdc_edge.drivers import discovery, identity
from ipdc_edge.drivers.discovery import Found
from ipdc_edge.home import Home
from ipdc_edge.settings import load
from tests.network.hosts import PYTHON, ROOT, Domain, DomainNode, Network
from tests.network.mdns import Avahi
from tests.waiting import eventually

pytestmark = pytest.mark.network
NODE, OTHER, DOMAIN = (node_id(hashlib.sha256(word).digest()) for word in (b"node", b"other", b"domain"))
BROWSE = "import json; from ipdc_edge.drivers.discovery import browse; print(json.dumps(browse(4)))"


@pytest.fixture(autouse=True)
def tools() -> None:
    for tool in ("avahi-daemon", "avahi-browse", "dbus-daemon"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def browse(avahi: Avahi) -> list[Found]:
    found = avahi.run(PYTHON, "-c", BROWSE, env={"PYTHONPATH": ROOT}).stdout
    return [Found(*each) for each in json.loads(found)]


def publish(avahi: Avahi, tmp_path: Path, node: str, port: int) -> None:
    conf = tmp_path / "ipdc.conf"
    conf.write_text(f"mqtt_port = {port}\n")
    identity = SimpleNamespace(id=node, authority=DOMAIN, alone=False)
    assert discovery.publish(identity, load(str(conf)), avahi.services)


def test_a_node_is_found_wherever_it_is_until_it_leaves(network: Network, tmp_path: Path) -> None:
    one, two, three = (Avahi(network.host()) for _ in range(3))
    assert browse(two) == []
    publish(one, tmp_path, NODE, 18830)
    publish(three, tmp_path, OTHER, 1884)
    wanted = {Found(NODE, "10.77.0.1", 18830, DOMAIN), Found(OTHER, "10.77.0.3", 1884, DOMAIN)}
    eventually(lambda: set(browse(two)) == wanted, "both nodes, by their addresses")
    one.host.readdress("10.77.0.77")
    moved = Found(NODE, "10.77.0.77", 18830, DOMAIN)
    eventually(lambda: moved in browse(two), "the node at its new address")
    assert discovery.withdraw(one.services)
    eventually(lambda: [found.node for found in browse(two)] == [OTHER], "the one that stays")


def test_a_host_without_avahi_finds_nothing_at_once(network: Network) -> None:
    avahi = Avahi(network.host())
    avahi.stop()
    assert browse(avahi) == []


def announce(avahi: Avahi, node: DomainNode) -> None:
    """As `ipdc-edge join` does it on an installed node."""
    home = Home({"IPDC_HOME": node.home})
    assert discovery.publish(identity.load(home), load(home.conf), avahi.services)


def test_nodes_of_a_domain_that_all_moved_find_each_other_with_no_address_configured(
    network: Network, directory: str
) -> None:
    """The router was replaced while everything was off: nobody is where anybody remembers."""
    domain = Domain(network, directory, 2)
    avahis = [Avahi(node.host) for node in domain.nodes]
    for node, avahi in zip(domain.nodes, avahis):
        node.stop()
        announce(avahi, node)
    eventually(lambda: all(len(browse(avahi)) == 2 for avahi in avahis), "Avahi announces both")
    for number, (node, avahi) in enumerate(zip(domain.nodes, avahis)):
        node.host.readdress(f"10.77.0.{100 + number}")
        node.wrapped(*avahi.inside)
        node.start()
    domain.wait_ready(seconds=60)
    seen = {found["name"]: found["address"] for found in domain.nodes[1].json("nodes")}
    assert seen == {"node1": "10.77.0.100:18830", "node2": "10.77.0.101:18830"}
