"""The units are as closed as they say: held to the scores of systemd-analyze."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ipdc_edge.drivers.runner_child import ENVIRONMENT
from tests.package.building import CHECKOUT

pytestmark = pytest.mark.package
UNITS = CHECKOUT / "systemd"
MOST = {"ipdc-runner@.service": 0.6, "ipdc-edge.service": 1.6, "ipdc-broker.service": 1.6,
        "ipdc-runner-net@.service": 1.6, "ipdc-runner-role@.service": 1.0, "ipdc-kubo.service": 1.6}


def exposure(unit: Path) -> float:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+) ", said)
    assert found, said
    return float(found[1])


@pytest.mark.parametrize("name", MOST)
def test_a_unit_is_as_closed_as_it_should_be(name: str) -> None:
    found = exposure(UNITS / name)
    print(f"{name}: {found}")
    assert found <= MOST[name]


def test_a_unit_that_is_opened_is_noticed(tmp_path: Path) -> None:
    opened = tmp_path / "ipdc-runner@.service"
    text = (UNITS / "ipdc-runner@.service").read_text()
    opened.write_text(re.sub("^(PrivateNetwork|SystemCallFilter|RestrictAddressFamilies).*\n", "", text, flags=re.M))
    assert exposure(opened) > MOST["ipdc-runner@.service"]


@pytest.mark.parametrize("name", ["ipdc-runner@.service", "ipdc-runner-net@.service", "ipdc-runner-role@.service"])
def test_a_runner_has_the_same_environment_in_every_kind_of_sandbox(name: str) -> None:
    words = re.findall(r"^Environment=(.*)$", (UNITS / name).read_text(), re.M)
    given = dict(word.split("=", 1) for line in words for word in line.split())
    assert given.items() >= ENVIRONMENT.items()


@pytest.mark.parametrize("line", [
    "ipdc-edge.service", "ipdc-runner@.service", "ipdc-runner@1-2.service;x", "ssh.service", "ipdc-runner@*.service",
    "--all", "", "ipdc-runner@../x.service",
])
def test_the_reaper_refuses_whatever_is_no_runner(line: str) -> None:
    """Refused before anything is asked of systemd; what it does to runners is seen where there is a systemd."""
    done = subprocess.run([str(UNITS / "reaper")], input=line + "\n", capture_output=True, text=True,
                          env={**os.environ, "PATH": "/bin:/usr/bin"})
    assert done.stdout == "refused\n"


def limits(name: str) -> dict[str, int]:
    """MemoryMax= in percent, and TasksMax=."""
    return {key: int(value.rstrip("%")) for key, value in re.findall(
        r"^(MemoryMax|TasksMax)=([0-9]+%?)$", (UNITS / name).read_text(), re.M)}


@pytest.mark.parametrize("name", ["ipdc-runner@.service", "ipdc-runner-net@.service", "ipdc-runner-role@.service"])
def test_one_runner_may_not_have_all_that_its_slice_has(name: str) -> None:
    """Else it keeps all others from beginning; roles take many threads and much memory, so they are apart."""
    (own,) = re.findall(r"^Slice=(.*)$", (UNITS / name).read_text(), re.M)
    assert own == ("ipdc-role.slice" if "role" in name else "ipdc-runner.slice")
    one, together = limits(name), limits(own)
    assert one["TasksMax"] < together["TasksMax"] and one["MemoryMax"] <= together["MemoryMax"], (one, together)
