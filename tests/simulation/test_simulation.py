"""Whole domains in one process: exact results whatever the network does, and the same trace everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from ipdc_edge.core import events as e
from ipdc_edge.core import placement
from ipdc_edge.core.values import Member, MemberList
from tests.simulation import digest
from tests.simulation.node import SimNode
from tests.simulation.scenario import Run, parse
from tests.simulation.world import CALM, STORM, WORSE, Weather, World, sim_id

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def assert_exact(world: World, job: str, splits: int, workers: int) -> None:
    told = world.jobs[job]
    assert (told.splits, told.workers) == (splits, workers)
    world.assert_exact(job)


def run_jobs(world: World, jobs: int, splits: int = 20, workers: int = 4) -> None:
    for number in range(jobs):
        world.after(3.0, world.submit, world.nodes[number % len(world.nodes)], splits, workers)
    world.run(lambda: len(world.ended) == jobs and not world.holding())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "weather", [CALM, STORM, WORSE], ids=["calm", "storm", "worse"]
)
def test_every_result_is_exact(seed: int, weather: Weather) -> None:
    world = World(8, seed, weather, failing=0.0 if weather is CALM else 0.03)
    run_jobs(world, 3)
    world.run_to(world.now + 200.0)
    world.assert_right()
    assert not world.unsettled(), "something of a job was left"


def test_a_task_that_always_fails_fails_its_job_after_four_attempts() -> None:
    world = World(4, 1, failing=1.0)
    run_jobs(world, 1)
    (view,) = world.ended.values()
    assert view["state"] == "failed"
    assert "failed 4 times" in view["error"]


@pytest.mark.parametrize("seed", range(6))
def test_a_crashed_worker_costs_only_its_own_work(seed: int) -> None:
    world = World(6, seed, STORM)
    world.after(3.0, world.submit, world.nodes[0], 60, 4)
    world.after(9.0, lambda: next(n for n in world.nodes[3:] if n.node.workers).crash())
    world.run(lambda: bool(world.ended) and not world.holding())
    world.assert_right()


@pytest.mark.parametrize("seed", range(6))
def test_a_master_goes_on_from_its_last_save(seed: int) -> None:
    world = World(6, seed, STORM)
    master = world.nodes[0]
    world.after(3.0, world.submit, master, 60, 4)
    world.after(8.0, master.crash)
    world.after(14.0, master.start)
    begun: dict[str, int] = {}

    def remember() -> None:
        committed = [key.split("/") for kind, key in master.disk.rows if kind == "task"]
        begun.update({task: world.begun[job, task] for job, task in committed})

    world.after(13.9, remember)
    world.run(lambda: bool(world.ended) and not world.holding())
    world.assert_right()
    (job,) = world.ended
    assert begun, "the master crashed before anything was committed: the test says nothing"
    again = [task for task, times in begun.items() if world.begun[job, task] > times]
    assert not again, "what was committed was done again"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("phase", ["collecting", "publishing"])
def test_a_master_that_dies_just_before_the_end_fetches_what_is_there(seed: int, phase: str) -> None:
    """Right after its start it has to know where its workers are, though they had come but moments before."""
    text = f"nodes 5\nseed {seed}\nat 3 submit n1 splits 12 workers 3\nwhen job 1 {phase} for 8 crash n1\n"
    run = Run(parse(text))
    world, master = run.world, run.world.nodes[1]
    begun: dict[tuple[str, str], int] = {}

    def start() -> None:
        for kind, key in master.disk.rows:
            if kind == "task":
                job, _, task = key.partition("/")
                begun[job, task] = world.begun[job, task]
        SimNode.start(master)

    master.start = start  # type: ignore[method-assign]
    run.run()
    assert len(begun) > 10, "the master crashed before enough was committed: the test says nothing"
    assert not [task for task, times in begun.items() if world.begun[task] > times]


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_of_the_whole_site_costs_only_what_was_not_saved(seed: int) -> None:
    """Every node goes at once and comes back, and nobody remembers the others' starts."""
    world = World(6, seed, STORM)
    world.after(3.0, world.submit, world.nodes[0], 60, 4)
    for number, node in enumerate(world.nodes):
        world.after(9.0, node.crash)
        world.after(12.0 + number / 2, node.start)
    world.run(lambda: bool(world.ended) and not world.holding())
    world.assert_right()


def without(*gone: str) -> Callable[[MemberList], tuple[Member, ...]]:
    return lambda members: tuple(member for member in members.members if member.id not in gone)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weather", [CALM, STORM, Weather(drop=0.4, double=0.3, delay=(0.0, 4.0))])
def test_a_member_list_reaches_everybody_and_never_goes_back(seed: int, weather: Weather) -> None:
    """Some are down while it changes, the portals among them; each version is one that the authority signed."""
    world = World(9, seed, weather)
    authority, held = world.nodes[0], {node.id: 1 for node in world.nodes}

    def adopted(node: SimNode) -> None:
        assert node.members.version >= held[node.id], f"{node.number} went back"
        held[node.id] = node.members.version

    for number in (1, 2, 5):
        world.after(4.0, world.nodes[number].crash)
        world.after(40.0 + number, world.nodes[number].start)
    for at, gone in ((5.0, 7), (5.1, 8)):
        world.after(at, authority.sign, without(sim_id(gone)))
    left = world.nodes[:7]

    def everywhere() -> bool:
        for node in world.nodes:
            adopted(node)
        return world.now > 50.0 and all(node.members.version == 3 and node.up for node in left)

    world.run(everywhere, most_steps=100_000)
    assert all(node.node.admission.members.version == 3 for node in left)
    assert world.now < 200.0, "it should not wait for luck"


@pytest.mark.parametrize("seed", range(6))
def test_an_expelled_worker_costs_its_work_and_an_expelled_master_frees_its_workers(seed: int) -> None:
    world = World(7, seed, STORM)
    master, doomed = world.nodes[1], world.nodes[6]
    world.after(3.0, world.submit, master, 60, 4)
    world.after(3.0, world.submit, doomed, 40, 4)
    world.after(9.0, world.nodes[0].sign, without(doomed.id))

    def over() -> bool:
        held = [key for node in world.nodes[:6] for key in node.node.workers]
        return world.now > 10.0 and bool(world.ended) and not held

    world.run(over)
    world.assert_right()
    assert all(doomed.id not in node.node.membership.peers for node in world.nodes[:6])


def test_a_node_that_leaves_is_off_everybodys_list() -> None:
    world = World(6, 3, STORM)
    world.after(5.0, world.nodes[4].handle, e.WatchRequested())  # so that it knows who holds the key
    world.after(12.0, world.nodes[4].handle, e.LeaveRequested())
    world.run(lambda: bool(world.nodes[4].left) and all(n.members.version == 2 for n in world.nodes), 100_000)
    assert all(node.members.member(world.nodes[4].id) is None for node in world.nodes)


def digests(python: str, hash_seed: str) -> str:
    environment = {"PYTHONHASHSEED": hash_seed, "PATH": os.environ["PATH"]}
    out = subprocess.run(
        [python, "-m", "tests.simulation.digest"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert int(out[0].split()[0]) >= 100_000
    assert out[0].endswith(f" {digest.JOBS} jobs succeeded")
    return out[1]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])  # and others with other Pythons, in tests/bare
def test_the_digest_does_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    assert digests(sys.executable, hash_seed) == digest.PINNED


OWN = f"python3.{sys.version_info.minor}"


@pytest.mark.parametrize("name", [name for name in ("python3.11", "python3.12", "python3.13") if name != OWN])
def test_the_digest_does_not_depend_on_the_version_of_python(name: str) -> None:
    """With whatever other Pythons are here; the bare roots of `--all` run it on Debian's 3.11 and 3.13 in any
    case."""
    python = shutil.which(name)
    if not python or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"does not apply: no {name} here")
    assert digests(python, "7") == digest.PINNED


def test_one_changed_tie_break_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "JOBS", 3)
    monkeypatch.setattr(digest, "SPLITS", 40)
    before = digest.storm().trace.hexdigest()
    assert digest.storm().trace.hexdigest() == before
    distance = placement.hash_distance
    monkeypatch.setattr(placement, "judge", _level(placement.judge))
    level = digest.storm().trace.hexdigest()
    monkeypatch.setattr(placement, "hash_distance", lambda node, job: -distance(node, job))
    assert digest.storm().trace.hexdigest() != level


def _level(judge):  # type: ignore[no-untyped-def]
    """All suitable nodes alike, so that the tie-break alone decides."""
    from dataclasses import replace

    return lambda *asked: replace(judge(*asked), score=1.0)
