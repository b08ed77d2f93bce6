"""The examples of examples/tensorflow on a lab of three nodes, with real TensorFlow in every role."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.bubblewrap import needs_bubblewrap
from tests.lab.conftest import ROOT, Lab, eventually
from tests.tensorflow import installed

pytestmark = pytest.mark.tensorflow
EXAMPLES = Path(ROOT) / "examples" / "tensorflow"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    needs_bubblewrap()
    environment = installed.venv()
    top = tempfile.mkdtemp(prefix="ipdc-tf-")
    found = Lab(os.path.join(top, "lab"), 3, "--sandbox", "bubblewrap")
    try:
        for number in (1, 2, 3):
            with open(f"{found.home(number)}/ipdc.conf", "a", encoding="utf-8") as conf:
                conf.write(f"tensorflow = {environment}\n")
            os.kill(int(Path(found.home(number), "run/daemon.pid").read_text().split()[0]), signal.SIGHUP)
        eventually(lambda: all("tensorflow" in node["capabilities"] for node in found.json(1, "nodes")), "they tell")
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(top)


def up(lab: Lab, here: Path, conf: object, *words: str, nodes: int = 2, share: bool = False) -> str:
    """A cluster of this form on so many nodes; its id."""
    (here / "ClusterSpec.conf").write_text(json.dumps(conf))
    names = [f"node{number + 1}" for number in range(nodes)]
    lab.run(1, "tf", "plan", "--nodes", *names, "--memory", "1G", *(["--share"] if share else []), cwd=here)
    return str(json.loads(lab.run(1, "tf", "up", "--json", "--timeout", "120", *words, cwd=here).stdout)["id"])


def model(part: str | Path) -> dict[str, bytes]:
    """The arrays of the .npz in a part, as .npy files: Debian's Python has no numpy."""
    with tarfile.open(part) as tar:
        (name,) = tar.getnames()
        file = tar.extractfile(name)
        assert file is not None
        with zipfile.ZipFile(io.BytesIO(file.read())) as arrays:
            return {name: arrays.read(name) for name in arrays.namelist()}


def test_ipdc_s_own_examples_on_two_tasks(lab: Lab, here: Path) -> None:
    up(lab, here, {"local": [0, 1]})
    said = lab.run(1, "tf", "run", str(EXAMPLES / "addition.py")).stdout
    assert "y = 238" in said and "tasks: ['task:0', 'task:1']" in said
    assert "y = 0.10 x + 0.30" in lab.run(1, "tf", "run", str(EXAMPLES / "linear_fit.py")).stdout
    done = lab.run(1, "tf", "run", str(EXAMPLES / "two_layers.py"), "--steps", "500")
    assert float(re.findall(r"last loss ([0-9.]+)", done.stdout)[0]) < 0.03
    found = model(done.stderr.strip().rpartition(" ")[2])
    assert b"(1, 10)" in found["weights1.npy"] and b"(10, 1)" in found["weights2.npy"]


@pytest.mark.parametrize("way", [[], ["--args", "fit"]], ids=["custom loop", "tf_keras fit"])
def test_mirrored_workers_end_with_the_same_weights(lab: Lab, here: Path, way: list[str]) -> None:
    job = up(lab, here, {"worker": [0, 1]}, "--program", str(EXAMPLES / "mirrored.py"), *way)
    eventually(lambda: lab.json(1, "status", job)["state"] not in ("running", "queued"), "it ends", 120)
    view = lab.json(1, "status", job)
    assert view["state"] == "succeeded", view["error"]
    first, second = (model(Path(lab.home(1), "jobs", job, f"part-0000{number}")) for number in (0, 1))
    assert len(first) == 4 and first == second
    said = lab.run(1, "logs", job).stdout
    assert "worker:0 of 2: accuracy 0.9" in said and "worker:1 of 2: accuracy 0.9" in said


def test_a_parameter_server_and_its_coordinator_on_three_nodes(lab: Lab, here: Path) -> None:
    up(lab, here, {"chief": [0], "worker": [0, 1], "ps": [0]}, nodes=3, share=True)
    done = lab.run(1, "tf", "run", str(EXAMPLES / "parameter_server.py"))
    assert "variables on ['/job:ps']" in done.stdout and "epoch 3 accuracy 0.9" in done.stdout
    assert len(model(done.stderr.strip().rpartition(" ")[2])) == 4
