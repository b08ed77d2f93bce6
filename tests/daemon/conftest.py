"""A node for the commands about content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.content_node import ContentNode


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContentNode]:
    """A running one, which the commands use."""
    monkeypatch.setenv("IPDC_HOME", str(tmp_path / "home"))
    with ContentNode(str(tmp_path / "home")) as node:
        yield node
