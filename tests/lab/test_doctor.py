"""doctor on real nodes that are really broken: killed and stopped brokers, damaged files, full disks, expulsion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.conftest import ROOT, Lab, eventually, ipdc

Checks = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two nodes to be broken; every test mends what it broke."""
    directory = tempfile.mkdtemp(prefix="ipdc-doctor-", dir="/tmp")
    lab = Lab(directory, 2)
    try:
        yield lab
    finally:
        lab.down()
        shutil.rmtree(directory)


def doctor(lab: Lab, node: int) -> tuple[int, Checks]:
    """Its exit code, and its checks by their names (the last where several share one)."""
    done = lab.run(node, "doctor", "--json", check=False)
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)}


def broker(lab: Lab, node: int) -> int:
    with open(os.path.join(lab.home(node), "run", "broker.pid")) as file:
        return int(file.read().split()[0])


def told(checks: Checks, words: str) -> dict[str, Any]:
    """What is told of a member with these words."""
    (found,) = [check for check in checks.values() if words in check["detail"]]
    assert found["ok"] is not True and found["advice"]
    return found


def test_well(pair: Lab) -> None:
    """On a busy machine a peer may not answer within doctor's 3 s, or not have heard of the other yet."""
    seen: list[Checks] = []

    def well() -> bool:
        code, checks = doctor(pair, 1)
        seen.append(checks)
        return code == 0 and checks["broker"]["ok"]

    try:
        eventually(well, "a node that is well")
    except AssertionError as error:
        raise AssertionError(json.dumps([check for check in seen[-1].values() if not check["ok"]], indent=1)) from error
    for name in ("broker", "daemon", "store", "certificate", "permissions", "peers", "versions"):
        assert seen[-1][name]["ok"], seen[-1][name]
    assert seen[-1]["peers"]["detail"] == "1 of 1 answer at their brokers and gateways"
    text = eventually(lambda: [told for told in [pair.run(1, "doctor", check=False).stdout] if "ok      peers" in told],
                      "the same in words")[0]
    assert text.endswith("Nothing is broken.\n")


def test_a_broker_that_was_killed(pair: Lab) -> None:
    os.kill(broker(pair, 2), signal.SIGKILL)
    code, checks = eventually(lambda: [found for found in [doctor(pair, 2)] if not found[1]["broker"]["ok"]],
                              "its loss")[0]
    assert code == 1 and checks["broker"]["detail"] == "this node's mosquitto does not run"
    assert f"ipdc-edge lab up --dir {pair.directory}" in checks["broker"]["advice"]
    code, checks = doctor(pair, 1)
    assert code == 1 and checks["peers"]["detail"] == "0 of 1 answer at their brokers"
    assert "doctor" in told(checks, "node2 (")["advice"] and "connection refused" in told(checks, "node2 (")["detail"]
    ipdc("lab", "up", "--nodes", "2", "--dir", pair.directory)
    eventually(lambda: doctor(pair, 2)[0] == 0 and doctor(pair, 1)[0] == 0, "both nodes are well again")


def test_a_broker_that_hangs(pair: Lab) -> None:
    process = broker(pair, 2)
    os.kill(process, signal.SIGSTOP)
    try:
        found = told(doctor(pair, 1)[1], "node2 (")
        assert "no answer within 3 s" in found["detail"] and "firewall" in found["advice"]
        code, checks = doctor(pair, 2)
        assert code == 1 and f"sudo kill -9 {process}" in checks["broker"]["advice"]
    finally:
        os.kill(process, signal.SIGCONT)
    eventually(lambda: doctor(pair, 2)[1]["broker"]["ok"], "it goes on", 60)


def test_a_gateway_that_is_gone(pair: Lab) -> None:
    """The daemon stops, its broker stays: others see the one and not the other."""
    with open(os.path.join(pair.home(2), "run", "daemon.pid")) as file:
        os.kill(int(file.read().split()[0]), signal.SIGKILL)
    try:
        code, checks = doctor(pair, 2)
        assert checks["daemon"]["ok"] is None and "No ipdc-edge daemon answers" in checks["daemon"]["detail"]
        assert checks["broker"]["ok"] is True and "takes this node's password" in checks["broker"]["detail"]
        assert code == 0 and checks["gateway_port"]["ok"] and "mqtt_port" not in checks, "its own broker took no port"
        code, checks = doctor(pair, 1)
        assert code == 0 and "gateway" in told(checks, "node2 (")["detail"]
    finally:
        ipdc("lab", "up", "--nodes", "2", "--dir", pair.directory)


def test_permissions_and_a_damaged_certificate(pair: Lab) -> None:
    identity = os.path.join(pair.home(2), "identity")
    os.chmod(identity, 0o755)
    code, checks = doctor(pair, 2)
    assert code == 1 and checks["permissions"]["advice"] == f"sudo chmod -R go= {identity}"
    subprocess.run(checks["permissions"]["advice"].removeprefix("sudo "), shell=True, check=True)
    assert doctor(pair, 2)[1]["permissions"]["ok"]
    path = os.path.join(identity, "current", "node.pem")
    with open(path, "rb") as file:
        good = file.read()
    try:
        with open(path, "wb") as file:
            file.write(good[: len(good) // 2])
        code, checks = doctor(pair, 2)
        assert code == 1 and "node.pem is damaged" in checks["certificate"]["detail"]
        assert f"sudo rm -r {identity}" in checks["certificate"]["advice"]
    finally:
        with open(path, "wb") as file:
            file.write(good)
    assert doctor(pair, 2)[1]["certificate"]["ok"]


def test_a_node_that_was_expelled(pair: Lab) -> None:
    """The last test of the pair: it is one no more."""
    pair.run(1, "expel", "node2")
    checks = eventually(lambda: [seen for seen in [doctor(pair, 2)[1]] if "expelled" in seen["domain"]["detail"]],
                        "node2 hears of it")[0]
    assert checks["domain"]["detail"].endswith("it left lab, or was expelled from it")
    assert "ipdc-edge join TOKEN" in checks["domain"]["advice"]
    assert "peers" not in doctor(pair, 1)[1]


def on_a_disk(options: str, spoil: str) -> tuple[int, Checks]:
    """doctor of a home on a small disk of its own, spoiled by a shell's line, in a mount namespace of its own."""
    ways = (["unshare", "-m"], ["unshare", "-rm"], ["sudo", "-n", "unshare", "-m"])
    way = next(way for way in ways if subprocess.run([*way, "true"], stderr=subprocess.DEVNULL).returncode == 0)
    with tempfile.TemporaryDirectory(prefix="ipdc-disk-") as directory:
        script = (f"set -e; mount -t tmpfs -o {options} none {directory}; cd {directory}; mkdir home; {spoil}; "
                  f"exec env PYTHONPATH={ROOT} IPDC_HOME={directory}/home /usr/bin/python3 -m ipdc_edge doctor --json")
        done = subprocess.run([*way, "sh", "-c", script], capture_output=True, text=True, cwd=directory, timeout=120)
    return done.returncode, {check["check"]: check for check in json.loads(done.stdout)}


def test_a_full_disk_one_without_inodes_and_one_that_is_read_only() -> None:
    code, checks = on_a_disk("size=1M", "head -c 1M /dev/zero > full || true")
    assert code == 1 and checks["disk"]["detail"].startswith("0 B free") and "du -xh" in checks["disk"]["advice"]
    assert checks["inodes"]["ok"]
    code, checks = on_a_disk("size=2G,nr_inodes=10", "for n in 1 2 3 4 5 6 7 8 9; do touch $n || true; done")
    assert code == 1 and checks["disk"]["ok"] and checks["inodes"]["detail"] == "room for 0 more files"
    code, checks = on_a_disk("size=2G", "mount -o remount,ro $PWD")
    assert code == 1 and "is read-only" in checks["disk"]["detail"] and "dmesg" in checks["disk"]["advice"]
