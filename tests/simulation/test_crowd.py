"""A job that asks for every node of a crowd has every node: at once, and where most could not get its code at first."""

from __future__ import annotations

from typing import Any

import pytest

from ipdc_edge.core.participant import Participants
from tests.simulation.node import SimNode
from tests.simulation.test_simulation import assert_exact
from tests.simulation.world import CALM, World

NODES, SPLITS, AT_FIRST = 50, 500, 6
SEEDS = range(1, 4)


def idle_nodes(seed: int) -> tuple[int, float]:
    """How many nodes did nothing of one job over all of them; the seconds that it took."""
    world = World(NODES, seed, CALM, check_every=50, tracing=False)
    world.after(5.0, world.submit, world.nodes[0], SPLITS, NODES)
    world.run(lambda: bool(world.ended) and not world.holding())
    ((job, view),) = world.ended.items()
    assert view["state"] == "succeeded", view["error"]
    assert_exact(world, job, SPLITS, NODES)
    done = {node["name"] for node in view["nodes"] if node["tasks_done"]}
    return NODES - len(done), float(view["ended"] - view["submitted"])


def shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master's gateway gives the job's code to few nodes, and to the others when they ask again."""
    fetch, asked = SimNode._fetch_job, {}

    def once(self: SimNode, effect: Any) -> None:
        if self.id in asked or len(asked) < AT_FIRST:
            asked[self.id] = True
            fetch(self, effect)
        else:
            asked[self.id] = False
            monkeypatch.setattr(self, "fetch", lambda *_: None)
            fetch(self, effect)
            monkeypatch.delattr(self, "fetch")

    monkeypatch.setattr(SimNode, "_fetch_job", once)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_node_takes_part(seed: int) -> None:
    assert idle_nodes(seed)[0] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_who_could_not_get_the_code_at_first_takes_part_later(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shut_out(monkeypatch)
    assert idle_nodes(seed)[0] == 0


def test_who_is_never_asked_again_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build that is broken on purpose."""
    shut_out(monkeypatch)
    recruit = Participants.recruit

    def only_once(self: Participants, now: float) -> Any:
        if not self.by_node:
            return recruit(self, now)
        self.recruit_at = float("inf")
        return []

    monkeypatch.setattr(Participants, "recruit", only_once)
    assert idle_nodes(SEEDS[0])[0] > NODES / 2
