"""The sandbox of roles, on Debian 12 and 13 with their systemd: a role's program tries what test_sandbox.py has jobs
try, beside a role of another cluster; and nobody who is not of a cluster gets to what listens in it.

Root's own attempts, which show that each can succeed, are made there. Plain Python servers stand for TensorFlow, whose
program could do all of this too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from ipdc_edge.drivers.gateway import TUNNEL
from tests.booted.containers import Containers
from tests.booted.node import MEMBER, Node
from tests.booted.test_roles import STUB
from tests.booted.test_sandbox import HARMLESS, HOSTILE, LEFT, PLANT, SERVICE, targets
from tests.lab.test_cluster import SERVER

pytestmark = pytest.mark.booted
PORT = 2222  # at which the one role of the other cluster listens, in its own network
# Asks a gateway for a tunnel, without a certificate.
ASKS = """
import socket, ssl, sys
host, _, port = sys.argv[1].rpartition(":")
context = ssl._create_unverified_context()
try:
    with context.wrap_socket(socket.create_connection((host, int(port)), 5)) as connection:
        connection.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: ipdc-tunnel\\r\\n\\r\\n".encode())
        print(connection.recv(100))
except OSError as error:
    print(error)
"""
PEER = f"import os\nos.umask(0)\nwith open('open-to-all', 'w') as file: file.write('for my peer')\n{SERVER}"
RESULT = re.compile(r"[^\t]+\t(ALLOWED|DENIED|BROKEN|HUNG)\b[^\t]*")  # programs that are tried print too
# What a role may do that a job may not, and why that is harmless.
OF_ROLES = {
    "makes a socket of INET": "in its own network, where there is nothing but the tunnels to its own cluster",
    "makes a socket of INET, UDP": "the same",
    "makes a socket of INET6": "the same",
    "makes a pair of sockets": "speaks with itself; no socket of others is in its sight or its network",
    "gives its socket to the daemon a name": "one of such a pair: the program has no socket to the daemon",
    "maps memory for writing and executing": "TensorFlow makes code while it runs; a job may ship programs anyway",
    "makes code of memory that it wrote (mprotect)": "the same",
    "makes a file in /dev/shm": "64 MB of memory of its own, without execution, that go with it",
    "has something mounted for writing, beside its own directory": "that /dev/shm",
    "fills the disk from its own directory: 64 MB": "256 MB of memory of its own, in its budget",
    "takes 10000 names in its own directory": "of 16384, in that memory",
    "takes 300 MB of memory that is shared": "within its budget of 3 GB",
    "forks 200 processes": "TensorFlow begins as many threads; the slice of all roles has a bound",
    "starts 200 threads": "the same",
}


@pytest.fixture(scope="module")
def board(containers: Containers, suite: str, deb: object) -> Iterator[Node]:
    """A node with secrets, a service of its owner's, the result of a job, and a cluster of another program."""
    made = Node(containers.boot(f"hostile-{suite}", suite, 12 << 30))
    made.install(deb)  # type: ignore[arg-type]
    made.running()
    made.container.write("/root/service.py", SERVICE)
    made.run(PLANT)
    made.run(STUB)
    made.eventually(lambda: "tensorflow" in made.json("nodes")[0]["capabilities"], "it tells of its TensorFlow")
    made.count_words("some words")
    for name in "peer", "own":
        made.run(f"mkdir {name}; echo '{{\"local\": [0]}}' > {name}/ClusterSpec.conf", MEMBER)
        memory = "512M" if name == "peer" else "3G"  # of 200 forks each page counts 200 times
        made.run(f"cd {name}; ipdc-edge tf plan --memory {memory}; cat > create_worker.py", MEMBER,
                 stdin=(PEER if name == "peer" else SERVER).encode())
    for file in HOSTILE.glob("*.py"):
        made.run(f"cat > own/{file.name}", MEMBER, stdin=file.read_bytes())
    yield made
    containers.discard(made.container)


@pytest.fixture
def peer(board: Node) -> Iterator[str]:
    """A cluster whose one role listens; its id."""
    cluster = json.loads(board.run("cd peer; ipdc-edge tf up --json --timeout 60", MEMBER).stdout)["id"]
    yield str(cluster)
    board.ipdc("tf", "down", cluster)
    board.eventually(lambda: not board.runners(), "nothing runs any more")


def hostile(board: Node) -> dict[str, str]:
    """What a role's program got, while another cluster's role and the node's services are there."""
    (unit,) = board.runners()
    watcher = int(board.main_pid(unit))
    (program,) = board.run(f"pgrep -P {watcher}").stdout.split()
    own = json.loads(board.run("cd own; ipdc-edge tf up --json --timeout 60", MEMBER).stdout)["id"]
    try:
        words = targets(board, program).strip()
        done = board.run(f"cd own; ipdc-edge tf run --cluster {own} Role.py '{words}'", MEMBER)
        assert board.main_pid(unit) == str(watcher), "the other cluster's role was harmed"
    finally:
        board.ipdc("tf", "down", own)
        board.eventually(lambda: board.runners() == [unit], "its units are gone")
    return dict(line.split("\t") for line in done.stdout.splitlines() if RESULT.fullmatch(line))  # type: ignore[misc]


def allowed(found: dict[str, str]) -> dict[str, str]:
    return {name: result for name, result in found.items() if not result.startswith("DENIED ")}


def test_a_hostile_role_gets_nothing_of_the_node_nor_of_another_cluster(board: Node, peer: str) -> None:
    found = hostile(board)
    search = f"find / \\( -path /proc -o -path /sys -o -path /home \\) -prune -o -name '*{LEFT}*' -print"
    left = board.run(search).stdout
    print("\n".join(f"{name:60}  {result}" for name, result in found.items()))
    assert len(found) > 150
    more = allowed(found)
    expected = HARMLESS.keys() | OF_ROLES.keys()
    assert more.keys() == expected, {name: found.get(name) for name in more.keys() ^ expected}
    assert not left, "a role left something behind"


def test_a_sandbox_of_roles_that_is_opened_is_noticed(board: Node, peer: str) -> None:
    """Each protection that is taken away lets something through."""
    unit = "ipdc-runner-role@.service"
    board.configure(unit, "[Service]\nRestrictAddressFamilies=\nSystemCallFilter=\nProtectProc=default\n"
                          "ProtectHome=no\nRestrictNamespaces=no\nPrivateUsers=no\nProcSubset=all\n")
    try:
        found = hostile(board)
    finally:
        board.run(f"rm -r /etc/systemd/system/{unit}.d; systemctl daemon-reload")
    expected = {
        "makes a socket of NETLINK", "sees the daemon", "sees another job's runner", "reads a user's open file",
        "makes a user namespace (clone3)", "runs a program from memory (memfd)", "gets a ring (io_uring)",
        "reads the memory of this machine",
    }  # fmt: skip
    assert expected <= allowed(found).keys(), {name: found[name] for name in expected - allowed(found).keys()}


KNOCKS = f"""
import socket
def map(key, line):
    for address in line.split():
        try:
            socket.create_connection((address, {PORT}), 3)
            yield "in", 1
        except OSError:
            yield "refused", 1
"""
BY_HAND = KNOCKS + "for address in sys.argv[1:]:\n    for said, _ in map(0, address): print(said)\n"


def test_neither_a_job_nor_a_user_of_the_node_nor_a_stranger_reaches_a_role(
    board: Node, peer: str, containers: Containers
) -> None:
    """A user of the node has its network; so would a job to which the owner allowed it."""
    address = board.container.address
    places = ["127.0.0.1", "::1", address]
    job = board.submit(KNOCKS, " ".join(places) + "\n")
    board.wait(job)
    assert board.result(job) == ["refused\t1"] * 3
    by_hand = board.run(f"python3 - {' '.join(places)}", MEMBER, stdin=f"import sys\n{BY_HAND}".encode())
    assert by_hand.stdout.split() == ["refused"] * 3
    stranger = containers.network.host(f"stranger{len(containers.network.hosts)}")
    try:
        said = stranger.run("/usr/bin/python3", "-", address, input=f"import sys\n{BY_HAND}")
        assert said.stdout.split() == ["refused"]
        (node,) = board.json("nodes")
        path = f"{TUNNEL}{peer}/{node['id']}/local-0"
        assert "101" not in stranger.run("/usr/bin/python3", "-", node["gateway"], path, input=ASKS).stdout
    finally:
        containers.network.hosts.remove(stranger)
        stranger.remove()
