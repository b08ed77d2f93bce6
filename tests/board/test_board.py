"""The package on an emulated armhf board with 128 MB of memory, Debian 13: what scenario.py went through there."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.board.conftest import Running
from tests.board.jobs import SIZE
from tests.board.scenario import table

pytestmark = pytest.mark.board
SECONDS = 3600  # of emulation, on a machine that has other things to do
LEAST = 15 << 10  # kB that stay available


@pytest.fixture(scope="module")
def figures(running: Running) -> dict[str, Any]:
    try:
        code = running.process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the scenario has not ended:\n{running.log.read_text()}") from None
    assert code == 0, running.log.read_text()
    found: dict[str, Any] = json.loads(running.figures.read_text())
    print(table(found))
    return found


def test_it_is_a_board_with_128_mb(figures: dict[str, Any]) -> None:
    assert int(figures["memory"]["MemTotal"]) < 128 << 10
    assert figures["swaps"] == [], "there is swap, so that nothing swaps says nothing"


def test_it_masters_a_job_over_64_mb_that_spills(figures: dict[str, Any]) -> None:
    job = figures["masters"]
    assert job["input"] == SIZE and job["right"] and job["spilled"] > 0, job


def test_it_works_for_a_bigger_node(figures: dict[str, Any]) -> None:
    job = figures["works"]
    assert job["right"] and len([task for task in job["by_board"] if task.startswith("map")]) >= 2, job


@pytest.mark.parametrize("phase", ("idle", "works", "masters"))
def test_enough_memory_stays_available(figures: dict[str, Any], phase: str) -> None:
    found = figures["phases"][phase]
    assert found["available"] >= LEAST, found
    assert found["swap"] == 0
    assert {"ipdc-edge", "ipdc-broker"} <= found.keys(), "the watch saw no daemon"


def test_the_watch_saw_runners_at_work(figures: dict[str, Any]) -> None:
    for phase in "works", "masters":
        assert figures["phases"][phase]["ipdc-runner"] > 0


def test_it_is_ready_after_a_boot(figures: dict[str, Any]) -> None:
    assert 0 < figures["ready_after"]["ipdc-broker"] <= figures["ready_after"]["ipdc-edge"]


def test_nothing_was_killed_and_nothing_failed(figures: dict[str, Any]) -> None:
    assert figures["killed"] == ""
    assert [line for line in figures["failed"].splitlines() if "ipdc" in line] == []
