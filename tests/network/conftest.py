"""A network for each test of this directory, and a short path for its nodes' homes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.network.hosts import Network


@pytest.fixture()
def directory() -> Iterator[str]:
    """Where nodes live: short, because the path of a socket is bounded."""
    made = tempfile.mkdtemp(prefix="ipdc-net-", dir="/tmp")
    yield made
    shutil.rmtree(made)


@pytest.fixture()
def network(directory: str) -> Iterator[Network]:
    """A network without hosts, removed with all that was started on it, before the directory in which that works."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    with Network() as made:
        yield made
