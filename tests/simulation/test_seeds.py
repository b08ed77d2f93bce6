"""Seeds, many of them: whatever breaks, every job ends, its result is exactly right, and nobody keeps anything.

A few dozen by default, a thousand with `--all`, any number with `tests/simulation/soak`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.scenario import Run
from tests.simulation.seeds import scenario_of
from tests.simulation.soak import outcomes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOAK = os.path.join(ROOT, "tests", "simulation", "soak")
FEW, ALL = 60, 1000


def test_every_seed_ends_well(request: pytest.FixtureRequest) -> None:
    everything = request.config.getoption("--all")
    seeds = range(ALL if everything else FEW)
    processes = (os.cpu_count() or 1) if everything else 1
    failed = sorted((seed, what[:300]) for seed, what in outcomes(seeds, processes) if what)
    assert not failed, "".join(f"\n  tests/simulation/soak --replay {seed}  # {what}" for seed, what in failed)


def test_a_seed_gives_the_same_trace_again() -> None:
    for seed in range(10):
        first, second = (Run(scenario_of(seed), True).run() for _ in range(2))
        assert (first.trace.digest(), first.steps) == (second.trace.digest(), second.steps)


def test_seeds_have_every_fault_and_every_phase() -> None:
    text = "".join(str(scenario_of(seed)) for seed in range(400))
    for words in ("crash", "kill", "stop", "broker", "cut", " | ", " > ", "swizzle", "slow", "full", "jump -", "jump 1",
                  "drop 0.", "double 0.", "delay ", "reorder", "expel", "leave", "drain", "cancel", "queued", "offered",
                  "maps", "reduces", "collecting", "publishing", "ended"):
        assert words in text, f"no seed has '{words}'"


def soak(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "4711"}
    return subprocess.run([SOAK, *words], env=environment, capture_output=True, text=True)


def test_soak_sums_up_shows_and_replays(tmp_path: object) -> None:
    summed = soak("--seeds", "4", "--from", "3", "--jobs", "2")
    assert summed.returncode == 0, summed
    assert summed.stdout.startswith("4 seeds in ")
    assert summed.stdout.rstrip().endswith(" 0 failed")
    file = os.path.join(str(tmp_path), "five.txt")
    shown = soak("--show", "5").stdout
    with open(file, "w", encoding="utf-8") as out:
        out.write(shown)
    assert shown == str(scenario_of(5))
    by_seed, by_file = soak("--replay", "5"), soak("--replay", file)
    assert by_seed.returncode == 0, by_seed
    assert by_seed.stdout == by_file.stdout
    assert by_seed.stdout.splitlines()[-1].endswith(Run(scenario_of(5), True).run().trace.hexdigest())


def test_soak_names_what_fails_and_shrinks_it(tmp_path: object) -> None:
    file = os.path.join(str(tmp_path), "wrong.txt")
    with open(file, "w", encoding="utf-8") as out:
        out.write("nodes 3\nat 2 slow 3 n1\nat 3 submit n0 splits 2 workers 1\nat 4 jump 5 n1\nexpect job 1 failed\n")
    replayed = soak("--replay", file)
    assert replayed.returncode == 1, replayed
    assert replayed.stdout.splitlines()[-1].startswith("NotRight: job 1 should have failed, and is ('succeeded'")
    assert soak("--shrink", file).stdout == "nodes 3\nexpect job 1 failed\n"


def test_an_interrupted_soak_sums_up() -> None:
    import signal

    child = subprocess.Popen(
        [sys.executable, "-m", "tests.simulation.soak", "--seeds", "1000000", "--jobs", "1"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stderr is not None and child.stderr.readline() == "from now on Ctrl-C sums up\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert "interrupted" in out and " failed" in out, (out, err)
