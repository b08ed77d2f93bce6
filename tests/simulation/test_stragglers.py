"""A slow node does not hold a job up, and does not spoil it: in virtual time, so figures are the same everywhere."""

from __future__ import annotations

import pytest

from ipdc_edge.core import leases
from ipdc_edge.core.effects import StartTask
from tests.simulation.test_simulation import assert_exact
from tests.simulation.world import CALM, STORM, SimNode, Weather, World

SPLITS, WORKERS, SLOW = 120, 6, 5  # the slow one is neither master nor portal
SEEDS = range(1, 5)  # in which the slow node has work when it matters
MOST = 1.6  # times longer that a job may take for a slow node; the promise is about 2.5


def took(seed: int, speed: float, weather: Weather = CALM, slow: int = SLOW) -> float:
    """Seconds from a job's submission to its end in a domain of six equal nodes, one of them of this speed."""
    world = World(WORKERS, seed, weather)
    for node in world.nodes:
        node.speed = 1.0
    world.nodes[slow].speed = speed
    world.after(3.0, world.submit, world.nodes[0], SPLITS, WORKERS)
    world.run(lambda: bool(world.ended) and not world.holding())
    (job,) = world.ended
    assert world.ended[job]["state"] == "succeeded", world.ended[job]["error"]
    assert_exact(world, job, SPLITS, WORKERS)
    return float(world.ended[job]["ended"] - world.ended[job]["submitted"])


def times_longer(seed: int, weather: Weather = CALM) -> float:
    """How many times longer a job takes where one node is ten times slower than the others."""
    return took(seed, 0.1, weather) / took(seed, 1.0, weather)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_ten_times_slower_does_not_hold_the_job(seed: int) -> None:
    assert times_longer(seed) < MOST


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_does_it_in_a_storm(seed: int) -> None:
    assert times_longer(seed, STORM) < MOST


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_does_one_that_has_stopped_but_for_its_renewals(seed: int) -> None:
    assert took(seed, 0.001) < MOST * took(seed, 1.0)


def test_without_doubling_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build that is broken on purpose: each of these runs would be caught."""
    monkeypatch.setattr(leases.Leases, "_double", lambda self, now: iter(()))
    assert all(times_longer(seed) > MOST for seed in SEEDS)


def test_equal_nodes_do_little_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tasks take from 0.2 to 1.2 s by chance."""
    started: list[str] = []
    start = SimNode.do_StartTask

    def counted(self: SimNode, effect: StartTask) -> None:
        started.append(effect.task)
        start(self, effect)

    monkeypatch.setattr(SimNode, "do_StartTask", counted)
    for seed in SEEDS:
        started.clear()
        took(seed, 1.0)
        assert len(started) < 1.03 * len(set(started))
