"""TensorFlow's own interpreter, the third choice: where an environment of jobs has TensorFlow and neither LiteRT nor
tflite-runtime."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.apps.tflite.plan import HEAVY_MEMORY, operators_of, unknown
from ipdc_edge.commands.client import call
from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
from ipdc_edge.drivers.sandbox import Sandbox
from ipdc_edge.drivers.tflite_capability import Found, prove
from ipdc_edge.home import Home
from tests.drivers.bubblewrap import needs_bubblewrap
from tests.lab.conftest import Lab, eventually
from tests.tensorflow import inference, installed
from tests.tensorflow.inference import Inference
from tests.tensorflow.test_inference import FROM_FLOAT, furthest
from tests.tensorflow.test_inference_lab import results, submit, told

pytestmark = pytest.mark.tensorflow
VERSION = installed.TENSORFLOW.partition("==")[2]
THE_SAME = 1e-6  # the expected values are of this very interpreter


@pytest.fixture(scope="module")
def alone() -> Path:
    return installed.tensorflow_alone()


@pytest.mark.parametrize("kind", FROM_FLOAT)
def test_its_outputs_are_tensorflow_s(alone: Path, kind: str) -> None:
    rows = inference.pixels()
    job = Inference(alone, (inference.models() / f"{kind}.tflite").read_bytes(), memory=HEAVY_MEMORY)
    (answers,) = job.run({f"{name}.csv": row.encode() for name, row in rows.items()})
    found = {key[0].removesuffix(".csv"): value[0] for key, value in answers}
    assert furthest(found, inference.expected()[kind]) <= THE_SAME
    assert furthest(found, inference.expected()["float"]) <= FROM_FLOAT[kind]


def proven(venv: Path, scratch: Path) -> Found:
    sandbox = Sandbox("bubblewrap", lambda network: RunnerBubblewrap(str(scratch), network, venv=str(venv)), False)
    return asyncio.run(prove(sandbox, str(venv)))


def test_a_node_proves_it_in_a_runner_and_tells_of_its_operators(alone: Path, tmp_path: Path) -> None:
    needs_bubblewrap()
    found, litert = proven(alone, tmp_path), proven(installed.litert_venv(), tmp_path)
    assert (found.reason, found.interpreter, found.version) == ("", "tensorflow", VERSION)
    assert found.pillow == installed.PILLOW.partition("==")[2]
    assert (litert.reason, litert.interpreter) == ("", "ai_edge_litert")
    for kind in FROM_FLOAT:
        needed = operators_of({"operators": inference.operators(f"{kind}.tflite")})
        assert needed and not unknown(needed, found.operators), kind
    newer = [9, int(found.operators[9], 36) + 1]  # FULLY_CONNECTED
    assert len(unknown(operators_of({"operators": [newer, [32, 1, "FlexSinh"]]}), found.operators)) == 2


@pytest.fixture(scope="module")
def lab(alone: Path) -> Iterator[Lab]:
    needs_bubblewrap()
    directory = tempfile.mkdtemp(prefix="ipdc-own-")
    found = Lab(os.path.join(directory, "lab"), 2, "--sandbox", "bubblewrap")
    try:
        os.symlink(alone, os.path.join(found.home(2), "venv"))
        call(Home({"IPDC_HOME": found.home(2)}), "packages")
        eventually(lambda: told(found, 2)[0], "it was tried", 120)
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(directory)


def test_a_node_with_it_takes_jobs_that_give_it_the_memory(lab: Lab) -> None:
    assert told(lab, 2) == (["tflite", f"tflite=tensorflow {VERSION}"], [])
    model, images = inference.models() / "dynamic.tflite", inference.models() / "images"
    words = ("--model", str(model), "--input", str(images))
    done = lab.run(1, "submit", *words, check=False)
    assert done.returncode == 4
    assert f"node2: its interpreter is TensorFlow's own, which needs --memory {HEAVY_MEMORY >> 20}M" in done.stderr
    job, status = submit(lab, *words, "--memory", f"{HEAVY_MEMORY >> 20}M")
    assert [node["name"] for node in status["nodes"] if node["tasks_done"]] == ["node2"]
    found = {key: value[0] for key, value in results(lab, job)}
    assert furthest(found, inference.expected()["dynamic"]) <= THE_SAME
    checks = {check["check"]: check for check in json.loads(lab.run(2, "doctor", "--json", check=False).stdout)}
    assert checks["tflite"]["ok"] and f"tensorflow {VERSION} has built a model" in checks["tflite"]["detail"]
