"""Splits go to workers that hold their bytes; nobody idles long for that, and who says what is not so harms nobody. In
virtual time, so figures are the same everywhere."""

from __future__ import annotations

import pytest

from ipdc_edge.core import leases
from tests.simulation.test_simulation import assert_exact
from tests.simulation.world import CALM, STORM, Weather, World

SPLITS, WORKERS, SLOW = 100, 6, 5
SEEDS = range(1, 5)


def twice(seed: int, keeps: bool, slow: float = 1.0, weather: Weather = CALM, boast: float = 0.0) -> tuple[float, int]:
    """Seconds that the second of two jobs over the same input takes, where a node may be slower then; and how many of
    its splits were moved."""
    world = World(WORKERS, seed, weather, keeps=keeps, boast=boast)
    for node in world.nodes:
        node.speed = 1.0
    world.after(3.0, world.submit, world.nodes[0], SPLITS, WORKERS)
    world.run(lambda: len(world.ended) == 1 and not world.holding())
    before, world.nodes[SLOW].speed = world.moved, slow
    world.submit(world.nodes[0], SPLITS, WORKERS)
    world.run(lambda: len(world.ended) == 2 and not world.holding())
    for job, view in world.ended.items():
        assert view["state"] == "succeeded", view["error"]
        assert_exact(world, job, SPLITS, WORKERS)
    last = max(world.ended.values(), key=lambda view: view["submitted"])
    return float(last["ended"] - last["submitted"]), world.moved - before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_second_job_moves_next_to_nothing_and_takes_no_longer(seed: int) -> None:
    took, moved = twice(seed, keeps=True)
    anywhere, all_moved = twice(seed, keeps=False)
    assert moved <= 5 < SPLITS / 2 < all_moved and took < 1.25 * anywhere  # moving costs nothing there


def first(seed: int, keeps: bool, work: float) -> float:
    """Seconds that a job takes, of tasks of about so many seconds, whose master has all of the input and works too."""
    world = World(WORKERS, seed, keeps=keeps, work=work)
    for node in world.nodes:
        node.speed = 1.0
    world.after(3.0, world.submit, world.nodes[0], 24, WORKERS)
    world.run(lambda: len(world.ended) == 1 and not world.holding())
    (view,) = world.ended.values()
    return float(view["ended"] - view["submitted"])


@pytest.mark.parametrize("seed", SEEDS)
def test_long_tasks_are_not_left_to_who_holds_their_input(seed: int) -> None:
    assert first(seed, True, work=60.0) < 1.1 * first(seed, False, work=60.0)


@pytest.mark.parametrize("speed", [0.1, 0.001])
@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_waits_for_a_holder_that_is_slow_now(seed: int, speed: float) -> None:
    assert twice(seed, keeps=True, slow=speed)[0] < 1.3 * twice(seed, keeps=False, slow=speed)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_storm_with_boasters_every_job_is_done(seed: int) -> None:
    assert twice(seed, keeps=True, slow=0.1, weather=STORM, boast=0.5)[0] < 3 * twice(seed, False, weather=STORM)[0]


def test_who_never_takes_what_others_hold_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build that is broken on purpose: each of these runs would be caught."""
    monkeypatch.setattr(leases.Leases, "_give_others", lambda self, now, engaged: iter(()))
    for seed in SEEDS:
        assert twice(seed, keeps=True, slow=0.001)[0] > 1.3 * twice(seed, keeps=False, slow=0.001)[0]
