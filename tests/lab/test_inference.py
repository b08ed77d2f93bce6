"""`submit --model` where no node has an interpreter: refused at once, with each node's reason. With interpreters:
tests/tensorflow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.drivers.tflite_capability import PACKAGES
from tests.lab.conftest import Lab

INSTALLED = any(map(importlib.util.find_spec, PACKAGES))


@pytest.mark.skipif(INSTALLED, reason="does not apply: this Python has an interpreter")
def test_a_model_that_no_node_can_run_is_exit_code_4_with_each_nodes_reason(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(tiny.model(tiny.RELU))
    (tmp_path / "rows.csv").write_text("1,2,3,4\n")
    before = lab.json(1, "jobs")
    done = lab.run(1, "submit", "--model", "m.tflite", "--input", "rows.csv", cwd=tmp_path, check=False)
    assert done.returncode == 4
    for node in range(1, lab.nodes + 1):
        assert f"node{node}: cannot do tflite: no interpreter is installed" in done.stderr
    assert lab.json(1, "jobs") == before, "it does not wait in a queue"
