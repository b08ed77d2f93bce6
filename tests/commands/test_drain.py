"""drain: what is asked of the daemon, what people read, and the exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipdc_edge.__main__ import main

pytestmark = pytest.mark.outside("speaks to a control server over a unix socket")


def work(state: str, tasks: int = 0, held: int = 0, own: int = 0) -> dict[str, Any]:
    return {"name": "attic", "state": state, "tasks": tasks, "held_jobs": held, "own_jobs": own}


def test_it_says_what_to_know_before_the_node_is_stopped(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["drain"] = work("draining", 2, 1, 3)
    assert main(["drain"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "attic takes no more work, until: ipdc-edge drain --off",
        "2 tasks may still end here.",
        "1 job may yet need what was made here. If this node stops, others make it again.",
        "Not done yet of those submitted here: 3 jobs. They wait while this node is stopped.",
    ]


def test_it_waits_until_nothing_runs(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["drain"] = [work("draining", 1), work("draining")]
    assert main(["drain", "--wait"]) == 0
    assert daemon.requests("drain")[0]["wait"] is True
    assert capsys.readouterr().out.splitlines()[1:] == ["1 task may still end here.", "Nothing runs here any more."]
    assert main(["drain", "--wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == work("draining")


def test_who_waits_hears_that_somebody_undoes_it(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["drain"] = [work("draining", 1), work("ready", 1)]
    assert main(["drain", "--wait"]) == 1
    assert "Somebody wants attic to take work again" in capsys.readouterr().err


def test_it_is_undone(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["drain"] = work("ready", 1)
    assert main(["drain", "--off"]) == 0
    assert daemon.requests("drain")[0]["off"] is True
    assert capsys.readouterr().out == "attic takes work again.\n"
