"""`tf install` for real: from the package index, by pip, on a lab of which one node has it; the others hear of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.drivers import tensorflow_install
from tests.bare.debian import cache
from tests.lab.conftest import Lab, eventually
from tests.tensorflow import installed

pytestmark = pytest.mark.tensorflow
WHOLE = f"tensorflow={tensorflow_install.VERSION}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    directory = tempfile.mkdtemp(prefix="ipdc-tf-")
    found = Lab(os.path.join(directory, "lab"), 2, "--sandbox", "rlimits")
    try:
        yield found
    finally:
        found.run(1, "lab", "down", "--dir", found.directory, "--purge")
        shutil.rmtree(directory)


def node(lab: Lab, asked: int, name: str) -> dict[str, object]:
    (found,) = [node for node in lab.json(asked, "nodes", "--json") if node["name"] == name]
    return found


def checks(lab: Lab, asked: int) -> dict[str, dict[str, object]]:
    """What `doctor` says, by name; on a busy machine a peer may not answer within its 3 s, which is not meant here."""
    told = lab.run(asked, "doctor", "--json", check=False).stdout
    return {check["check"]: check for check in json.loads(told)}


def test_it_is_installed_told_and_proven(lab: Lab) -> None:
    before = node(lab, 2, "node1")
    assert WHOLE not in before["capabilities"] and any("tf install" in word for word in before["unable"])
    told = lab.run(1, "tf", "install", env={"PIP_CACHE_DIR": str(cache() / "pip")}).stdout
    assert "tensorflow" in told and "proving that it works" in told and "The daemon has told the others." in told
    seen = eventually(lambda: WHOLE in node(lab, 2, "node1")["capabilities"] and node(lab, 2, "node1"), "it is told")
    assert not any("tf install" in word for word in seen["unable"])
    assert WHOLE not in node(lab, 1, "node2")["capabilities"]
    assert sorted(name for name in os.listdir(lab.home(1)) if "tensorflow" in name) == ["tensorflow"]

    proof = checks(lab, 1)["tensorflow"]
    assert proof["ok"] and "builds a graph" in proof["detail"], proof
    assert "tensorflow" not in checks(lab, 2)

    with open(f"/proc/{Path(lab.home(1), 'run/daemon.pid').read_text().split()[0]}/maps", encoding="utf-8") as maps:
        assert "tensorflow" not in maps.read()

    again = json.loads(lab.run(1, "tf", "install", "--json").stdout)
    assert again == {"version": "2.21.0", "directory": f"{lab.home(1)}/tensorflow", "daemon": True}


def test_the_pins_are_what_the_tests_run_with() -> None:
    assert installed.TENSORFLOW == tensorflow_install.package()
    assert installed.TF_KERAS == tensorflow_install.ALONE and installed.NUMPY in tensorflow_install.PINS
    packages = installed.venv() / f"lib/python3.{sys.version_info[1]}/site-packages"
    there = {name.removesuffix(".dist-info").lower() for name in os.listdir(packages) if name.endswith(".dist-info")}
    pins = {pin.replace("==", "-").replace("-py-", "_py-").lower() for pin in tensorflow_install.PINS}
    assert {pin.replace("-", "_") for pin in pins} <= {name.replace("-", "_") for name in there}
