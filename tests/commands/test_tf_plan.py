"""tf plan: what is asked of the daemon, what is written, and what its user changed is kept."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.apps.tensorflow.cluster import read

pytestmark = pytest.mark.outside("unix socket")
NODE = {
    "id": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "name": "attic", "state": "ready", "slots": 1,
    "cpu_idle": 1.0, "cpu_count": 4, "load": 0.0, "speed": 1.0, "memory_available": 4 << 30, "memory_total": 8 << 30,
    "disk_free": 1 << 40, "temperature": None, "throttled": False, "architecture": "x86_64", "sandbox": "bubblewrap",
    "capabilities": ["tensorflow", "tensorflow=2.21.0"], "unable": [], "version": "0.1.0", "address": "a:1",
    "gateway": "a:2", "self": True,
}
OTHER = {**NODE, "id": NODE["id"][::-1], "name": "cellar", "speed": 0.5, "self": False}
BOARD = {**NODE, "id": "Qm" + "b" * 44, "name": "board", "capabilities": ["mapreduce"], "self": False,
         "unable": ["tensorflow: there is none for systems of 32 bits (armv7l)"], "architecture": "armv7l"}


@pytest.fixture
def here(daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    daemon.answers = {"nodes": {"nodes": [NODE, OTHER, BOARD]}}
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    Path("ClusterSpec.conf").write_text('{"local": [0, 1]}\n')
    return place


def test_both_files_are_written_and_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tf", "plan"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[:3] for line in told.splitlines()[:3]] == [
        ["ROLE", "NODE", "ADDRESS"], ["local:0", "attic", "127.0.0.1:2222"], ["local:1", "cellar", "127.0.0.1:2223"]]
    assert "board: has no TensorFlow: there is none for systems of 32 bits (armv7l)" in told
    cluster = read((here / "ClusterSpec.json").read_text())
    assert [place.name for place in cluster.places] == ["attic", "cellar"]
    ast.parse((here / "create_worker.py").read_text())


def test_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tf", "plan", "--json", "--output", "out", "--memory", "1G"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cluster"]["tensorflow"] == "2.21.0" and told["cluster"]["memory"] == 1 << 30
    assert [(role["job"], role["index"], role["name"]) for role in told["cluster"]["roles"]] == [
        ("local", 0, "attic"), ("local", 1, "cellar")]
    assert {node["name"]: node["suitable"] for node in told["nodes"]} == {"attic": True, "cellar": True, "board": False}
    assert sorted(path.name for path in (here / "out").iterdir()) == ["ClusterSpec.json", "create_worker.py"]


def test_what_was_changed_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tf", "plan"]) == 0
    program = here / "create_worker.py"
    written = program.read_text()
    program.write_text(written + "# mine\n")
    (here / "ClusterSpec.json").write_text("old")
    capsys.readouterr()
    assert main(["tf", "plan"]) == 0
    assert "left as you changed it" in capsys.readouterr().out
    assert program.read_text().endswith("# mine\n") and read((here / "ClusterSpec.json").read_text())
    assert main(["tf", "plan", "--force"]) == 0 and program.read_text() == written


def test_too_few_nodes_are_exit_code_4_and_nothing_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "ClusterSpec.conf").write_text('{"chief": [0], "worker": [0, 1]}')
    assert main(["tf", "plan"]) == 4
    said = capsys.readouterr().err
    assert "takes 3 nodes, and 2 of 3 can take part" in said and "board: has no TensorFlow" in said
    assert sorted(path.name for path in here.iterdir()) == ["ClusterSpec.conf"]
    assert main(["tf", "plan", "--share"]) == 0


@pytest.mark.parametrize("words, code, said", [
    (["nowhere.conf"], 1, "nowhere.conf"), (["--memory", "100M"], 2, "a role takes at least 256 MB"),
    (["--nodes", "attic"], 4, "cellar: is not among the nodes that were chosen"), (["--nodes", "x"], 1, "'x'"),
    (["--tensorflow", "2.20.0"], 4, "has TensorFlow 2.21.0, and the cluster takes 2.20.0"),
    (["--output", "/proc/x"], 1, "Cannot write"),
])
def test_what_goes_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(["tf", "plan", *words]) == code
    assert said in capsys.readouterr().err


def test_a_mistake_in_the_file_is_told_by_its_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "ClusterSpec.conf").write_text('{"local": [0, 0]}')
    assert main(["tf", "plan"]) == 2
    assert "ClusterSpec.conf: local: [0, 0] are not the numbers from 0 on" in capsys.readouterr().err


def test_an_older_daemon_tells_less(here: Path, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = {name: NODE[name] for name in ("id", "name", "state", "capabilities", "sandbox", "memory_available")}
    daemon.answers = {"nodes": {"nodes": [told, OTHER]}}
    assert main(["tf", "plan"]) == 0
