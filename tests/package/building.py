"""The package as ./build-deb makes it, and the same with a higher version; each built once for all tests that want it.

The fixtures are for the conftest.py of a directory whose tests install the package: from tests.package.building import
deb.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NEWER = "99:1"  # higher than any version that there will be


@functools.cache  # a fixture that two conftest.py import would run for each
def build() -> Path:
    """dist/ipdc-edge.deb, new."""
    before = subprocess.run(["git", "status", "--porcelain"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    built = subprocess.run(["./build-deb"], cwd=CHECKOUT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    after = subprocess.run(["git", "status", "--porcelain"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    assert after == before, "the build changed the checkout"
    return CHECKOUT / "dist/ipdc-edge.deb"


@pytest.fixture(scope="session")
def deb() -> Path:
    return build()


@pytest.fixture(scope="session")
def newer_deb(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files as a later version."""
    directory = tmp_path_factory.mktemp("newer")
    unpacked = directory / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(unpacked)], check=True)
    control = unpacked / "DEBIAN/control"
    control.write_text(re.sub("^Version:.*", f"Version: {NEWER}", control.read_text(), flags=re.M))
    newer = directory / "newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(unpacked), str(newer)], check=True,
                   stdout=subprocess.DEVNULL)
    return newer
