"""Roles of a cluster as systemd's units, on Debian 12 and 13: plain Python servers stand for TensorFlow (tests/lab has
the same ones under bubblewrap). Two roles on one node, which speak through its gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.booted.node import MEMBER, Node
from tests.lab.test_cluster import CLIENT, COUNTS, SERVER

pytestmark = pytest.mark.booted
STUB = """set -e
version=$(/usr/bin/python3 -c 'import sys; print(f"python3.{sys.version_info[1]}")')
packages=/var/lib/ipdc/tensorflow/lib/$version/site-packages
mkdir -p $packages/tensorflow $packages/tensorflow-2.21.0.dist-info /var/lib/ipdc/tensorflow/bin
touch $packages/tensorflow/__init__.py $packages/tensorflow-2.21.0.dist-info/RECORD
ln -s /usr/bin/python3 /var/lib/ipdc/tensorflow/bin/python3
chown -R ipdc:ipdc /var/lib/ipdc/tensorflow
systemctl reload ipdc-edge
"""
PROGRAM = CLIENT + """
for n in (0, 1): print(ask(n, f"ask {1 - n}").decode(), end="")
for address in (("127.0.0.1", 18833), ("127.0.0.1", 18831), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, 3)
        print("reached", address)
    except OSError as error:
        print("refused")
for hidden in ("/var/lib/ipdc/identity/key.pem", f"/proc/{os.getppid()}/mem", f"/proc/{os.getppid()}/environ"):
    try:
        print(len(open(hidden, "rb").read(1)))
    except OSError:
        print("hidden", flush=True)
"""


def test_roles_run_in_units_with_a_network_of_their_own(another: Callable[..., Node]) -> None:
    node = another("roles", 2 << 30)
    node.run(STUB)

    def capable() -> Any:
        found = json.loads(node.ipdc("nodes", "--json").stdout)[0]
        return {"tensorflow", "tensorflow=2.21.0"} <= set(found["capabilities"])

    node.eventually(capable, "it tells of its TensorFlow")
    for name, text in (("ClusterSpec.conf", '{"local": [0, 1]}'), ("server.py", SERVER), ("program.py", PROGRAM)):
        node.run(f"cat > {name}", MEMBER, stdin=text.encode())
    node.ipdc("tf", "plan", "--share", "--memory", "256M")
    node.run("cp server.py create_worker.py", MEMBER)
    cluster = json.loads(node.ipdc("tf", "up", "--json", "--timeout", "60").stdout)["id"]
    shown = node.run("systemctl list-units --plain --no-legend 'ipdc-runner-role@*.service'").stdout
    assert shown.count("ipdc-runner-role@") == 2, shown
    unit = shown.split()[0]
    assert node.run(f"systemctl show --property=Slice {unit}").stdout == "Slice=ipdc-role.slice\n"
    assert ":222" not in node.run("cat /proc/net/tcp | cut -c1-20; ss -ltn").stdout
    done = node.ipdc("tf", "run", "program.py")
    assert done.stdout.splitlines() == ["local:0 asked: I am local:1", "local:1 asked: I am local:0",
                                        *["refused"] * 3, *["hidden"] * 3]
    assert "up" in node.ipdc("tf", "status").stdout
    # one that is started again, in a unit of its own each time, finds what it had written
    node.run("cat > counts.py", MEMBER, stdin=f"{COUNTS}os._exit(0 if starts == 3 else 9)\n".encode())
    done = node.ipdc("tf", "run", "--restart", "counts.py")
    assert [line for line in done.stdout.splitlines() if line.startswith("start ")] == ["start 1", "start 2", "start 3"]
    node.ipdc("tf", "down", cluster)
    node.eventually(lambda: "ipdc-runner-role@" not in node.run(
        "systemctl list-units --plain --no-legend 'ipdc-runner-role@*.service'").stdout, "their units are gone")
    assert not node.failed_units()
    # where the kernel refuses a network of its own, systemd goes on without
    node.run("cd /etc/systemd/system; mkdir ipdc-runner-role@.service.d; cat > ipdc-runner-role@.service.d/open.conf; "
             "systemctl daemon-reload", stdin=b"[Service]\nPrivateNetwork=no\n")
    done = node.ipdc("tf", "up", "--timeout", "60", check=False)
    assert done.code == 1 and "has no network of its own" in done.stderr, done.stderr
