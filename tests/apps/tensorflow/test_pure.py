"""What plans a cluster is pure, as tests/core/test_pure.py holds it for Map-Reduce's plan."""

from __future__ import annotations

import os

import pytest

import ipdc_edge
from tests.core.test_pure import CODEC, strangers

HERE = os.path.join(os.path.dirname(os.path.abspath(ipdc_edge.__file__)), "apps", "tensorflow")


@pytest.mark.parametrize("name", ["cluster.py", "planning.py"])
def test_planning_reaches_nothing_outside(name: str) -> None:
    own = ("ipdc_edge.core.", "ipdc_edge.errors.", "ipdc_edge.apps.tensorflow.")
    assert not strangers(os.path.join(HERE, name), CODEC, own)
