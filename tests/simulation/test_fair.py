"""Jobs share a domain: those of several masters alike, whatever they claim; those of one by their priority."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.world import World

NODES, SPLITS, WORKERS = 6, 80, 6


def durations(seed: int, *jobs: tuple[int, dict[str, Any]]) -> list[float]:
    """Seconds that each job takes: (its master's number, what else stands in its description), all submitted at
    once."""
    world = World(NODES, seed)
    for node in world.nodes:
        node.speed = 1.0
    order: list[str] = []

    def submit() -> None:
        for master, more in jobs:
            world.submit(world.nodes[master], SPLITS, WORKERS, **more)
            order.append(list(world.nodes[master].node.masters)[-1])

    world.after(3.0, submit)
    world.run(lambda: len(world.ended) == len(jobs) and not world.holding())
    views = [world.ended[job] for job in order]
    assert all(view["state"] == "succeeded" for view in views), views
    return [float(view["ended"] - view["submitted"]) for view in views]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("second", [0, 1], ids=["one master", "two masters"])
def test_two_jobs_end_at_about_the_same_time(seed: int, second: int) -> None:
    one, two = durations(seed, (0, {}), (second, {}))
    assert 0.75 < one / two < 1.33, (one, two)


@pytest.mark.parametrize("seed", range(3))
def test_a_high_priority_takes_nothing_from_another_master(seed: int) -> None:
    greedy, other = durations(seed, (0, {"priority": 10}), (1, {"priority": -10}))
    assert 0.75 < greedy / other < 1.33, (greedy, other)


@pytest.mark.parametrize("seed", range(3))
def test_many_jobs_take_no_more_than_their_masters_share(seed: int) -> None:
    *many, one = durations(seed, (0, {}), (0, {}), (0, {}), (0, {}), (1, {}))
    assert one < 0.6 * max(many), (many, one)


@pytest.mark.parametrize("seed", range(3))
def test_a_job_of_a_higher_priority_is_done_before_the_masters_others(seed: int) -> None:
    low, high = durations(seed, (0, {}), (0, {"priority": 1}))
    (alone,) = durations(seed, (0, {}))
    assert high < 1.35 * alone and high < 0.8 * low, (alone, high, low)
