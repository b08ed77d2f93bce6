"""The package as apt installs it on a booted system: what runs, who may use it, and that it works."""

from __future__ import annotations

import pytest

from tests.bare.debian import CHECKOUT
from tests.booted.node import STRANGER, UNITS, Node, counted

pytestmark = pytest.mark.booted


def test_all_units_are_active_and_none_has_failed(node: Node) -> None:
    assert node.active() == ["active"] * len(UNITS)
    assert node.failed_units() == ""
    assert node.run(f"systemctl is-enabled {' '.join(UNITS)}").stdout.split() == ["enabled"] * len(UNITS)


def test_status_says_what_the_node_does(node: Node) -> None:
    said = node.run("systemctl status --no-pager ipdc-edge").stdout
    assert f'Status: "{node.container.name} in domain alone: 1 member, ' in said
    assert "0 tasks running here" in said


def test_a_user_of_the_group_gets_a_right_result_out_of_the_sandbox(node: Node) -> None:
    texts = ("one two two\n", "three three three\n")
    assert node.count_words(*texts) == counted(*texts)
    (record,) = node.json("nodes")
    assert record["sandbox"].startswith("systemd")
    assert "ipdc-runner@" in node.journal("'ipdc-runner@*'"), "no runner was a unit"


def test_a_user_without_the_group_is_told_what_to_type(node: Node) -> None:
    refused = node.ipdc("nodes", user=STRANGER, check=False)
    assert refused.code != 0
    assert f"sudo usermod -aG ipdc {STRANGER}" in refused.stderr


def test_runners_with_a_network_are_off_until_the_owner_allows_them(node: Node) -> None:
    shown = node.run("systemctl is-enabled ipdc-runner-net.socket; systemctl is-active ipdc-runner-net.socket",
                     check=False).stdout.split()
    assert shown == ["disabled", "inactive"]
    assert node.run("test -e /run/ipdc/runner-net.sock", check=False).code != 0
    assert node.run("ls /etc/avahi/services/ipdc-edge.service", check=False).code != 0


def test_a_node_alone_listens_on_loopback_only(node: Node) -> None:
    ports = [line.split()[3] for line in node.run("ss -Hltn").stdout.splitlines()]
    ours = [address for address in ports if ":1883" in address and not address.endswith(":1883")]
    assert ours and all(address.startswith("127.0.0.1:") for address in ours), ports


def test_the_packages_own_test_passes_as_it_is(node: Node) -> None:
    script = (CHECKOUT / "debian/tests/word-count").read_bytes()
    node.container.write("/root/word-count", script, "755")
    node.run("/root/word-count")
