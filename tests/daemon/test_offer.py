"""What a node says that it can do, where its settings and its sandbox do not go together."""

from __future__ import annotations

import re

import pytest

from ipdc_edge.daemon.offer import IN_UNITS, seen
from ipdc_edge.drivers.tensorflow import Absent, Found, described
from tests.package.building import CHECKOUT

UNIT = CHECKOUT / "systemd" / "ipdc-runner-role@.service"


def found(place: str) -> Found:
    return Found("2.21.0", f"{place}/bin/python3", place)


@pytest.mark.parametrize("place", ["/srv/tf", "/var/lib/ipdc/tensorflow2", "/usr/../srv/tf", "/var/lib/ipdc"])
def test_a_tensorflow_that_no_unit_sees_is_none(place: str) -> None:
    for kind in ("systemd", "systemd without memory cgroup"):
        (told,) = described(seen(found(place), kind))[1]
        assert "is not seen in systemd's sandbox" in told and "tf install" in told
    assert seen(found(place), "bubblewrap") == found(place)


@pytest.mark.parametrize("place", ["/var/lib/ipdc/tensorflow", "/usr/lib/python3/dist-packages", "/usr/local/tf/",
                                   "/var/lib/ipdc/venv"])
def test_one_that_they_see_is_one(place: str) -> None:
    assert seen(found(place), "systemd") == found(place)
    assert seen(Absent("why"), "systemd") == Absent("why")


def test_the_unit_shows_these_and_no_others() -> None:
    (shown,) = re.findall("^BindReadOnlyPaths=(.*)$", UNIT.read_text(), re.M)
    assert {word.lstrip("-") for word in shown.split()} == set(IN_UNITS) - {"/usr"}
