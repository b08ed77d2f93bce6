"""A node that fails what others can do costs its job little, and never fails it."""

from __future__ import annotations

import pytest

from ipdc_edge.core import participant
from ipdc_edge.core.effects import StartTask
from tests.simulation.test_simulation import assert_exact
from tests.simulation.world import CALM, STORM, SimNode, Weather, World

NODES, SPLITS, WORKERS = 7, 120, 6
SEEDS = range(4)
MOST = 30  # attempts in vain at a bad node; they are quickly over, so it is not set aside at once


def begun_in_vain(
    monkeypatch: pytest.MonkeyPatch, seed: int, weather: Weather, *bad: int
) -> tuple[int, list[dict[str, str]]]:
    """Attempts that nodes begin at which every one fails, in a job that is to succeed; and what is told of the bad
    nodes that took part."""
    begun: list[str] = []
    start = SimNode.do_StartTask

    def counted(self: SimNode, effect: StartTask) -> None:
        if self.number in bad:
            begun.append(effect.task)
        start(self, effect)

    monkeypatch.setattr(SimNode, "do_StartTask", counted)
    monkeypatch.setattr(World, "fails", lambda self, node, effect: node.number in bad)
    world = World(NODES, seed, weather)
    for node in world.nodes:
        node.speed = 4.0 if node.number in bad else 1.0  # who fails is soon free again
    world.after(3.0, world.submit, world.nodes[0], SPLITS, WORKERS)
    world.run(lambda: bool(world.ended) and not world.holding())
    (job,) = world.ended
    view = world.ended[job]
    assert view["state"] == "succeeded", view["error"]
    assert_exact(world, job, SPLITS, WORKERS)
    monkeypatch.undo()
    return len(begun), [node for node in view["nodes"] if int(node["name"][1:]) in bad]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weather", [CALM, STORM], ids=["calm", "storm"])
@pytest.mark.parametrize("bad", [(5,), (4, 5, 6)], ids=["one", "half"])
def test_nodes_that_fail_all_are_set_aside(
    monkeypatch: pytest.MonkeyPatch, seed: int, weather: Weather, bad: tuple[int, ...]
) -> None:
    begun, told = begun_in_vain(monkeypatch, seed, weather, *bad)
    assert begun <= MOST * len(bad)
    for node in told if begun else ():
        assert node["state"] == "aside" and "that others have done" in node["reason"], node


@pytest.mark.parametrize("seed", SEEDS)
def test_a_build_that_blames_nobody_is_seen(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """By what the bad nodes cost, with every seed: where half of the nodes are bad, some take part."""
    monkeypatch.setattr(participant.Participants, "blame", lambda self, node, why: None)
    begun, _ = begun_in_vain(monkeypatch, seed, CALM, 4, 5, 6)
    assert begun > MOST * 3
