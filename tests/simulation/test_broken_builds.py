"""The simulation is a harness, so it has to be seen to catch something: builds broken on purpose, one rule at a time.

Each sabotage takes one rule of PROTOCOL.md out of the core. Some seed of the same runs that pass with the real core
must then end in a wrong result, a broken invariant, or a job that never ends.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipdc_edge.core import leases, master, tasks, worker
from ipdc_edge.core.machine import BrokenInvariant, ImpossibleTransition
from tests.simulation.test_simulation import assert_exact
from tests.simulation.world import Weather, World

WORSE = Weather(drop=0.2, double=0.2, delay=(0.0, 3.0))
SEEDS = 12


def run(seed: int) -> None:
    """Two jobs, a worker that crashes in the middle, bad weather; raises when anything is not as it must be."""
    world = World(6, seed, WORSE, failing=0.02)
    for node in (0, 1):
        world.after(3.0, world.submit, world.nodes[node], 24, 3)
    world.after(9.0, lambda: world.nodes[2 + seed % 4].crash())
    world.run(lambda: len(world.ended) == 2 and not world.holding(), most_steps=20_000)
    for job, view in world.ended.items():
        assert view["state"] == "succeeded", view["error"]
        assert_exact(world, job, 24, 3)


def caught() -> bool:
    """Whether any seed shows that something is broken."""
    for seed in range(SEEDS):
        try:
            run(seed)
        except (AssertionError, BrokenInvariant, ImpossibleTransition, KeyError):
            return True
    return False


def test_the_real_build_passes_the_same_runs() -> None:
    assert not caught()


def no_repeat_of_commands(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases.Leases, "unseen", lambda self, participant, seen, now, wait: [])


def no_repeat_of_reports(patch: pytest.MonkeyPatch) -> None:
    tick = worker.Worker.tick

    def silent(self: worker.Worker, now: float) -> None:
        report, self._report = self._report, lambda task: None  # type: ignore[method-assign]
        tick(self, now)
        self._report = report  # type: ignore[method-assign]

    patch.setattr(worker.Worker, "tick", silent)


def reduce_before_all_maps(patch: pytest.MonkeyPatch) -> None:
    """The bug that this simulation found when it was new: a lost order repeated although a map was lost meanwhile."""
    patch.setattr(tasks.Tasks, "is_ready", lambda self, ident: True)


def leases_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(master.Participants, "run_out", lambda self, now: [])


def lost_outputs_are_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases.Leases, "lose_output", lambda self, cid, ordered: [])


def attempts_without_a_number(patch: pytest.MonkeyPatch) -> None:
    """Every attempt at a task has the same name, so an old report passes for a new one."""
    give = leases.Leases.give

    def same(self: leases.Leases, now: float):  # type: ignore[no-untyped-def]
        for one in give(self, now):
            self.issued = 0
            yield one

    patch.setattr(leases.Leases, "give", same)


@pytest.mark.parametrize(
    "sabotage",
    [
        no_repeat_of_commands, no_repeat_of_reports, reduce_before_all_maps, leases_without_end, lost_outputs_are_kept,
        attempts_without_a_number,
    ],
)
def test_a_build_broken_on_purpose_is_caught(
    sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert caught(), "the simulation would not have noticed"
