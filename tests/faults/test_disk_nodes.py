"""Real nodes on a disk that fills up or loses its power in the middle of a job, which ends as a quiet one."""

from __future__ import annotations

import os

import pytest

from .power_nodes import SCENARIOS, scenario

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_result_is_that_of_a_quiet_run(name: str) -> None:
    scenario(name)
