"""Nobody holds what nobody needs: after a cancel in any phase, and where a master never comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipdc_edge.core.effects import Effect, Note
from ipdc_edge.core.events import CancelRequested, Event
from tests.simulation.world import STORM, SimNode, Weather, World

MOMENTS = [3.0 + 0.4 * number for number in range(30)]  # seconds: from the submission to after the end


def left(world: World) -> list[str]:
    """What nodes hold of jobs, and the parts of jobs that did not succeed."""
    content = [f"n{node.number}: content of {owner}" for node in world.nodes if node.up
               for _, owners in node.content.values() for owner in owners]
    parts = [f"parts of {job}" for job in world.parts if world.ended[job]["state"] != "succeeded"]
    return content + parts


def cancelled(weather: Weather, due: Callable[[World, SimNode], bool]) -> tuple[str, str]:
    """Cancel a job as soon as it is due, and see that nothing stays anywhere: in which phase it was, and its end."""
    world = World(5, 1, weather)
    master, phase = world.nodes[1], ""
    world.after(3.0, world.submit, master, 24, 4)
    world.run(lambda: bool(master.node.masters) and due(world, master))
    for job, held in list(master.node.masters.items()):
        phase = held.state
        master.handle(CancelRequested(job))
    world.run(lambda: len(world.ended) == 1 and not world.holding())
    end = world.now + 5.0
    world.run(lambda: world.now > end)  # what was under way comes in
    assert not left(world), (phase, left(world))
    return phase, str(next(iter(world.ended.values()))["state"])


@pytest.mark.parametrize("weather", [Weather(), STORM], ids=["calm", "storm"])
def test_a_cancel_at_any_moment_cleans_up_everywhere(weather: Weather) -> None:
    for moment in MOMENTS:
        assert cancelled(weather, lambda world, master, at=moment: world.now >= at)[1] in ("cancelled", "succeeded")


@pytest.mark.parametrize("weather", [Weather(), STORM], ids=["calm", "storm"])
@pytest.mark.parametrize("phase", ["queued", "running", "collecting", "publishing"])
def test_a_cancel_in_any_phase_cleans_up_everywhere(phase: str, weather: Weather) -> None:
    """Once all parts are here it comes too late: then the job has its result."""
    ended = "succeeded" if phase == "publishing" else "cancelled"
    assert cancelled(weather, lambda world, master: next(iter(master.node.masters.values())).state == phase) == (
        phase, ended)


@pytest.mark.parametrize("seed", range(4))
def test_the_workers_of_a_master_away_for_good_are_free_and_say_why(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    observe = World.observe

    def heard(self: World, node: SimNode, event: Event, effects: list[Effect]) -> None:
        notes.extend(effect.text for effect in effects if isinstance(effect, Note))
        observe(self, node, event, effects)

    monkeypatch.setattr(World, "observe", heard)
    world = World(6, seed, STORM)
    master = world.nodes[5]
    world.after(3.0, world.submit, master, 60, 4)
    holders: list[str] = []
    world.after(9.0, lambda: (holders.extend(world.holding()), master.crash()))
    world.run(lambda: world.now > 9.0 and not world.holding())
    assert len(holders) >= 3, "nobody held anything: the test says nothing"
    assert 120.0 < world.now < 9.0 + 120.0 + 10.0
    assert sum("its master" in note and "is silent; freed" in note for note in notes) >= 3
    end = world.now + 30.0  # tasks that were running come in
    world.run(lambda: world.now > end)
    assert not left(world)
