"""A node's own Kubo under systemd: off by default, in the domain's network once its owner wants it, gone with that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.booted.node import Node
from tests.ipfs.kubo import CannotBuild, program

pytestmark = [pytest.mark.booted, pytest.mark.kubo]
UNIT = "ipdc-kubo.service"


def rpc(node: Node, command: str) -> dict[str, object]:
    """An answer of Kubo's, asked by a stranger to the node's files."""
    asks = ("import sys, urllib.request as u; "
            "print(u.urlopen(u.Request('http://127.0.0.1:5001/api/v0/' + sys.argv[1], method='POST')).read().decode())")
    found: dict[str, object] = json.loads(node.run(f'python3 -c "{asks}" {command}', "stranger").stdout)
    return found


def test_kubo_is_in_the_domains_network_as_long_as_the_node_is_in_the_domain(another: Callable[..., Node]) -> None:
    try:
        ipfs = Path(program())
    except CannotBuild as error:
        pytest.skip(str(error))
    node = another("kubo")
    assert node.run(f"systemctl is-enabled {UNIT}", check=False).stdout.strip() == "disabled"
    assert node.run(f"systemctl is-active {UNIT}", check=False).stdout.strip() == "inactive"
    node.configure(UNIT, "[Service]\nRestartSec=1\n")
    node.run(f"systemctl enable --now {UNIT}")
    node.eventually(lambda: "There is no `ipfs` (Kubo) on PATH" in node.journal("ipdc-kubo")
                    or "alone, in no domain" in node.journal("ipdc-kubo"), "it says what is missing")
    node.container.write("/usr/local/bin/ipfs", ipfs.read_bytes())
    node.run("chmod 755 /usr/local/bin/ipfs")
    node.eventually(lambda: "alone, in no domain" in node.journal("ipdc-kubo"), "and that the node is alone")
    node.ipdc("domain", "create", "home", user="root")
    node.running()
    node.eventually(lambda: "Daemon is ready" in node.journal("ipdc-kubo"), "Kubo runs, by itself", 120)
    own = rpc(node, "id")
    node.eventually(lambda: any(str(own["ID"]) in word for word in node.json("nodes")[0]["capabilities"]),
                    "the node's record names it", 60)
    assert "Swarm is limited to private network" in node.journal("ipdc-kubo")
    modes = node.run("stat -c '%a %U' /var/lib/ipdc/kubo /var/lib/ipdc/kubo/swarm.key /var/lib/ipdc/kubo/config").stdout
    assert modes.split() == ["700", "ipdc", "600", "ipdc", "600", "ipdc"]
    assert node.run("cat /var/lib/ipdc/kubo/swarm.key", "member", check=False).code != 0
    pid = node.main_pid(UNIT)
    node.ipdc("leave", "--yes", user="root")
    node.eventually(lambda: node.main_pid(UNIT) != pid, "Kubo has ended with the node's membership", 60)
    node.eventually(lambda: node.run("pgrep -x ipfs", check=False).code != 0, "and does not come again")
    assert node.run("pgrep -x ipfs", check=False).code != 0
