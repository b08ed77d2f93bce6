"""Real Kubo daemons for the tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ipfs.kubo import CannotBuild, Kubo, program


@pytest.fixture(scope="session")
def ipfs() -> str:
    """The program; without it these tests are left out, and --all makes that a failure."""
    try:
        return program()
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def kubo(ipfs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    """One that runs."""
    made = Kubo(tmp_path_factory.mktemp("kubo"))
    made.start()
    yield made
    made.stop()
