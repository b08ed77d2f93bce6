"""A house of nodes for all trials of a run, and the table of what came of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.faults.house import House
from tests.faults.table import Table
from tests.network.hosts import Network


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Hosts on networks of their own can be made here."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")


@pytest.fixture(scope="session")
def house(namespaces: None) -> Iterator[House]:
    """Four nodes, a guest, and what each job makes when nothing breaks."""
    directory = tempfile.mkdtemp(prefix="ipdc-flt-", dir="/tmp")  # short: the path of a socket is bounded
    with Network() as network:
        made = House(network, directory)
        made.run_quietly()
        yield made
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """Sums up; printed at the end."""
    made = Table()
    yield made
    print(f"\n{made.markdown()}")
