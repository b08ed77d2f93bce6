"""Nodes, brokers, cables and blocks break at random moments of real jobs: every result is the quiet run's, byte for
byte, no record is lost or counted twice, and nothing is left anywhere.

Each seed's plan has kinds of faults of its own, so that all kinds are struck; `tests/faults/soak` draws any number.
"""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS
from tests.faults.house import House
from tests.faults.table import Table
from tests.faults.trial import Trial, draw, ran_again

pytestmark = pytest.mark.faults

DEALT = {
    1: ("kill", "kill", "broker", "flip-stored"),
    2: ("crash", "one-way", "runner", "join"),
    3: ("mute", "freeze", "leave", "flip-travelling"),
    4: ("cut", "drop", "delay", "drain", "kill"),
}


def test_every_kind_of_fault_is_dealt() -> None:
    assert {kind for kinds in DEALT.values() for kind in kinds} == set(FAULTS)


def test_a_committed_task_that_runs_again_without_a_loss_is_seen() -> None:
    def story(*kinds: str) -> list[dict[str, str]]:
        return [{"kind": kind, "task": "" if kind == "restored" else "map-00000"} for kind in kinds]

    assert ran_again(story("leased", "committed", "restored", "leased", "committed")) == ["map-00000"]
    assert not ran_again(story("leased", "committed", "output-lost", "leased", "committed"))
    assert not ran_again(story("leased", "restored", "kept", "committed"))


@pytest.mark.parametrize("seed", DEALT)
def test_faults_change_no_result_and_leave_nothing(house: House, table: Table, seed: int) -> None:
    trial, error = Trial(house, draw(seed, DEALT[seed])), None
    try:
        trial.play()
    except AssertionError as found:
        error = found
        raise
    finally:
        table.add(trial, error)
    print(f"{trial.plan}\n{[blow for blow in trial.blows if blow.note]}")
