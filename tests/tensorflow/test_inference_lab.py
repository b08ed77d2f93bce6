"""`submit --model` on a lab whose nodes have different interpreters: LiteRT, tflite-runtime, one that does not work,
none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.commands.client import call
from ipdc_edge.drivers.tflite_capability import PROVING
from ipdc_edge.home import Home
from tests.lab.conftest import Lab, eventually
from tests.tensorflow import inference, installed
from tests.tensorflow.test_inference import FROM_INTERPRETER, furthest

pytestmark = pytest.mark.tensorflow
NONE, LITERT, RUNTIME, BROKEN = 1, 2, 3, 4
INSTALL = "no interpreter is installed"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    venvs = {LITERT: installed.litert_venv()}
    if installed.has_tflite_runtime():
        venvs |= {RUNTIME: installed.tflite_runtime_venv(), BROKEN: installed.broken_venv()}
    directory = tempfile.mkdtemp(prefix="ipdc-tflite-")
    found = Lab(os.path.join(directory, "lab"), max(venvs))
    try:
        for node, venv in venvs.items():
            os.symlink(venv, os.path.join(found.home(node), "venv"))
            call(Home({"IPDC_HOME": found.home(node)}), "packages")
        eventually(lambda: not any(untried(node) for node in found.json(1, "nodes")), "every interpreter was tried", 60)
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(directory, ignore_errors=True)


def untried(node: dict[str, Any]) -> bool:
    """Whether a node's record does not say yet what became of the environment that it was given."""
    return PROVING in node["unable"] or node["name"] != "node1" and INSTALL in str(node["unable"])


def told(lab: Lab, node: int) -> tuple[list[str], list[str]]:
    """What node 1 knows of a node's TFLite: (what it can, what it cannot)."""
    record = next(one for one in lab.json(1, "nodes") if one["name"] == f"node{node}")
    return ([word for word in record["capabilities"] if "tflite" in word and "operators" not in word],
            [word for word in record["unable"] if word.startswith("tflite")])


def needs_both() -> None:
    if not installed.has_tflite_runtime():
        pytest.skip("does not apply: tflite-runtime has no wheel for this Python")


def results(lab: Lab, job: str) -> list[Any]:
    directory = Path(lab.home(1)) / "jobs" / job
    parts = sorted(directory.glob("part-*"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def submit(lab: Lab, *words: str, **options: Any) -> tuple[str, Any]:
    """(id, status) of a job that is submitted on the node without an interpreter, and has succeeded."""
    lines = lab.run(1, "submit", *words, "--json", **options).stdout.splitlines()
    last = json.loads(lines[-1])
    assert last["state"] == "succeeded", last
    return last["id"], last


def test_nodes_name_their_interpreter_or_say_why_they_have_none(lab: Lab) -> None:
    assert told(lab, LITERT) == (["tflite", "tflite=ai_edge_litert 2.3.0"], [])
    can, cannot = told(lab, NONE)
    assert can == [] and cannot[0].startswith("tflite: no interpreter is installed: `")
    shown = lab.run(1, "nodes", "node2").stdout
    assert "tflite=ai_edge_litert 2.3.0" in shown and "tflite-operators" not in shown
    if installed.has_tflite_runtime():
        assert told(lab, RUNTIME) == (["tflite", "tflite=tflite_runtime 2.14.0"], [])
        can, cannot = told(lab, BROKEN)
        assert can == [] and "it needs a numpy before 2, and 2.4.6 is here" in cannot[0]
        assert "numpy before 2" in " ".join(lab.run(1, "nodes", "node4").stdout.split())


def test_doctor_says_what_the_interpreter_does(lab: Lab) -> None:
    def checks(node: int) -> list[tuple[bool, str]]:
        answer = json.loads(lab.run(node, "doctor", "--json", check=False).stdout)
        listed = answer["checks"] if isinstance(answer, dict) else answer
        return [(check["ok"], check["detail"]) for check in listed if check["check"] == "tflite"]

    assert checks(LITERT) == [(True, "ai_edge_litert 2.3.0 has built a model and run it, images by Pillow 12.0.0")]
    assert checks(NONE) == [], "a node without one is as well as any other"
    if installed.has_tflite_runtime():
        assert [ok for ok, _ in checks(BROKEN)] == [False]


@pytest.mark.parametrize("kind", ["float32", "float16", "dynamic", "int8"])
def test_images_go_through_a_model_and_agree_with_tensorflow(lab: Lab, kind: str) -> None:
    model, directory = inference.models() / f"{kind}.tflite", inference.models() / "images"
    job, status = submit(lab, "--model", str(model), "--input", str(directory), "-k", "3")
    found = {key: value[0] for key, value in results(lab, job)}
    assert furthest(found, inference.expected()[kind]) <= FROM_INTERPRETER[kind]
    assert {node["name"] for node in status["nodes"] if node["tasks_done"]} == {"node2"}, "which has Pillow"


def test_a_model_is_loaded_once_by_each_runner_and_a_reduce_follows(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Pre.py").write_text(
        "def setup(args):\n    print('loaded')\n"
        "def pre(name, data):\n    import numpy\n    yield numpy.array([float(x) for x in data[:4]])\n")
    (tmp_path / "Post.py").write_text(
        "def post(name, outputs):\n    yield name[0], float(outputs[0].sum())\n    yield 'rows', 1\n")
    (tmp_path / "Sum.py").write_text("def reduce(key, values):\n    yield key, sum(values)\n")
    (tmp_path / "relu.tflite").write_bytes(tiny.model(tiny.RELU))
    for number in range(12):
        (tmp_path / f"{number}.csv").write_text("1,-1,2,0\n" * 10)
    job, status = submit(lab, "--model", "relu.tflite", "--pre", "Pre.py", "--post", "Post.py", "Sum.py", "--input",
                         *[f"{number}.csv" for number in range(12)], "-k", "2", cwd=tmp_path)
    found = dict(map(tuple, results(lab, job)))
    assert found == {"rows": 120, **{f"{number}.csv": 30.0 for number in range(12)}}
    assert status["maps"]["total"] == 12
    loaded = lab.run(1, "logs", job).stdout.count("loaded")
    assert 1 <= loaded <= 4 < status["maps"]["total"], "two nodes with at most two runners each"


def test_an_operator_that_a_node_does_not_know_keeps_the_job_from_it_alone(lab: Lab) -> None:
    needs_both()
    done = lab.run(1, "submit", "--model", str(inference.models() / "dynamic.tflite"), "--input",
                   str(inference.models() / "rows.csv"), "-k", "3", "--json")
    job = json.loads(done.stdout.splitlines()[-1])
    assert job["state"] == "succeeded" and {n["name"] for n in job["nodes"]} == {"node2"}
    assert ("node3: its interpreter, tflite_runtime 2.14.0, does not know the model's FULLY_CONNECTED version 12 "
            "(only up to version 10)") in done.stderr
    assert "node2 can" in done.stderr
    assert len(results(lab, job["id"])) == 24


def test_an_operator_that_nobody_knows_is_refused_by_name_with_exit_code_4(lab: Lab) -> None:
    before = lab.json(1, "jobs")
    done = lab.run(1, "submit", "--model", str(inference.models() / "flex.tflite"), "--input",
                   str(inference.models() / "rows.csv"), check=False)
    assert done.returncode == 4
    assert "node2: its interpreter, ai_edge_litert 2.3.0, does not know the model's FlexSinh" in done.stderr
    assert "node1: cannot do tflite: no interpreter is installed" in done.stderr
    if installed.has_tflite_runtime():
        assert "node3: its interpreter, tflite_runtime 2.14.0, does not know the model's FlexSinh" in done.stderr
        assert "node4: cannot do tflite: tflite_runtime: " in done.stderr
    assert lab.json(1, "jobs") == before, "there is no such job"


def test_inputs_that_cannot_be_decoded_are_named_and_skipped(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(inference.models() / "images", tmp_path / "images")
    (tmp_path / "images" / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    model = str(inference.models() / "float32.tflite")
    done = lab.run(1, "submit", "--model", model, "--input", "images", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "images/07.png is no PNG or JPEG image that can be decoded" in done.stderr
    job, status = submit(lab, "--model", model, "--input", "images", "--skip-bad", "1", cwd=tmp_path)
    assert status["bad_records"] == 1 and len(results(lab, job)) == 23
    set_aside = (Path(lab.home(1)) / "jobs" / job / "bad-records").iterdir()
    assert any("images/07.png" in file.read_text() for file in set_aside)


def test_content_by_its_cid_is_what_the_option_says(lab: Lab) -> None:
    image = inference.models() / "images" / "03.png"
    cid = lab.run(1, "add", str(image)).stdout.split()[0]
    model = str(inference.models() / "float32.tflite")
    job, _ = submit(lab, "--model", model, "--input", cid, "--input-format", "image")
    ((key, value),) = results(lab, job)
    assert key == cid
    assert furthest({"x": value[0]}, {"x": inference.expected()["float32"]["images/03.png"]}) <= 1e-5


def test_images_that_lie_on_a_node_are_worked_on_there_if_it_can(lab: Lab) -> None:
    directory = inference.models() / "images"
    open_to_jobs = [node for node in (LITERT, RUNTIME) if node <= lab.nodes]  # the latter has no Pillow
    for node in open_to_jobs:
        with open(os.path.join(lab.home(node), "ipdc.conf"), "a") as file:
            file.write(f"local_inputs = {directory}\n")
        os.kill(int(Path(lab.home(node), "run/daemon.pid").read_text().split()[0]), signal.SIGHUP)
    eventually(lambda: sum(f"input-local:{directory}" in node["capabilities"] and "tflite" in node["capabilities"]
                           for node in lab.json(1, "nodes")) == len(open_to_jobs), "they open it", 60)
    model = str(inference.models() / "float32.tflite")
    job, status = submit(lab, "--model", model, "--input-local", f"{directory}/*.png")
    assert [node["name"] for node in status["nodes"]] == ["node2"]
    found = {f"images/{Path(key).name}": value[0] for key, value in results(lab, job)}
    assert furthest(found, inference.expected()["float32"]) <= FROM_INTERPRETER["float32"]


def test_a_big_model_travels_as_content_and_is_gone_after_the_job(lab: Lab, tmp_path: Path) -> None:
    """More than any other file of a job may have."""
    model = tmp_path / "big.tflite"
    model.write_bytes((inference.models() / "megabyte.tflite").read_bytes() + bytes(20 << 20))
    (tmp_path / "x.bin").write_bytes(bytes(4 * 32 * 32 * 3))
    job, _ = submit(lab, "--model", str(model), "--input", str(tmp_path / "x.bin"), "-k", "1")
    ((key, value),) = results(lab, job)
    assert key == "x.bin" and len(value[0]) == 10
