"""The parsers survive what once broke them, and a minute of new damage each; and the harness finds a broken parser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import engine
from tests.fuzz.engine import Crash, Fuzz, Target, check, found, run_apart
from tests.fuzz.targets import TARGETS

BROKEN = "tests.fuzz.broken"
names = [target.name for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=names)
def test_good_inputs_and_all_that_once_broke_it(target: Target) -> None:
    for data in (*target.seeds, b"", *found(target.name)):
        check(target, data)


@pytest.mark.parametrize("target", TARGETS, ids=names)
def test_good_inputs_are_taken(target: Target) -> None:
    """A seed that is refused at the door leads nowhere."""
    for data in target.seeds:
        try:
            target.run(data)
        except target.refuses as error:
            # those that stand for an error that travels
            assert type(error).__name__ in ("TaskFailed", "UnknownJob", "MustWait"), f"{data!r}: {error}"


def test_what_is_kept_belongs_to_a_target() -> None:
    directory = os.path.join(engine.HERE, "found")
    assert set(os.listdir(directory) if os.path.isdir(directory) else ()) <= set(names)


@pytest.mark.fuzz
def test_a_minute_of_damage_for_each_parser(fuzzed: tuple[int, str]) -> None:
    code, said = fuzzed
    print(said)
    assert code == 0, said
    assert {line.partition(":")[0] for line in said.splitlines() if " inputs, " in line} == set(names)


@pytest.mark.parametrize(("name", "words"), [
    ("raises", "KeyError"), ("deep", "ZeroDivisionError"), ("hidden", "IndexError"), ("staged", "OverflowError"),
    ("slow", "5 s for one input"),
    ("greedy", "MB for one input"), ("dies", "signal"), ("assertion", "AssertionError"),
])
def test_a_parser_that_is_broken_on_purpose_is_found_out(name: str, words: str) -> None:
    survived, said, data = run_apart(name, 30, 1, BROKEN)
    assert not survived and words in said, said
    from tests.fuzz.broken import TARGETS as broken

    target = next(target for target in broken if target.name == name)
    if name not in ("dies", "slow", "greedy"):
        with pytest.raises(Crash, match=words):
            check(target, data)


def test_one_seed_gives_the_same_inputs() -> None:
    def told(seed: int) -> list[bytes]:
        given: list[bytes] = []
        watched = Target("same", lambda data: (given.append(data), TARGETS[0].run(data)), TARGETS[0].refuses,
                         TARGETS[0].seeds, TARGETS[0].traced)
        fuzz = Fuzz(watched, seed)
        fuzz.corpus += watched.seeds
        for _ in range(300):
            data = fuzz._next()
            if fuzz._try(data):
                fuzz.corpus.append(data)
        return given

    assert told(7) == told(7) != told(8)


def test_the_command_keeps_what_broke_a_parser_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        f"import sys; sys.argv = ['x', '--seconds', '20', '--seed', '3', '--targets', {BROKEN!r}, 'raises']\n"
        f"from tests.fuzz import __main__, engine; engine.HERE = {str(tmp_path)!r}; sys.exit(__main__.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=engine.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stdout.startswith("seed 3\n"), done.stderr
    monkeypatch.setattr(engine, "HERE", str(tmp_path))
    (data,) = found("raises")
    assert b"x" in data
