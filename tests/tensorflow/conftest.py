"""What tests of clusters share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import Lab


@pytest.fixture
def here(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A directory to work in; the clusters that a test leaves end with it. `lab` is the module's own."""
    yield tmp_path
    for view in lab.json(1, "tf", "status"):
        lab.run(1, "tf", "down", view["id"])
