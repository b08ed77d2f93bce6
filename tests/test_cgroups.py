"""What tests measure with is itself held to measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.booted.cgroups import Lowest


def test_who_could_not_look_at_a_cgroup_says_so(tmp_path: Path) -> None:
    """A test that wants at least so much would be content with what was never looked at."""
    with pytest.raises(FileNotFoundError), Lowest(tmp_path):
        pass
