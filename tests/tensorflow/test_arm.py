"""Inference on 32-bit ARM with Debian 12's own numpy: a runner of that processor gives TensorFlow's answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ipdc_edge.drivers.runner import Runner
from tests.tensorflow import arm, inference
from tests.tensorflow.inference import Inference
from tests.tensorflow.test_inference import FROM_FLOAT, FROM_INTERPRETER, furthest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not inference.installed.has_tflite_runtime(), reason="does not apply: no wheel for this Python"),
]
CAPABILITY = """
import json, os, platform
from ipdc_edge.drivers import tflite_capability as capability
venv = "/var/lib/ipdc/venv"
print(json.dumps([platform.machine(), capability.BITS, capability.installed(venv), capability.absent(venv),
                  capability.absent(venv, version=(3, 13))]))
"""


class OnArm(Inference):
    """One job's runner there."""

    def _runner(self, scratch: str) -> Runner:
        return arm.ArmRunner(scratch, venv="/nonexistent/venv")


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_outputs_agree_with_tensorflow(kind: str) -> None:
    model, expected = (inference.models() / f"{kind}.tflite").read_bytes(), inference.expected()
    inputs = {f"{name}.csv": row.encode() for name, row in inference.pixels().items()}
    (pairs,) = OnArm(Path("/nonexistent/venv"), model).run(inputs)
    found = {key[0].removesuffix(".csv"): value[0] for key, value in pairs}
    assert furthest(found, expected[kind]) <= FROM_INTERPRETER[kind]
    assert furthest(found, expected["float"]) <= FROM_FLOAT[kind]


def test_a_node_there_says_what_it_has_and_debian_13_why_it_has_none() -> None:
    done = subprocess.run(arm.command("-c", CAPABILITY), cwd=inference.ROOT, capture_output=True, text=True, check=True)
    machine, bits, found, absent, newer = json.loads(done.stdout)
    assert (machine, bits, found) == ("armv7l", 32, ["tflite_runtime"])
    assert absent.endswith("/bin/pip install tflite-runtime` does it")
    assert newer.startswith("there is no interpreter for Python 3.13 on armv7l with 32 bits"), newer
