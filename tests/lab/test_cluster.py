"""Clusters on a lab of three nodes: roles that are plain Python servers stand for TensorFlow, which tests/tensorflow
brings. Everything else is real: sandboxes, tunnels, certificates, processes that do not want to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.drivers import identity, tls
from ipdc_edge.home import Home
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually
from tests.lab.test_follow import following

PORTS = (2222, 2223)
# A role: listens on every address, as TensorFlow does, and asks nobody who he is. "ask N" has it ask role N.
SERVER = """
import json, os, signal, socket, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
addresses = json.loads(os.environ["ipdc_cluster"])["local"]
me = f"{sys.argv[1]}:{sys.argv[2]}"
config = json.loads(os.environ["TF_CONFIG"])
assert config["task"] == {"type": sys.argv[1], "index": int(sys.argv[2])}, config
def ask(number, words):
    host, port = addresses[number].split(":")
    with socket.create_connection((host, int(port)), 10) as other:
        other.sendall(words + b"\\n")
        return other.makefile("rb").read()
def serve(connection):
    with connection:
        words = connection.makefile("rb").readline().split()
        if words[0] == b"ask":
            connection.sendall(f"{me} asked: ".encode() + ask(int(words[1]), b"hello"))
        elif words[0] == b"big":
            connection.sendall(b"x" * int(words[1]))
        elif words[0] == b"exit":
            os._exit(int(words[1]))
        else:
            connection.sendall(f"I am {me}\\n".encode())
listener = socket.create_server(("", int(addresses[int(sys.argv[2])].split(":")[1])))
print("serves", me, flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
CLIENT = """
import json, os, socket, sys
addresses = json.loads(os.environ["ipdc_cluster"])["local"]
def ask(number, words):
    host, port = addresses[number].split(":")
    with socket.create_connection((host, int(port)), 10) as other:
        other.sendall(words.encode() + b"\\n")
        return other.makefile("rb").read()
"""


def fake_environment(place: Path) -> None:
    """What a daemon takes for an environment with TensorFlow."""
    packages = place / f"lib/python3.{sys.version_info[1]}/site-packages"
    (packages / "tensorflow").mkdir(parents=True)
    (packages / "tensorflow/__init__.py").write_text("")
    (packages / "tensorflow-2.21.0.dist-info").mkdir()
    (packages / "tensorflow-2.21.0.dist-info/RECORD").write_text("")
    (place / "bin").mkdir()
    (place / "bin/python3").symlink_to(os.path.realpath("/usr/bin/python3"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    needs_bubblewrap()
    top = tmp_path_factory.mktemp("cluster")
    fake_environment(top / "venv")
    found = Lab(str(top / "lab"), 3, "--sandbox", "bubblewrap")
    try:
        for number in (1, 2, 3):
            with open(f"{found.home(number)}/ipdc.conf", "a", encoding="utf-8") as conf:
                conf.write(f"tensorflow = {top / 'venv'}\n")
            os.kill(int(Path(found.home(number), "run/daemon.pid").read_text().split()[0]), signal.SIGHUP)
        eventually(lambda: all("tensorflow=2.21.0" in node["capabilities"] for node in found.json(1, "nodes")),
                   "they tell of it")
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")


class Cluster:
    """Two roles, on node1 and node2, in a directory of files."""

    def __init__(self, lab: Lab, place: Path) -> None:
        self.lab, self.place = lab, place
        (place / "ClusterSpec.conf").write_text('{"local": [0, 1]}')
        self.run("plan", "--memory", "256M", "--nodes", "node1", "node2")
        (place / "create_worker.py").write_text(SERVER)

    def run(self, *words: str, **options: Any) -> Any:
        return self.lab.run(1, "tf", *words, cwd=self.place, **options)

    def up(self, *words: str) -> str:
        return str(json.loads(self.run("up", "--json", *words).stdout)["id"])

    def program(self, body: str) -> str:
        (self.place / "program.py").write_text(CLIENT + body)
        return "program.py"

    def job(self, ident: str) -> dict[str, Any]:
        return self.lab.json(1, "status", ident)  # type: ignore[no-any-return]


@pytest.fixture
def cluster(lab: Lab, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(lab, tmp_path)
    try:
        yield found
    finally:
        for view in lab.json(1, "tf", "status"):
            found.run("down", view["id"])
        eventually(lambda: not processes(b"create_worker.py"), "all processes end")


def processes(word: bytes) -> list[int]:
    """Processes of roles on this machine, by their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if len(words) > 2 and words[1] == word and words[0].endswith(b"/venv/bin/python3"):
            found.append(int(name))
    return found


def heard_here() -> set[int]:
    """Ports at which anything listens in this machine's own network."""
    found = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}", encoding="ascii") as file:
            found |= {int(line.split()[1].rpartition(":")[2], 16) for line in list(file)[1:] if line.split()[3] == "0A"}
    return found


async def knock(lab: Lab, node: int, path: str, certificate_of: int | None) -> bytes:
    """What node's gateway answers to who asks for a tunnel, with a node's certificate or with none, and, if that is
    101, what the role behind it says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate_of is not None:
        context = tls.client_context(identity.load(Home({"IPDC_HOME": lab.home(certificate_of)})))
    (gateway,) = [n["gateway"] for n in lab.json(1, "nodes") if n["name"] == f"node{node}"]
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: ipdc-tunnel\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        if b" 101 " in head.split(b"\r\n")[0]:
            writer.write(b"hello\n")
        return head + await asyncio.wait_for(reader.read(1000), 10)
    finally:
        writer.transport.abort()


def test_roles_speak_through_tunnels_and_a_program_with_them(cluster: Cluster) -> None:
    ident = cluster.up()
    told = cluster.run("status").stdout
    assert [line.split()[:3] for line in told.splitlines()[2:]] == [
        [f"local:{n}", place["name"], "up"] for n, place in enumerate(places(cluster))]
    program = cluster.program('for n in (0, 1): print(ask(n, "hello").decode(), end="")\n'
                              'for n in (0, 1): print(ask(n, f"ask {1 - n}").decode(), end="")\n'
                              'print(len(ask(1, "big 5000000")), sys.argv[1:], flush=True)\n'
                              'open(os.environ["IPDC_OUTPUT"] + "/model", "w").write("weights")')
    done = cluster.run("run", program, "--epochs", "3")
    assert done.stdout == ("I am local:0\nI am local:1\nlocal:0 asked: I am local:1\nlocal:1 asked: I am local:0\n"
                           "5000000 ['--epochs', '3']\n")
    part = done.stderr.strip().rpartition(" ")[2]
    import tarfile

    with tarfile.open(part) as tar:
        assert tar.getnames() == ["model"]
    assert cluster.job(ident)["state"] == "running"
    cluster.run("down")
    assert cluster.job(ident)["state"] == "cancelled"
    assert cluster.run("status", check=False).returncode == 1


def places(cluster: Cluster) -> list[dict[str, Any]]:
    with open(cluster.place / "ClusterSpec.json", encoding="utf-8") as file:
        return list(json.load(file)["Nodes"].values())


def test_what_the_roles_print_is_followed_where_the_cluster_was_ordered(cluster: Cluster) -> None:
    ident = cluster.up()
    expected = {f"local:{n}@{place['name']} | serves local:{n}" for n, place in enumerate(places(cluster))}
    with following(cluster.lab, "logs", "-f", ident) as follower:
        eventually(lambda: set(follower.lines) == expected, "both are heard")
        cluster.run("down")
        assert follower.end() == 0 and set(follower.lines) == expected


def test_nobody_else_gets_in(cluster: Cluster, lab: Lab) -> None:
    """From outside, from a member that is not of the cluster, from a job in a sandbox; a member of it does get in."""
    ident = cluster.up()
    assert not heard_here() & set(PORTS), "a role is heard in this machine's own network"
    nodes = {node["name"]: node for node in lab.json(1, "nodes")}
    (at,) = [int(place["name"][-1]) for place in places(cluster)[1:]]
    path = f"/ipdc/tunnel/{ident}/{nodes['node1']['id']}/local-1"
    assert b"I am local:1" in asyncio.run(knock(lab, at, path, 3 - at))  # of the cluster
    assert asyncio.run(knock(lab, at, path, 3)).startswith(b"HTTP/1.1 403 ")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        asyncio.run(knock(lab, at, path, None))
    for wrong in (path.replace("local-1", "local-0"), path.replace("local-1", "x"), path.replace("local-1", ""),
                  path.replace(nodes["node1"]["id"], nodes["node2"]["id"]), path + "/..",
                  path.replace(ident[-4:], "aaaa")):
        assert asyncio.run(knock(lab, at, wrong, 3 - at)).startswith(b"HTTP/1.1 403 "), wrong
    (cluster.place / "Map.py").write_text(
        "import socket\ndef map(key, line):\n    for port in (2222, 2223):\n        try:\n"
        "            socket.create_connection(('127.0.0.1', port), 2)\n            yield 'in', 1\n"
        "        except OSError as error:\n            yield 'refused', 1\n")
    (cluster.place / "line").write_text("x\n")
    job = lab.submit(1, str(cluster.place / "Map.py"), "--input", str(cluster.place / "line"))
    assert lab.run(1, "result", job).stdout.split() == ["refused", "1", "refused", "1"]


def test_a_program_that_is_no_role_is_spoken_to_by_nobody(cluster: Cluster, lab: Lab) -> None:
    ident = cluster.up()
    own = {node["name"]: node for node in lab.json(1, "nodes")}["node1"]["id"]
    program = cluster.program('print(ask(0, "hello").decode(), flush=True); import time; time.sleep(600)')
    command = [PYTHON, "-m", "ipdc_edge", "tf", "run", program]
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(1)}
    with subprocess.Popen(command, env=environment, cwd=cluster.place, stdout=subprocess.DEVNULL) as child:
        try:
            (client,) = eventually(lambda: [j["id"] for j in lab.json(1, "jobs") if j.get("of") == ident], "a job")
            eventually(lambda: any(str(task["status"]).startswith("runs") for task in cluster.job(client)["running"]),
                       "the program runs", 40)
            for job in (ident, client):
                said = asyncio.run(knock(lab, 1, f"/ipdc/tunnel/{job}/{own}/client", 2))
                assert said.startswith(b"HTTP/1.1 403 ") and b"no such role for you" in said, said
            lab.run(1, "cancel", client)
            assert child.wait(60) == 1
        finally:
            child.kill()


def test_a_program_sees_nothing_of_the_process_that_hands_its_connections_on(cluster: Cluster) -> None:
    """It has the same user id."""
    cluster.up()
    program = cluster.program(
        "for name in ('fd', 'ns', 'map_files'):\n    try: print(os.listdir(f'/proc/{os.getppid()}/{name}'))\n"
        "    except OSError: print('hidden')\n"
        "try: open(f'/proc/{os.getppid()}/mem', 'r+b'); print('open')\nexcept OSError: print('hidden', flush=True)\n"
        "print(ask(1, 'hello').decode(), end='')")
    done = cluster.run("run", program)
    assert done.stdout.splitlines() == ["hidden"] * 4 + ["I am local:1"], done.stdout


@pytest.mark.parametrize("how", ["killed", "exit", "stopped"])
def test_a_role_that_is_lost_ends_the_cluster_with_its_reason(cluster: Cluster, how: str) -> None:
    ident = cluster.up()
    waits = cluster.program('ask(0, "hello"); import time; time.sleep(600)')
    if how == "exit":
        cluster.program('ask(1, "exit 3"); import time; time.sleep(600)')
    else:
        os.kill(processes(b"create_worker.py")[0], signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    done = cluster.run("run", waits, check=False) if how == "exit" else None
    view = eventually(lambda: cluster.job(ident)["state"] == "failed" and cluster.job(ident), "it fails", 40)
    assert {"killed": "SIGKILL", "exit": "exit status 3", "stopped": "SIGSTOP"}[how] in view["error"]
    assert "local-" in view["error"] and (done is None or done.returncode == 1)
    eventually(lambda: not processes(b"create_worker.py"), "the other role has ended too")


def test_restart_brings_a_lost_role_back(cluster: Cluster) -> None:
    ident = cluster.up("--restart")
    first = set(processes(b"create_worker.py"))
    os.kill(min(first), signal.SIGKILL)
    eventually(lambda: len(processes(b"create_worker.py")) == 2 and set(processes(b"create_worker.py")) != first,
               "it is back", 40)
    eventually(lambda: [role["state"] for role in cluster.lab.json(1, "tf", "status")[0]["roles"]] == ["up", "up"],
               "both are up", 40)
    assert cluster.run("run", cluster.program('print(ask(0, "ask 1").decode())')).stdout.startswith("local:0 asked")
    assert cluster.job(ident)["state"] == "running"


COUNTS = """
import os
path = os.path.join(os.environ["IPDC_OUTPUT"], "checkpoints", "starts")
os.makedirs(os.path.dirname(path), exist_ok=True)
starts = len(open(path).read()) + 1 if os.path.exists(path) else 1
open(path, "w").write("x" * starts)
print("start", starts, flush=True)
"""


def kept_files(lab: Lab, node: str) -> list[str]:
    """Those without a name that a node's daemon keeps of its roles' output; apps/tensorflow/kept.py."""
    daemon = Path(lab.home(int(node[-1])), "run/daemon.pid").read_text().split()[0]
    found = []
    for name in os.listdir(f"/proc/{daemon}/fd"):
        with suppress(OSError):
            if f"/{node}/scratch/" in os.readlink(path := f"/proc/{daemon}/fd/{name}"):
                found.append(path)
    return found


def kept_states(lab: Lab, node: str) -> list[int]:
    """The numbers of the states in them, beside 0."""
    numbers = [int.from_bytes(Path(path).read_bytes()[:8], "big") for path in kept_files(lab, node)]
    return [number for number in numbers if number]


@pytest.mark.parametrize("how", ["program", "runner"])
def test_a_role_that_is_started_again_finds_what_it_had_written(cluster: Cluster, lab: Lab, how: str) -> None:
    """Whether its program was killed, or its whole sandbox."""
    (cluster.place / "create_worker.py").write_text(COUNTS + SERVER.replace('b"exit"', 'b"starts"').replace(
        "os._exit(int(words[1]))", 'connection.sendall(f"start {starts}\\n".encode())'))
    ident = cluster.up("--restart")
    first = min(processes(b"create_worker.py"))
    with open(f"/proc/{first}/environ", "rb") as environ:
        lost = json.loads(environ.read().split(b"TF_CONFIG=")[1].split(b"\0")[0])["task"]["index"]
    node = places(cluster)[lost]["name"]
    if how == "runner":
        eventually(lambda: kept_states(lab, node), "its state is with the daemon", 40)
        first = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        (seen,) = lab.json(1, "tf", "status")
        return ([role["state"] for role in seen["roles"]] == ["up", "up"]
                and str(seen["lost"]).startswith(f"local-{lost} on {node}: "))

    eventually(back, "it is back, and people are told", 30)
    asks = cluster.program('for n in (0, 1): print(ask(n, "starts").decode(), end="")')
    expected = ["start 1", "start 1"]
    expected[lost] = "start 2"
    assert cluster.run("run", asks).stdout.splitlines() == expected
    assert "the last that was lost, and was started again: local-" in cluster.run("status").stdout
    cluster.run("down")
    assert cluster.job(ident)["state"] == "cancelled"
    eventually(lambda: not kept_files(lab, node), "nothing of it is held any more")


def test_a_program_that_is_to_be_restarted_begins_with_what_it_had_written(cluster: Cluster) -> None:
    ident = cluster.up()
    ends = cluster.program(COUNTS + "ask(0, 'hello')\nos._exit(0 if starts == 3 else 9)\n")
    done = cluster.run("run", ends, check=False)
    assert done.returncode == 1 and "exit status 9" in done.stderr and "start 2" not in done.stdout
    done = cluster.run("run", "--restart", ends)
    assert [line for line in done.stdout.splitlines() if line.startswith("start ")] == ["start 1", "start 2", "start 3"]
    import tarfile

    with tarfile.open(done.stderr.strip().rpartition(" ")[2]) as tar:
        assert tar.extractfile("checkpoints/starts").read() == b"xxx"  # type: ignore[union-attr]
    assert cluster.job(ident)["state"] == "running"


def test_one_that_never_listens_is_named_and_all_are_closed_again(cluster: Cluster) -> None:
    program = cluster.place / "create_worker.py"
    program.write_text("import sys, time\nif sys.argv[2] == '1': time.sleep(600)\n" + SERVER)
    done = cluster.run("up", "--timeout", "15", check=False)
    assert done.returncode == 1 and "is not up after 15 s" in done.stderr
    assert "local:1 on " in done.stderr and ": starts" in done.stderr and "local:0" not in done.stderr
    eventually(lambda: not processes(b"create_worker.py"), "all are closed")


def test_one_that_breaks_at_once_is_told_with_its_words(cluster: Cluster) -> None:
    (cluster.place / "create_worker.py").write_text("print('no such data', flush=True)\nraise SystemExit(7)\n")
    done = cluster.run("up", check=False)
    assert done.returncode == 1 and "exit status 7" in done.stderr and "no such data" in done.stderr


def test_a_role_that_takes_too_much_is_ended(cluster: Cluster) -> None:
    (cluster.place / "create_worker.py").write_text("x = b'x' * (400 << 20)\n" + SERVER)
    done = cluster.run("up", check=False)
    assert done.returncode == 1 and "may take 256 MB" in done.stderr
