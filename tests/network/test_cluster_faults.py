"""Nothing of a cluster hangs: whatever becomes of the node of a role, the cluster ends with a report within 30 s.

Real nodes on hosts of their own; the roles are the plain servers of tests/lab/test_cluster.py, which says what becomes
of a role's own program. When something happened is told by this machine's clock, which the daemons have too: so a slow
machine's commands do not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.bubblewrap import needs_bubblewrap
from tests.lab.test_cluster import CLIENT, SERVER, fake_environment, processes
from tests.network.hosts import PYTHON, Domain, DomainNode, Network
from tests.waiting import eventually

REPORT = 30.0  # seconds in which a cluster has ended
PATIENCE = 90.0  # seconds until a test gives up
PROGRAM = CLIENT + 'print(ask(1, "hello").decode(), flush=True)\nimport time\ntime.sleep(600)\n'


@pytest.fixture(scope="module")
def domain() -> Iterator[Domain]:
    """Three nodes with what a daemon takes for TensorFlow."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    needs_bubblewrap()
    directory = tempfile.mkdtemp(prefix="ipdc-net-", dir="/tmp")
    try:
        fake_environment(Path(directory, "venv"))
        with Network() as network:
            yield Domain(network, directory, 3, sandbox="bubblewrap", tensorflow=f"{directory}/venv")
    finally:
        shutil.rmtree(directory)


class Up:
    """A cluster on the second and the third node, ordered at the first."""

    def __init__(self, domain: Domain, place: Path) -> None:
        self.first, self.second, self.third = domain.nodes
        self.place = place
        (place / "ClusterSpec.conf").write_text('{"local": [0, 1]}')
        self.tf("plan", "--memory", "256M", "--nodes", "node2", "node3")
        (place / "create_worker.py").write_text(SERVER)
        (place / "program.py").write_text(PROGRAM)
        with open(place / "ClusterSpec.json", encoding="utf-8") as file:
            names = [found["name"] for found in json.load(file)["Nodes"].values()]
        self.role = f"local-{names.index('node3')}"

    def tf(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.first.ipdc("tf", *words, cwd=self.place, **options)

    def job(self, ident: str) -> dict[str, Any]:
        return dict(self.first.json("status", ident))

    def ended(self, ident: str) -> dict[str, Any]:
        """The job's view once it is over."""
        return dict(eventually(lambda: (view := self.job(ident))["ended"] and view, f"{ident} is over", PATIENCE))


@pytest.fixture
def cluster(domain: Domain, tmp_path: Path) -> Iterator[Up]:
    domain.wait_ready(seconds=PATIENCE)
    found = Up(domain, tmp_path)
    try:
        yield found
    finally:
        for view in domain.nodes[0].json("tf", "status"):
            found.tf("down", view["id"])
        eventually(lambda: not processes(b"create_worker.py"), "no process of a role is left", PATIENCE)


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def runner_of(node: DomainNode) -> int:
    """The process that watches the program of the role there."""
    assert node.daemon.process is not None
    for program in processes(b"create_worker.py"):
        above = parent(program)
        while above > 1:
            if above == node.daemon.process.pid:
                return parent(program)
            above = parent(above)
    raise AssertionError(f"no role runs on {node}")


def daemon_of(node: DomainNode) -> int:
    assert node.daemon.process is not None
    return node.daemon.process.pid


def told(moment: str) -> float:
    """Seconds since the epoch, of a time as `status --json` has it."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def stop(pid: int) -> Callable[[], None]:
    """SIGSTOP; what undoes it."""
    os.kill(pid, signal.SIGSTOP)

    def resume() -> None:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it was killed, as it should be
    return resume


def kill(pid: int) -> Callable[[], None]:
    os.kill(pid, signal.SIGKILL)
    return lambda: None


def cut(node: DomainNode) -> Callable[[], None]:
    node.host.cut()
    return node.host.heal


def mute(node: DomainNode) -> Callable[[], None]:
    node.host.mute()
    return node.host.unmute


FAULTS: dict[str, tuple[Callable[[DomainNode], Callable[[], None]], str]] = {
    "its cable is cut": (cut, "{role} was on node3, which is lost"),
    "its cable carries nothing": (mute, "{role} was on node3, which is lost"),
    "its daemon is stopped": (lambda node: stop(daemon_of(node)), "{role} was on node3, which is lost"),
    "its runner is stopped": (lambda node: stop(runner_of(node)), "the process that watches {role} has said nothing"),
    "its runner is killed": (lambda node: kill(runner_of(node)), "{role} failed on node3: the runner's process ended"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_role_is_lost_and_all_that_waits_for_it_ends_in_time(cluster: Up, fault: str) -> None:
    breaks, reason = FAULTS[fault]
    ident = json.loads(cluster.tf("up", "--json", "--timeout", str(PATIENCE)).stdout)["id"]
    command = (PYTHON, "-P", "-m", "ipdc_edge", "tf", "run", "program.py")
    run = cluster.first.host.start(*command, env=cluster.first._env, cwd=cluster.place, stderr=subprocess.PIPE)
    (client,) = eventually(lambda: [job["id"] for job in cluster.first.json("jobs") if job.get("of") == ident],
                           "the program is a job", PATIENCE)

    def runs() -> bool:
        view = cluster.job(client)
        assert not view["ended"], view
        return any(task["status"].startswith("runs") for task in view["running"])

    eventually(runs, "it runs", PATIENCE)
    with contextlib.ExitStack() as mended:
        mended.callback(run.kill)
        began = time.time()
        mended.callback(breaks(cluster.third))
        view = cluster.ended(ident)
        assert view["state"] == "failed" and reason.format(role=cluster.role) in view["error"], view["error"]
        assert told(view["ended"]) - began <= REPORT
        assert run.wait(PATIENCE) == 1 and run.stderr is not None
        words = run.stderr.read().decode()
        assert "its cluster has ended" in words and reason.format(role=cluster.role) in words, words
        assert told(cluster.ended(client)["ended"]) - began <= REPORT + 5  # it asks every second


def test_a_role_that_is_never_started_is_named_in_time(cluster: Up) -> None:
    """Its node was there when the cluster was planned, and hears nothing when it is to begin."""
    resume = stop(daemon_of(cluster.third))
    try:
        before = {job["id"] for job in cluster.first.json("jobs")}
        done = cluster.tf("up", check=False)
        (view,) = [job for job in cluster.first.json("jobs") if job["id"] not in before]
        assert done.returncode == 1 and "node2" not in done.stderr, done.stderr
        assert f"{cluster.role.replace('-', ':')} on node3: its node" in done.stderr, done.stderr
        assert told(cluster.ended(view["id"])["ended"]) - told(view["submitted"]) <= REPORT + 5
    finally:
        resume()
