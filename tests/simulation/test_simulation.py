"""Whole domains in one process: exact results whatever the network does, and the same trace everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from ipdc_edge.core import placement
from tests.simulation import digest
from tests.simulation.world import CALM, STORM, Weather, World, expected

# The trace of `digest.storm()`. It changes with every change of the protocol's behaviour; then pin the new
# one.
PINNED = "d68df1a4eca0b22784e33e74bdb9e619014a41272c3d3766a01a7fbe39cb57cf"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def assert_exact(world: World, job: str, splits: int, workers: int) -> None:
    parts = world.parts[job]
    assert sorted(parts) == list(range(workers))
    for index in range(workers):
        assert parts[index] == expected(job, splits, workers, index)


def run_jobs(world: World, jobs: int, splits: int = 20, workers: int = 4) -> None:
    for number in range(jobs):
        world.after(3.0, world.submit, world.nodes[number % len(world.nodes)], splits, workers)
    world.run(lambda: len(world.ended) == jobs and not world.holding())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "weather", [CALM, STORM, Weather(drop=0.3, double=0.3, delay=(0.0, 4.0))], ids=["calm", "storm", "worse"]
)
def test_every_result_is_exact(seed: int, weather: Weather) -> None:
    world = World(8, seed, weather, failing=0.0 if weather is CALM else 0.03)
    run_jobs(world, 3)
    for job, view in world.ended.items():
        assert view["state"] == "succeeded", view["error"]
        assert_exact(world, job, 20, 4)
    assert not any(key for node in world.nodes for key, _ in node.content.values()), "something of a job was left"


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
    (job,) = world.ended
    assert world.ended[job]["state"] == "succeeded"
    assert_exact(world, job, 60, 4)


@pytest.mark.parametrize("seed", range(6))
def test_a_master_goes_on_from_its_last_save(seed: int) -> None:
    world = World(6, seed, STORM)
    master = world.nodes[0]
    world.after(3.0, world.submit, master, 60, 4)
    world.after(8.0, master.crash)
    world.after(14.0, master.start)
    committed: list[str] = []
    world.after(13.9, lambda: committed.extend(save.key for save in master.saved if save.kind == "task"))
    world.run(lambda: bool(world.ended) and not world.holding())
    (job,) = world.ended
    assert_exact(world, job, 60, 4)
    maps = [save.key for save in master.saved if save.kind == "task" and "/map-" in save.key]
    alive = [key for key in committed if maps.count(key) > 1]
    assert committed, "the master crashed before anything was committed: the test says nothing"
    assert len(alive) < len(committed), "every committed task was done again"


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_of_the_whole_site_costs_only_what_was_not_saved(seed: int) -> None:
    """Every node goes at once and comes back, and nobody remembers the others' starts."""
    world = World(6, seed, STORM)
    world.after(3.0, world.submit, world.nodes[0], 60, 4)
    for number, node in enumerate(world.nodes):
        world.after(9.0, node.crash)
        world.after(12.0 + number / 2, node.start)
    world.run(lambda: bool(world.ended) and not world.holding())
    (job,) = world.ended
    assert world.ended[job]["state"] == "succeeded", world.ended[job]["error"]
    assert_exact(world, job, 60, 4)


def digests(python: str, hash_seed: str) -> str:
    environment = {"PYTHONHASHSEED": hash_seed, "PATH": os.environ["PATH"]}
    out = subprocess.run(
        [python, "-m", "tests.simulation.digest"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert int(out[0].split()[0]) >= 100_000
    assert out[0].endswith(f" {digest.JOBS} jobs succeeded")
    return out[1]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_the_digest_does_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    assert digests(sys.executable, hash_seed) == PINNED


def test_the_digest_does_not_depend_on_the_version_of_python() -> None:
    """With whatever other Pythons are here; the bare roots of `--all` run it on Debian's 3.11 and 3.13 in any
    case."""
    for name in ("python3.11", "python3.12", "python3.13"):
        python = shutil.which(name)
        if python and subprocess.run([python, "--version"], capture_output=True).returncode == 0:
            assert digests(python, "7") == PINNED, name


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

    return lambda record, spec, holder: replace(judge(record, spec, holder), score=1.0)
