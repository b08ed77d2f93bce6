"""story: sentences for every fact that the core tells, what follows from what, and a task's own."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import story
from tests.core.scenario import Play

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JOB = "20260101-000000-abcd"
SCENARIOS = os.path.join(ROOT, "tests", "core", "scenarios")


def told(name: str) -> dict[str, Any]:
    """The story of a scenario's job, as the daemon answers it."""
    stage = Play()
    with open(os.path.join(SCENARIOS, name), encoding="utf-8") as file:
        steps = [line.split() for line in file if line.strip() and line[0] not in " #" and line.strip() != "story"]
    for step in steps:
        stage.step(step)
    facts = [{"number": number, "at": 1.0e9, "cause": fact.cause, "kind": fact.kind, "task": fact.task,
              "node": fact.node, "words": dict(fact.words)} for number, fact in enumerate(stage.told)]
    return {"id": JOB, "task": None, "state": "running", "left_out": 0, "facts": facts}


def kinds_in_the_core() -> Iterator[str]:
    """The first argument of every `tell`."""
    core = os.path.join(ROOT, "ipdc_edge", "core")
    for name in os.listdir(core):
        if not name.endswith(".py"):
            continue
        with open(os.path.join(core, name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tell"
            if called and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_every_fact_that_the_core_tells_has_a_sentence() -> None:
    kinds = set(kinds_in_the_core())
    assert len(kinds) > 15
    assert kinds | {"failed", "cancelled", "lost", "silent"} == set(story.SENTENCES)


@pytest.mark.parametrize("name", sorted(os.listdir(SCENARIOS)))
def test_no_scenario_tells_what_has_no_words(name: str) -> None:
    for fact in told(name)["facts"]:
        said = {"task": fact["task"], "node": fact["node"], **fact["words"]}
        tell = story.SENTENCES[fact["kind"]]
        assert story.sentence(fact) == " ".join((tell(said) if callable(tell) else tell.format_map(said)).split())


@pytest.mark.outside("talks to a daemon that stands in")
def test_the_story_says_what_came_of_what(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {"jobs": {"jobs": [{"id": JOB}]}, "story": told("story.txt")}
    assert main(["story", "abcd"]) == 0
    out = capsys.readouterr().out
    lines = [line[10:].strip() if line.startswith("  ") else line for line in out.splitlines()]
    assert lines[0] == f"job {JOB}, running"
    for chain in (
        ["the job was accepted: 6 tasks of mapreduce, for 3 nodes", "so the job is offered to w3"],
        ["w3 does not take the job: its slots are taken"],
        ["w2 takes part, 1 at a time", "so map-00002 goes to w2"],
        ["map-00000 is done on w1"],
        ["map-00002 failed on w2: it broke"],
        ["the connection to w1 broke: it has a moment to come back", "w1 is lost: it was not heard of in time",
         "so map-00001 is taken from w1 and waits for another node", "so map-00002 goes to w2: it failed on w2"],
        ["reduce-00000 on w2 could not get its input, which w1 had made: it broke",
         "so what map-00000 made on w1 cannot be had: it is done again"],
        ["so map-00000 goes to w2: what w1 had made is gone"],
        ["w2 restarted: what it had of the job is gone", "so reduce-00002 went down with w2 and waits again"],
        ["the job was cancelled: cancelled by its owner"],
    ):
        assert "\n".join(chain) in "\n".join(lines), (chain, out)
    assert daemon.requests("story") == [{"operation": "story", "id": JOB, "task": ""}]


@pytest.mark.outside("talks to a daemon that stands in")
def test_a_task_json_and_what_a_newer_daemon_says(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fact = {"number": 0, "at": 1.0e9, "cause": "1.1", "kind": "sung", "task": "map-00000", "node": "w\x1b[2J1",
            "words": {"loud": True}}
    answer = {"id": JOB, "task": "map-00000", "state": "failed", "left_out": 3, "facts": [fact]}
    daemon.answers = {"jobs": {"jobs": [{"id": JOB}]}, "story": answer}
    assert main(["story", "abcd", "map-00000"]) == 0
    out = capsys.readouterr().out
    assert f"task map-00000 of job {JOB}, failed" in out
    assert "sung task=map-00000 node=w\\u001b[2J1 loud=True" in out and "\x1b" not in out
    assert "3 more facts of this job not kept" in out
    assert main(["story", "abcd", "map-00000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"][0]["kind"] == "sung"
    assert [request["task"] for request in daemon.requests("story")] == ["map-00000"] * 2


@pytest.mark.outside("talks to a daemon that stands in")
def test_an_unknown_job_is_1_and_one_that_could_be_two_is_2(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {"jobs": {"jobs": [{"id": JOB}, {"id": JOB[:-1] + "x"}]}}
    assert main(["story", "nothing"]) == 1
    assert main(["story", "2026"]) == 2
    assert "not one job but 2" in capsys.readouterr().err
