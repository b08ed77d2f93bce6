"""`--input-local` on real nodes: each maps its own files, which have the same names everywhere, and only results
travel.

Each node's daemon has a mount namespace of its own, in which one path is a directory of that node: so the nodes differ
as machines do.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import PYTHON, ROOT, Lab, difference, eventually, in_order, ipdc
from tests.lab.test_domain import pid_of
from tests.lab.test_exact import as_json
from tests.lab.test_jobs import program

NAMESPACE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "--propagation", "private"]
ENTER = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
SCARCE = 150_000  # bytes: more than code, descriptions, runs and results of these jobs
Readings = dict[str, list[tuple[str, int]]]  # by sensor: (path, reading)


class SensorLab(Lab):
    """Four nodes; node 1 opens nothing, the others their own /.../sensors."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, 4, "--sandbox", "rlimits")  # where a program sees the gate that it waits at
        self.path = os.path.join(directory, "sensors")  # one path, another directory on each node
        os.mkdir(self.path)
        self.readings: dict[int, Readings] = {}
        self.children: list[subprocess.Popen[bytes]] = []
        for node in (2, 3, 4):
            os.mkdir(self.own(node))
            os.mkfifo(os.path.join(self.own(node), "gate"))
            self.readings[node] = self._lay(node)
            with open(os.path.join(self.home(node), "ipdc.conf"), "a") as file:
                file.write(f"local_inputs = {self.path}\n")
            self.stop(node)
            self.start(node)
        self.see_each_other()

    def own(self, node: int) -> str:
        """Where a node's directory is for all others, and for this test."""
        return os.path.join(self.directory, f"sensors-of-node{node}")

    def _lay(self, node: int) -> Readings:
        """Files of the same names with other content, one compressed, one below, one that is not meant, one empty, and
        a link to a file that was not opened."""
        chance = random.Random(node)
        readings: Readings = {}
        for name, count in (("a.csv", 60_000), ("b.csv", 40_000 * node), ("zipped.csv.gz", 999), ("below/c.csv", 77),
                            ("empty.csv", 0), ("not.txt", 5)):
            path = os.path.join(self.path, name)
            lines = []
            for _ in range(count):
                sensor, reading = f"sensor-{chance.randrange(50)}", chance.randrange(-40_000, 60_000)
                lines.append(f"{sensor},{reading}\r\n")
                readings.setdefault(sensor, []).append((path, reading))
            content = "".join(lines).encode()
            own = Path(self.own(node), name)
            own.parent.mkdir(exist_ok=True)
            own.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        secret = Path(self.directory, "secret.csv")
        secret.write_text("secret,1\n")
        os.symlink(secret, os.path.join(self.own(node), "link.csv"))
        return readings

    def start(self, node: int) -> None:
        """The node's daemon, where the common path is its own directory."""
        from ipdc_edge.commands import processes

        environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": self.home(node)}
        self.children.append(processes.start(
            [*NAMESPACE, "sh", "-c", ENTER, "sh", self.own(node), self.path, PYTHON, "-P", "-m", "ipdc_edge", "run"],
            environment, os.path.join(self.home(node), "log", "daemon.log"), self._pid_file(node),
        ))

    def stop(self, node: int) -> None:
        from ipdc_edge.commands import processes

        assert processes.end(self._pid_file(node), 10, f"node {node}")

    def see_each_other(self) -> None:
        """`lab up` starts what does not run, nothing here, and waits until every node sees all."""
        ipdc("lab", "up", "--nodes", "4", "--dir", self.directory)

    def open_gate(self, node: int) -> None:
        """Lets the node's map go on, which has opened the gate by then."""
        gate = os.path.join(self.own(node), "gate")
        os.close(eventually(lambda: _write_end(gate), f"a reader at the gate of node {node}"))

    def _pid_file(self, node: int) -> str:
        return os.path.join(self.home(node), "run", "daemon.pid")

    def expected(self, nodes: tuple[int, ...], *names: str) -> bytes:
        """What sensors.py makes of files of these names on these nodes, sorted."""
        paths = {os.path.join(self.path, name) for name in names}
        found: Readings = {}
        for node in nodes:
            for sensor, readings in self.readings[node].items():
                found.setdefault(sensor, []).extend(pair for pair in readings if pair[0] in paths)
        return in_order(b"".join(
            b"%s\t%s\n" % (sensor.encode(), as_json([len(v), sum(r for _, r in v), sorted({p for p, _ in v})]))
            for sensor, v in found.items()))

    def moved(self) -> dict[int, tuple[int, int]]:
        """Of each node: bytes that it fetched from others, bytes that it gave to others."""
        counters = {node: self.ask(node, "counters") for node in range(1, 5)}
        return {node: (found["fetched"]["bytes"], found["gateway"]["bytes"]) for node, found in counters.items()}


def _write_end(gate: str) -> int:
    """A descriptor, or 0 while nobody reads."""
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


@pytest.fixture(scope="module")
def sensors() -> Iterator[SensorLab]:
    """The lab of this file's tests; no node may hold anything when they end."""
    if subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs mount namespaces, which this machine does not let us have")
    directory = tempfile.mkdtemp(prefix="ipdc-local-", dir="/tmp")
    made = None
    try:
        made = SensorLab(directory)
        yield made
        eventually(made.idle, "clean-up of every job on every node")
    finally:
        ipdc("lab", "down", "--dir", directory, check=False)
        for child in made.children if made else ():
            child.wait()
        shutil.rmtree(directory)


def words_of(lab: SensorLab, *words: str, pattern: str = "*.csv", arguments: str = "{}") -> list[str]:
    """What to submit."""
    return [program("sensors.py"), "--input-local", os.path.join(lab.path, pattern), "--input-format", "csv",
            "--args", arguments, *words]


def test_every_node_maps_its_own_files_and_only_results_travel(sensors: SensorLab) -> None:
    before = sensors.moved()
    job = sensors.submit(1, *words_of(sensors, "-k", "3"))
    after = sensors.moved()
    found = in_order(b"".join(sensors.parts(1, job)))
    assert not difference(found, sensors.expected((2, 3, 4), "a.csv", "b.csv"))
    view = sensors.json(1, "status", job)
    assert view["local"] == sensors.path + "/*.csv"
    assert view["maps"] == {"total": 3, "done": 3} and view["reduces"]["total"] == 3
    assert {node["name"] for node in view["nodes"]} == {"node2", "node3", "node4"}, "node 1 opens nothing"
    for node in (2, 3, 4):
        sizes = [os.path.getsize(os.path.join(sensors.own(node), name)) for name in ("a.csv", "b.csv")]
        assert sum(sizes) > 10 * SCARCE
    for node in (1, 2, 3, 4):
        fetched, given = (now - then for now, then in zip(after[node], before[node]))
        assert fetched < SCARCE and given < SCARCE, f"node {node} fetched {fetched} and gave {given} bytes"


def test_patterns_reach_below_and_into_compressed_files(sensors: SensorLab) -> None:
    job = sensors.submit(3, *words_of(sensors, "-k", "3", pattern="**/*.csv*"))
    assert not difference(in_order(b"".join(sensors.parts(3, job))), sensors.expected(
        (2, 3, 4), "a.csv", "b.csv", "zipped.csv.gz", "below/c.csv"))
    job = sensors.submit(4, *words_of(sensors, "-k", "3", pattern="[xyz]*"))
    assert not difference(in_order(b"".join(sensors.parts(4, job))), sensors.expected((2, 3, 4), "zipped.csv.gz"))


def test_only_as_many_nodes_as_were_asked_for(sensors: SensorLab) -> None:
    job = sensors.submit(2, *words_of(sensors, "-k", "2", pattern="a.csv"))
    nodes = [node for node in sensors.json(2, "status", job)["nodes"] if node["tasks_done"]]
    chosen = tuple(int(node["name"].removeprefix("node")) for node in nodes)
    assert len(chosen) == 2
    assert not difference(in_order(b"".join(sensors.parts(2, job))), sensors.expected(chosen, "a.csv"))


def test_a_pattern_that_matches_nothing_gives_nothing(sensors: SensorLab) -> None:
    job = sensors.submit(1, *words_of(sensors, "-k", "3", pattern="*.none"))
    assert sensors.parts(1, job) == [b""] * 3


def test_a_pattern_outside_is_refused(sensors: SensorLab) -> None:
    """By the nodes, each of which says what it opens; by the command already where no node could mean it."""
    for number, pattern in enumerate(("/etc/*.conf", f"{sensors.path}-of-node2/*.csv", os.path.dirname(sensors.path))):
        done = sensors.run(1, "submit", program("sensors.py"), "--input-local", pattern, check=False)
        assert done.returncode == 4 and "Traceback" not in done.stderr, number
        assert f"no node opens {pattern} to jobs" in done.stderr
        assert f"node2: local_inputs in its ipdc.conf: {sensors.path}" in done.stderr
        assert "means files" not in done.stderr
    done = sensors.run(1, "submit", program("sensors.py"), "--input-local", sensors.path, check=False)
    assert done.returncode == 4 and f"It means files, not directories: --input-local '{sensors.path}/*'" in done.stderr
    for pattern, said in ((f"{sensors.path}/../secret.csv", "leave out .."), ("sensors/*.csv", "absolute path")):
        done = sensors.run(1, "submit", program("sensors.py"), "--input-local", pattern, check=False)
        assert done.returncode == 2 and pattern in done.stderr and said in done.stderr


def test_where_no_node_opens_anything_each_says_so(lab: Lab) -> None:
    done = lab.run(2, "submit", program("words.py"), "--input-local", "/var/log/*.csv", check=False)
    assert done.returncode == 4
    for node in (1, 2, 3):
        assert f"node{node}: local_inputs in its ipdc.conf: none" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_task_waits_for_its_node_that_was_killed(sensors: SensorLab) -> None:
    """No other node has its files: `status` says who is waited for, and the job ends right when it is back."""
    arguments = json.dumps({"gate": os.path.join(sensors.path, "gate")})
    job = sensors.run(1, "submit", *words_of(sensors, "-k", "3", pattern="a.csv", arguments=arguments),
                      "--id-only").stdout.strip()
    try:
        eventually(lambda: len(sensors.json(1, "status", job)["running"]) == 3, "three maps at their gates")
        os.kill(pid_of(sensors, 3), signal.SIGKILL)
        for node in (2, 4):
            sensors.open_gate(node)

        def told() -> bool:
            view = sensors.json(1, "status", job)
            return view["maps"]["done"] == 2 and any("node3" in reason for reason in view["waiting"])

        eventually(told, "two maps, and a word about the third", 60)
        text = sensors.run(1, "status", job).stdout
        assert "waits" in text and "node3" in text.partition("waits")[2]
        sensors.start(3)
        sensors.open_gate(3)
        eventually(lambda: sensors.json(1, "status", job)["state"] == "succeeded", "the job's end", 60)
        assert not difference(in_order(b"".join(sensors.parts(1, job))), sensors.expected((2, 3, 4), "a.csv"))
    finally:
        sensors.run(1, "cancel", job, check=False)
        sensors.see_each_other()
