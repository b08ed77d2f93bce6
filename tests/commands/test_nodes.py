"""nodes: a line each in 80 columns, all about one, and what is wrong with a board."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import nodes
from ipdc_edge.commands.display import WIDTH

MB = 1 << 20
BOARD = {
    "id": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "name": "kitchen", "state": "ready", "slots": 2,
    "cpu_idle": 0.5, "cpu_count": 4, "load": 1.234, "speed": 0.21, "memory_available": 64 * MB,
    "memory_total": 128 * MB, "disk_free": 3 << 30, "temperature": 48.3, "throttled": False, "undervoltage": False,
    "throttled_before": False, "undervoltage_before": False, "architecture": "armhf on aarch64",
    "capabilities": ["mapreduce", "input-local:/srv/logs", "kubo:12D3KooW:4101"],
    "sandbox": "systemd without memory cgroup", "version": "0.1.0", "portal": True, "address": "10.0.0.7:18830",
    "gateway": "10.0.0.7:18831",
}
OTHER = {"id": "Qm2", "name": "z", "state": "lost", "self": True}


@pytest.fixture
def three(daemon: Any) -> Any:
    daemon.answers = {"nodes": {"nodes": [BOARD, {**BOARD, "id": "QmZ" + "x" * 40, "name": "attic"}, OTHER]}}
    return daemon


@pytest.mark.outside("unix socket")
def test_a_line_each_this_one_first(three: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "z", "attic", "kitchen"]
    assert lines[1].split()[:3] == ["z", "*", "lost"]
    assert " ".join(lines[3].split()) == "kitchen portal ready 2 50%/4 0.21 64.0 MB 3.0 GB 48°C"
    assert main(["nodes", "--json"]) == 0
    assert [node["name"] for node in json.loads(capsys.readouterr().out)] == ["z", "attic", "kitchen"]


def test_what_one_cannot_do_and_why_is_said() -> None:
    shown = nodes.details({**BOARD, "unable": ["tensorflow: there is none for systems of 32 bits (armv7l)"]})
    assert "cannot do    tensorflow: there is none for systems of 32 bits (armv7l)" in shown.splitlines()
    assert "cannot do" not in nodes.details(BOARD)


@pytest.mark.outside("unix socket")
def test_all_about_one_by_its_name_or_id(three: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "kitchen"]) == 0
    shown = capsys.readouterr().out
    assert main(["nodes", "..79ojWnPbdG"]) == 0 and capsys.readouterr().out == shown
    for line in ("node         kitchen", f"id           {BOARD['id']}", "role         portal", "state        ready",
                 "address      10.0.0.7:18830", "machine      armhf on aarch64",
                 "processor    4 at speed 0.21, 50% idle, load 1.23", "memory       64.0 MB available of 128 MB",
                 "disk         3.0 GB free", "temperature  48 °C", "power        no trouble is told", "slots        2",
                 "sandbox      systemd without memory cgroup", "can do       mapreduce", "kubo         12D3KooW",
                 "local inputs /srv/logs"):
        assert line in shown.splitlines()
    assert main(["nodes", "kitchen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [BOARD]
    assert main(["nodes", "-l"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("node ")] == [
        "node         z", "node         attic", "node         kitchen"]
    assert main(["nodes", "cellar"]) == 1
    assert "No node here has the name 'cellar'" in capsys.readouterr().err


def test_lines_of_boards_with_big_numbers_fit() -> None:
    big = {**BOARD, "name": "workshop-pi4", "self": True, "state": "draining", "slots": 16, "cpu_idle": 1.0,
           "cpu_count": 64, "speed": 12.34, "memory_available": 1023 * MB, "disk_free": 1023 * MB, "temperature": 104.0}
    shown = nodes.overview([big, {**big, "name": "bench"}])
    assert max(map(len, shown.splitlines())) <= WIDTH, shown
    long = {**big, "capabilities": [f"architecture-{number}" for number in range(20)]}
    assert max(map(len, nodes.details(long).splitlines())) <= WIDTH


def test_the_word_for_local_inputs_is_the_daemons() -> None:
    from ipdc_edge.daemon.local_inputs import LOCAL_INPUT

    assert nodes.LOCAL_INPUT == LOCAL_INPUT


def test_what_is_wrong_stands_below_the_lines() -> None:
    weak = {**BOARD, "undervoltage": True, "undervoltage_before": True, "throttled_before": True, "temperature": 85.0}
    assert nodes.overview([BOARD, {**weak, "name": "attic"}]).splitlines()[3:] == [
        "", "attic: undervoltage now: its power supply or cable is too weak",
        "attic: throttled some time since it started", "attic: 85 °C: it slows down, cool it"]
    assert "power        undervoltage now" in nodes.details(weak)
    assert len(nodes.overview([BOARD]).splitlines()) == 2


def test_who_has_no_sandbox_is_named() -> None:
    bare = {**BOARD, "sandbox": "rlimits"}
    assert nodes.overview([BOARD, {**bare, "name": "attic"}, {**bare, "name": "cellar"}]).splitlines()[4:] == [
        "", "attic, cellar: user code is held by resource limits only, which is for jobs of people you trust"]
    assert "sandbox      rlimits: user code is held by resource limits only" in nodes.details(bare).splitlines()


def test_nodes_of_one_name_are_told_apart_and_an_older_daemons_answer_is_shown() -> None:
    lines = nodes.overview([BOARD, {**BOARD, "id": "Qm" + "y" * 44}, OTHER]).splitlines()
    assert lines[1].startswith("kitchen ..WnPbdG ") and lines[2].startswith("kitchen ..yyyyyy ")
    assert lines[3].split() == ["z", "*", "lost", "-", "-", "-", "-", "-", "-"]
    assert "machine" not in nodes.details(OTHER)
