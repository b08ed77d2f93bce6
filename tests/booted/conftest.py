"""Booted Debian 12 and 13 with the package. All tests of a release run together, so `node` is made once for each.

A test that breaks nothing takes `node` and leaves it as it was: active, with the settings of the package, and without
jobs that run. Others boot one of their own: `boot("name")` without the package, or `another("name")` with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bare.debian import SUITES
from tests.booted.containers import Container, Containers
from tests.booted.node import Node
from tests.package.building import deb, newer_deb

__all__ = ["deb", "newer_deb"]


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    with Containers() as made:
        yield made


@pytest.fixture(scope="session", params=list(SUITES))
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def node(containers: Containers, suite: str, deb: Path) -> Iterator[Node]:
    """The package, installed and running, for all tests of a release that leave it so."""
    made = Node(containers.boot(f"board-{suite}", suite))
    made.install(deb)
    made.running()
    made.container.keep("/var/lib/ipdc")  # a node like this one has another key
    yield made
    containers.discard(made.container)


@pytest.fixture
def boot(containers: Containers, suite: str) -> Iterator[Callable[..., Node]]:
    """boot(name, memory=None, like=None, shown=""): a system of the test's own, without the package; gone after it."""
    made: list[Container] = []

    def booted(name: str, memory: int | None = None, like: Container | None = None, shown: str = "") -> Node:
        number = len(containers.network.hosts)  # a name is a network namespace's too
        made.append(containers.boot(f"{name}{number}", suite, memory, like, shown))
        return Node(made[-1])

    yield booted
    for container in made:
        containers.discard(container)


@pytest.fixture
def another(boot: Callable[..., Node], node: Node) -> Callable[..., Node]:
    """another(name, memory=None, shown=""): a node of the test's own, running, as the package has made it; gone
    after it."""
    def running(name: str, memory: int | None = None, shown: str = "") -> Node:
        made = boot(name, memory, node.container, shown)
        made.running()
        return made

    return running
