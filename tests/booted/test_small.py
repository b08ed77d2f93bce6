"""A node within 128 MB: Debian 12 and 13 with the package in a container whose cgroup has no more, and no swap.

The emulated board (tests/board) has a kernel of its own; here it is the kernel's count of a cgroup, the cache of files
included, on the machine's own processor.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.jobs import SIZE, own_job, readings, work_for
from tests.booted import cgroups
from tests.booted.containers import Containers
from tests.booted.node import Node
from tests.network.hosts import DomainNode
from tests.waiting import eventually

pytestmark = pytest.mark.booted
MEMORY = 128 << 20
LEAST = 15 << 20  # bytes that stay available


@pytest.fixture
def directory() -> Iterator[str]:
    made = tempfile.mkdtemp(prefix="ipdc-small-", dir="/tmp")  # short: the path of a socket is bounded
    yield made
    shutil.rmtree(made)


def test_within_128_mb(boot: Callable[..., Node], containers: Containers, deb: Path, directory: str) -> None:
    node = boot("small", memory=MEMORY)
    container = node.container
    figures = {}

    def watched(name: str) -> cgroups.Lowest:
        figures[name] = cgroups.Lowest(container.cgroup.memory)
        return figures[name]

    with watched("install"):
        node.install(deb)
        node.running()
    host = containers.network.host(f"bigger-{container.name}")
    bigger = DomainNode(host, directory, sandbox="rlimits")  # in which its maps see the gate that they wait at
    bigger.start()
    try:
        bigger.ipdc("domain", "create", "house")
        node.run(f"ipdc-edge join {bigger.invite()}")
        eventually(lambda: container.name in bigger.ready(), "the bigger node sees the small one ready", 60)
        (own,) = (found for found in bigger.json("nodes") if found["name"] == container.name)
        assert own["slots"] == 1, own
        with watched("works"):
            works = work_for(bigger, directory)
    finally:
        bigger.stop()
    container.write("/root/text", readings(SIZE, 2)[0])
    container.run("sync /root/text")  # what was written for the test, and is not on the disk yet, is no free memory
    with watched("masters"):
        masters = own_job(container, "/root/text", SIZE)

    for name, found in figures.items():
        print(f"{container.suite}, {name}: at least {found.bytes / 2**20:.1f} MB of {MEMORY >> 20} available in "
              f"{found.looks} looks over {found.seconds:.0f} s, swap {found.swap}")
    print(f"{container.suite}: peak {cgroups.peak(container.cgroup.memory) / 2**20:.1f} MB with the cache of files; "
          f"works {works}; masters {masters}")
    assert works["right"] and len([task for task in works["by_board"] if task.startswith("map")]) >= 2, works
    assert masters["right"] and masters["input"] == SIZE and masters["spilled"] > 0, masters
    for name, found in figures.items():
        assert found.bytes >= LEAST and found.swap == 0, f"{name}: {found.bytes} available, {found.swap} in swap"
    assert container.cgroup.oom_kills() == []
    assert node.failed_units() == ""
