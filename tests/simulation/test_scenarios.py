"""Every file of scenarios/ comes to the end that it tells; and what files, seeds and faults are written like."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest

from tests.simulation.connections import NO_ROOM
from tests.simulation.faults import FAULTS, BadLine
from tests.simulation.scenario import Run, parse, play
from tests.simulation.seeds import scenario_of
from tests.simulation.world import Job, NotRight, World

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenarios")


def text_of(name: str) -> str:
    with open(os.path.join(DIRECTORY, name), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("name", sorted(os.listdir(DIRECTORY)))
def test_scenario(name: str) -> None:
    run = Run(parse(text_of(name)))
    run.run()
    assert not run.waiting, "a fault waited for a phase that never came"


def test_a_scenario_can_fail() -> None:
    with pytest.raises(NotRight, match="job 1 should have failed"):
        play("nodes 3\nat 3 submit n0 splits 2 workers 1\nexpect job 1 failed\n")


@pytest.mark.parametrize(
    ("full", "error", "excused"),
    [
        (0, "jobs/j: {}", True), (1, "jobs/j: {}", False), (0, "not placed", False),
        (1, "map-00000 failed 4 times, last on n1: OSError: {}", False),
        (0, "map-00000 failed 4 times, last on n1: OSError: {}", False),
    ],
)
def test_a_full_disk_excuses_what_it_is_to_blame_for(full: int, error: str, excused: bool) -> None:
    """The master's where its result fails; a worker's where nobody else works for the job."""
    world = World(4, 1)
    world.jobs["j"] = Job(1, "j", world.nodes[0], 1, 1, accepted=True)
    world.nodes[full].disk.was_full = True
    told = [{"name": "n1", "state": "working"}, {"name": "n2", "state": "working"}, {"name": "n3", "state": "lost"}]
    world.ended["j"] = {"state": "failed", "error": error.format(NO_ROOM), "nodes": told}
    with nullcontext() if excused else pytest.raises(NotRight):
        world.assert_right()
    world.nodes[2].disk.was_full = True
    with nullcontext() if excused or (full == 1 and "OSError" in error) else pytest.raises(NotRight):
        world.assert_right()


def test_a_seed_is_a_file_and_back() -> None:
    """What a seed does, the text that it is written as does too, event by event."""
    for seed in range(20):
        text = str(scenario_of(seed))
        assert str(parse(text)) == text
        assert play(text, tracing=True).trace.digest() == Run(scenario_of(seed), True).run().trace.digest()


def test_every_fault_is_known_by_its_word_and_says_what_it_does() -> None:
    for word, fault in FAULTS.items():
        assert fault.__doc__ and fault.__doc__.startswith(f"`{word} ")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("at 3 burn n1", "no fault 'burn'"), ("at soon crash n1", "could not convert"),
        ("whenever crash n1", "begins with 'whenever'"), ("when job 1 asleep crash n1", "no phase 'asleep'"),
        ("at 3 submit n1", "out of range"),
    ],
)
def test_a_line_that_nobody_understands_is_named(line: str, why: str) -> None:
    with pytest.raises(BadLine, match=why):
        parse(line)


def test_a_fault_names_a_node_that_is_there() -> None:
    with pytest.raises(BadLine, match="no node n7"):
        play("nodes 3\nat 1 crash n7\n")
