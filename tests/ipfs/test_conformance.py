"""The specification's own suite for gateways, where Go's module proxy gives it.

It is a program in Go that nobody else packages; where the proxy has none, the last run by hand is in
benchmarks/RESULTS.md, and tests/drivers/test_gateway_car.py makes every answer anew.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.commands.laboratory import free_ports
from tests.bare.debian import cache
from tests.ipfs.kubo import CannotBuild, go
from tests.waiting import eventually

pytestmark = pytest.mark.kubo
SUITE = "github.com/ipfs/gateway-conformance/cmd/gateway-conformance@v0.13.1"
SPECS = "trustless-gateway,-trustless-ipns-gateway"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def suite() -> str:
    """The program. Not to be had is told, and no failure of ours: the proxy decides."""
    path = cache() / "gateway-conformance"
    try:
        tool = go()
    except CannotBuild as error:
        pytest.skip(str(error))
    done = subprocess.run([tool, "install", SUITE], env={**os.environ, "GOBIN": str(path)}, capture_output=True,
                          text=True)
    if done.returncode and "not available" in done.stderr:
        pytest.skip(f"does not apply: the module proxy has no {SUITE}")
    assert done.returncode == 0, done.stderr
    return str(path / "gateway-conformance")


@pytest.fixture()
def gateway(suite: str, tmp_path: Path) -> Iterator[str]:
    subprocess.run([suite, "extract-fixtures", "--directory", "fixtures"], cwd=tmp_path, check=True,
                   capture_output=True)
    (port,) = free_ports(1)
    cars = sorted(map(str, (tmp_path / "fixtures").rglob("*.car")))
    assert len(cars) > 10
    log = tmp_path / "gateway.log"
    with open(log, "wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "tests.ipfs.cars", str(port), *cars], cwd=ROOT,
                                   stdout=output, stderr=output)
    try:
        eventually(lambda: "blocks on" in log.read_text() or process.poll() is not None, "the gateway listens", 60)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_the_suite_for_trustless_gateways(suite: str, gateway: str, tmp_path: Path) -> None:
    done = subprocess.run([suite, "test", "--gateway-url", gateway, "--specs", SPECS, "--verbose"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    assert len(re.findall("--- PASS", done.stdout)) > 300 and "--- FAIL" not in done.stdout
