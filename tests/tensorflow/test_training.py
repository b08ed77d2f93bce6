"""Training whose model is served where no TensorFlow is, and training that goes on after a worker was lost: the
examples, with real TensorFlow, on a lab in which one node has an interpreter only."""

from __future__ import annotations

import array
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.commands.client import call
from ipdc_edge.home import Home
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.lab.conftest import PYTHON, ROOT, Lab, eventually
from tests.lab.test_cluster import kept_files
from tests.tensorflow import installed
from tests.tensorflow.test_cluster import EXAMPLES, model
from tests.tensorflow.test_inference_lab import told

pytestmark = pytest.mark.tensorflow
TRAINS, SERVES = (1, 2), 3
STEPS = 400
TOLERANCE = {"float32": 1e-5, "int8": 8e-2}  # of probabilities
TOLD_WITHIN = 30.0  # seconds from the loss of a role until people can see it


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    needs_bubblewrap()
    top = tempfile.mkdtemp(prefix="ipdc-train-")
    found = Lab(os.path.join(top, "lab"), 3, "--sandbox", "bubblewrap")
    try:
        for number in TRAINS:
            with open(f"{found.home(number)}/ipdc.conf", "a", encoding="utf-8") as conf:
                conf.write(f"tensorflow = {installed.venv()}\n")
            os.kill(int(Path(found.home(number), "run/daemon.pid").read_text().split()[0]), signal.SIGHUP)
        os.symlink(installed.litert_venv(), os.path.join(found.home(SERVES), "venv"))
        call(Home({"IPDC_HOME": found.home(SERVES)}), "packages")
        eventually(lambda: told(found, SERVES)[0], "it has an interpreter", 60)
        eventually(lambda: sum("tensorflow" in node["capabilities"] for node in found.json(SERVES, "nodes")) == 2,
                   "they have TensorFlow")
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(top)


def one_of_app(lab: Lab, node: int, app: str) -> str:
    """The newest job of a kind that a node has submitted."""
    return str([job["id"] for job in lab.json(node, "jobs") if job["app"] == app][-1])


@pytest.mark.parametrize("kind", TOLERANCE)
def test_a_network_is_trained_on_two_nodes_and_served_by_one_without_tensorflow(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "ipdc-edge").write_text(f'#!/bin/sh\nexec {PYTHON} -m ipdc_edge "$@"\n')
    (tmp_path / "ipdc-edge").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": ROOT, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                   "IPDC_HOME": lab.home(SERVES)}
    done = subprocess.run([PYTHON, EXAMPLES / "train_and_serve.py", "--type", kind], env=environment,
                          capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "served by node3 (ai_edge_litert 2.3.0): 300 rows, accuracy 0.9" in done.stdout
    nodes = {node["name"]: node["capabilities"] for node in lab.json(1, "nodes")}
    assert ["tensorflow" in nodes[f"node{number}"] for number in (1, 2, 3)] == [True, True, False]
    assert ["tflite" in nodes[f"node{number}"] for number in (1, 2, 3)] == [False, False, True]

    training, served = one_of_app(lab, SERVES, "tensorflow"), one_of_app(lab, SERVES, "tflite")
    directory = Path(lab.home(SERVES), "jobs", training)
    with tarfile.open(directory / "part-00000") as tar:
        names = tar.getnames()
        file = tar.extractfile("expected.json")
        assert file is not None
        expected = json.load(file)
    assert {"model.tflite", "checkpoint.index", "checkpoint.data-00000-of-00001"} <= set(names)
    rows = [value[0] for _, value in sorted(map(json.loads, lab.run(SERVES, "result", served).stdout.splitlines()))]
    apart = [abs(a - b) for row, said in zip(rows, expected["tensorflow"], strict=True)
             for a, b in zip(row, said, strict=True)]
    assert len(apart) == 900 and max(apart) <= TOLERANCE[kind]
    assert len({row.index(max(row)) for row in rows}) == 3, "rows of all classes"
    assert [node["name"] for node in lab.json(SERVES, "status", served)["nodes"] if node["tasks_done"]] == ["node3"]
    comes_back_as_content(lab, directory, tmp_path)


def comes_back_as_content(lab: Lab, directory: Path, place: Path) -> None:
    """Its record has the CIDs of the parts and of their directory, as `add` says them."""
    (place / "parts").mkdir()
    for number in (0, 1):
        shutil.copy(directory / f"part-0000{number}", place / "parts")
    paths = [place / "parts", place / "parts/part-00000", place / "parts/part-00001"]
    root, first, second = lab.run(SERVES, "add", *map(str, paths)).stdout.split()
    job = json.loads((directory / "job.json").read_text())
    assert job["root"] == root
    assert {task["task"]: task["output"] for task in job["tasks"]} == {"worker-0": first, "worker-1": second}


def values(arrays: dict[str, bytes]) -> list[float]:
    """The numbers of an .npz of float32, in the order of its names; .npy format, version 1.0."""
    found: list[float] = []
    for name in sorted(arrays):
        data = arrays[name]
        assert data[:8] == b"\x93NUMPY\x01\x00" and b"'<f4'" in data[:128]
        found += array.array("f", data[10 + int.from_bytes(data[8:10], "little") :])
    return found


def weights(lab: Lab, job: str, place: Path) -> list[list[float]]:
    """Those that each worker ended with."""
    found = []
    for number in (0, 1):
        with tarfile.open(Path(lab.home(1), "jobs", job, f"part-0000{number}")) as tar:
            names = tar.getnames()
            assert f"checkpoint/ckpt-{STEPS}.index" in names, names
            file = tar.extractfile("weights.npz")
            assert file is not None
            (place / f"{job}-{number}.tar").write_bytes(b"")
            with tarfile.open(place / f"{job}-{number}.tar", "w") as alone:
                alone.addfile(tar.getmember("weights.npz"), file)
        found.append(values(model(place / f"{job}-{number}.tar")))
    return found


def up(lab: Lab, here: Path) -> str:
    (here / "ClusterSpec.conf").write_text('{"worker": [0, 1]}')
    lab.run(1, "tf", "plan", "--memory", "1G", cwd=here)
    words = ("--program", str(EXAMPLES / "checkpoint.py"), "--restart", "--timeout", "120", "--json", "--args",
             str(STEPS))
    return str(json.loads(lab.run(1, "tf", "up", *words, cwd=here).stdout)["id"])


def ended(lab: Lab, job: str) -> dict[str, Any]:
    eventually(lambda: lab.json(1, "status", job)["state"] not in ("running", "queued"), "it ends", 240)
    view: dict[str, Any] = lab.json(1, "status", job)
    assert view["state"] == "succeeded", f"{view['error']}\n{lab.run(1, 'logs', job).stdout[-6000:]}"
    return view


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The weights after all steps where nobody was lost."""
    place = tmp_path_factory.mktemp("undisturbed")
    job = up(lab, place)
    ended(lab, job)
    first, second = weights(lab, job, place)
    assert first == second and len(first) == 20 * 32 + 32 + 32 * 3 + 3
    assert lab.run(1, "logs", job).stdout.count("begins at step 0\n") == 2
    return first


def program_of(worker: int) -> int:
    """The process that trains as this worker, on this machine."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if len(words) > 2 and words[1] == b"checkpoint.py":
                environ = Path(f"/proc/{name}/environ").read_bytes()
                config = json.loads(environ.split(b"TF_CONFIG=")[1].split(b"\0")[0])
                if config["task"]["index"] == worker:
                    return int(name)
        except (OSError, IndexError):
            continue
    return 0


def steps_saved(pid: int) -> int:
    """Of the newest whole checkpoint that a worker has in its sandbox."""
    try:
        state = Path(f"/proc/{pid}/root/mnt/output/checkpoint/checkpoint").read_text()
    except OSError:
        return 0
    return int(state.partition('model_checkpoint_path: "ckpt-')[2].partition('"')[0] or 0)


def kill_without_a_trace(lab: Lab, pid: int, here: Path) -> None:
    """Ends a worker's whole sandbox, and empties what its node has kept of it, as where a node has begun anew."""
    runner = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(runner, signal.SIGSTOP)
    places = json.loads((here / "ClusterSpec.json").read_text())
    node = places["Nodes"][places["ClusterSpec"]["worker"][1]]["name"]
    eventually(lambda: Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    eventually(lambda: len(kept_files(lab, node)) == 2, "those of other jobs are gone")
    for path in kept_files(lab, node):
        os.truncate(path, 0)
    os.kill(runner, signal.SIGKILL)


@pytest.mark.parametrize("worker, how", [(0, "its program is killed"), (1, "its node has nothing left")])
def test_training_goes_on_from_its_checkpoint_after_a_worker_was_lost(
    lab: Lab, here: Path, undisturbed: list[float], worker: int, how: str
) -> None:
    """Worker 0, which leads TensorFlow's coordination, finds its own; worker 1 gets the values of worker 0's."""
    job = up(lab, here)
    pid = eventually(lambda: program_of(worker), "its program runs", 60)
    eventually(lambda: steps_saved(pid) >= 40, "it has a checkpoint", 120)
    os.kill(pid, signal.SIGSTOP)  # nobody gets further meanwhile
    saved = steps_saved(pid)
    if worker == 0:
        os.kill(pid, signal.SIGKILL)
    else:
        kill_without_a_trace(lab, pid, here)
    killed = time.monotonic()
    assert 40 <= saved < STEPS, "it is in the middle"
    eventually(lambda: [view for view in lab.json(1, "tf", "status") if view["lost"]], "people are told", TOLD_WITHIN)
    assert time.monotonic() - killed <= TOLD_WITHIN
    lost = next(view for view in lab.json(1, "tf", "status") if view["id"] == job)["lost"]
    assert lost.startswith("worker-"), lost
    ended(lab, job)
    said = lab.run(1, "logs", job).stdout
    began = [int(line.rpartition(" ")[2]) for line in said.splitlines() if f"worker:{worker} begins at step " in line]
    assert len(began) >= 2 and began[0] == 0 and saved - 20 <= began[-1] < STEPS, began
    assert "SIGKILL" in said and "worker:0 begins again, and finds " in said
    if worker == 1:
        assert "worker:1 begins again, and finds " not in said
        assert said.count("worker:1 has a checkpoint of step 0\n") == len(began)
    first, second = weights(lab, job, here)
    assert first == second
    furthest = max(abs(a - b) for a, b in zip(first, undisturbed, strict=True))
    assert furthest < 1e-4, "the same as if nobody had been lost"
