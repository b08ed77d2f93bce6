"""Inference under systemd, on Debian 12 and 13: the interpreter's library is loaded in a runner's unit, with all that
this forbids, and says what it says elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.drivers.tflite_capability import PROVING
from tests.booted.node import MEMBER, Node
from tests.tensorflow import installed

pytestmark = [pytest.mark.booted, pytest.mark.tensorflow]
VENV = "/var/lib/ipdc/venv"


def record(node: Node) -> tuple[list[str], list[str]]:
    """(what the node can, what it cannot) of TFLite."""
    (one,) = node.json("nodes")
    return ([word for word in one["capabilities"] if "tflite" in word and "operators" not in word],
            [word for word in one["unable"] if word.startswith("tflite")])


def test_inference_in_the_units_of_the_package(another: Callable[..., Node], node: Node) -> None:
    can, cannot = record(node)
    assert can == [] and "no interpreter is installed" in cannot[0]
    board = another("infer")
    version = board.run("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").stdout.strip()
    packages = installed.litert_packages(version)
    names = ("ai_edge_litert", "numpy", "numpy.libs", "PIL", "pillow.libs")
    archive = subprocess.run(["tar", "-c", "-C", packages, *names], check=True, capture_output=True).stdout
    there = f"{VENV}/lib/python{version}/site-packages"
    board.run(f"mkdir -p {there} && tar -x --no-same-owner -C {there} && systemctl restart ipdc-edge", stdin=archive)
    board.running()
    board.eventually(lambda: record(board)[1] != [PROVING], "the interpreter was tried")
    assert record(board) == (["tflite", "tflite=ai_edge_litert 2.3.0"], [])
    (one,) = board.json("nodes")
    assert one["sandbox"].startswith("systemd")

    board.container.write(f"/home/{MEMBER}/relu.tflite", tiny.model(tiny.RELU))
    board.container.write(f"/home/{MEMBER}/rows.csv", "-1,2,-3,4\n5,-6,7,-8\n")
    done = board.ipdc("submit", "--model", "relu.tflite", "--input", "rows.csv", "--id-only")
    job = done.stdout.strip()
    board.wait(job)
    assert board.ipdc("result", job).stdout == (
        '[["rows.csv",0],[[0.0,2.0,0.0,4.0]]]\n[["rows.csv",10],[[5.0,0.0,7.0,0.0]]]\n')
    assert board.failed_units() == ""
