"""Every file of scenarios/ is played, and must give exactly the effects that it tells."""

from __future__ import annotations

import os

import pytest

from tests.core.scenario import play

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenarios")


@pytest.mark.parametrize("name", sorted(os.listdir(DIRECTORY)))
def test_scenario(name: str) -> None:
    with open(os.path.join(DIRECTORY, name), encoding="utf-8") as file:
        text = file.read()
    assert play(text) == text
