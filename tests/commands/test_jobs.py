"""status, jobs, nodes, logs, cancel, result: ids by their beginning, what is shown, what JSON holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands.choose import choose
from ipdc_edge.errors import AmbiguousId, UnknownJob
from ipdc_edge.home import Home

OLD, NEW = "20261122-010203-abcd", "20261123-010203-efgh"


def _job(job: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": job,
        "state": state,
        "maps": {"total": 4, "done": 1},
        "reduces": {"total": 0, "done": 0},
        "submitted": "2026-11-23T01:02:03Z",
        "started": 1795395724.0,
        "ended": None,
        "input_bytes": 5 << 20,
        "bytes_done": 1 << 20,
        "error": None,
        "failure": None,
        "directory": f"/jobs/{job}",
        **more,
    }


@pytest.fixture
def jobs(daemon: Any) -> Any:
    daemon.answers = {
        "jobs": {"jobs": [_job(NEW, "running"), _job(OLD, "succeeded", ended="2026-11-23T01:04:08Z")]},
        "status": _job(NEW, "running"),
        "cancel": {},
    }
    return daemon


def test_choose() -> None:
    assert choose("20261122", [OLD, NEW]) == OLD
    assert choose("efgh", [OLD, NEW]) == NEW
    assert choose(OLD, [OLD, OLD + "x"]) == OLD
    with pytest.raises(AmbiguousId, match=f"is not one job but 2: {OLD}, {NEW}") as caught:
        choose("2026", [NEW, OLD])
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownJob, match=f"There are: {OLD}, {NEW}"):
        choose("x", [NEW, OLD])
    with pytest.raises(UnknownJob, match="There are: 2 older ones, 02, 03"):
        choose("", [f"{number:02}" for number in range(10)])
    with pytest.raises(UnknownJob, match="No job was submitted here yet"):
        choose("x", [])


@pytest.mark.outside("unix socket")
def test_status_of_the_newest_job_and_of_one_by_its_beginning(
    jobs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert f"job        {NEW}" in out and "maps       1 of 4 done" in out and "1.0 MB of 5.0 MB read" in out
    assert "reduces" not in out
    assert main(["status", "20261122", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == NEW  # the stand-in answers the same to everything
    assert [request["id"] for request in jobs.requests("status")] == [NEW, OLD]


@pytest.mark.outside("unix socket")
def test_status_of_a_failed_job(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.answers["status"] = _job(
        NEW,
        "failed",
        error="task map-1 failed",
        ended=1795395800.5,
        nodes=[{"name": "node1", "state": "lost", "tasks_done": 1, "reason": "did not answer"}],
        placement=[
            {"name": "node1", "score": 0.5, "reasons": ["idle"]},
            {"name": "node2", "score": 0, "suitable": False, "reasons": ["no memory"]},
        ],
        failure={
            "type": "KeyError",
            "message": "'x'",
            "input": "a.txt",
            "offset": 77,
            "record": "line",
            "traceback": "Traceback (most recent call last):\n  at line 3",
        },
    )
    assert main(["status", "efgh"]) == 0
    out = capsys.readouterr().out
    for words in (
        "error      task map-1 failed",
        "KeyError: 'x'",
        "input   a.txt, byte 77",
        "record  'line'",
        "  at line 3",
        "node1 lost (did not answer), 1 task done",
        "node1 0.50: idle",
        "node2 not fit: no memory",
    ):
        assert words in out, words


@pytest.mark.outside("unix socket")
def test_status_and_jobs_before_the_first_job(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {"jobs": {"jobs": []}}
    for words in (["status"], ["jobs"]):
        assert main(words) == 0
        assert "ipdc-edge submit --help" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) is None
    assert main(["status", "x"]) == 1


@pytest.mark.outside("unix socket")
def test_jobs_oldest_first(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["ID", "STATE", "MAPS", "REDUCES"]
    assert first.split()[:3] == [OLD, "succeeded", "1/4"] and first.endswith("2:05")
    assert second.split()[:2] == [NEW, "running"]
    assert main(["jobs", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == [OLD, NEW]


@pytest.mark.outside("unix socket")
def test_nodes_this_one_first(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers = {
        "nodes": {
            "nodes": [
                {
                    "id": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
                    "name": "a",
                    "state": "ready",
                    "slots": 2,
                    "cpu_idle": 0.5,
                    "cpu_count": 4,
                    "load": 1.234,
                    "speed": 1,
                    "memory_available": 64 << 20,
                    "memory_total": 128 << 20,
                    "sandbox": "rlimits",
                    "version": "0.1.0",
                    "portal": True,
                },
                {"id": "Qm2", "name": "z", "state": "lost", "self": True},
            ]
        }
    }
    assert main(["nodes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["z", "Qm2", "this", "lost"]
    assert lines[2].split() == [
        "a",
        "..79ojWnPbdG",
        "portal",
        "ready",
        "2",
        "50%",
        "of",
        "4",
        "1.23",
        "1.00",
        "64.0",
        "MB",
        "128",
        "MB",
        "rlimits",
        "0.1.0",
    ]
    assert main(["nodes", "--json"]) == 0
    assert [node["name"] for node in json.loads(capsys.readouterr().out)] == ["z", "a"]


@pytest.mark.outside("unix socket")
def test_logs(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.answers["logs"] = {
        "directory": "/jobs/x/log",
        "tasks": [
            {"task": "map-0", "attempt": [3, 7], "log": "hello\n"},
            {"task": "map-1", "attempt": [3, 8], "log": ""},
            {
                "task": "map-2",
                "node": "node2",
                "attempt": 1,
                "log": "",
                "error": {"type": "ValueError", "message": "bad", "traceback": "Traceback\n  in map"},
            },
        ],
    }
    assert main(["logs", "efgh"]) == 0
    out = capsys.readouterr().out
    assert "== map-0, attempt 3-7\nhello\n" in out
    assert "== map-2 on node2, attempt 1\nValueError: bad\n\nTraceback\n  in map\n" in out
    assert "1 task printed nothing." in out and "/jobs/x/log" in out
    assert main(["logs", "efgh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == jobs.answers["logs"]


@pytest.mark.outside("unix socket")
def test_cancel(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel", "efgh"]) == 0
    assert capsys.readouterr().out == f"job {NEW} is cancelled\n"
    assert jobs.requests("cancel") == [{"operation": "cancel", "id": NEW}]
    jobs.answers["status"] = _job(NEW, "failed")
    assert main(["cancel", "efgh"]) == 1
    assert "is failed already" in capsys.readouterr().err


def _finished(home: Home, job: str, **parts: bytes) -> Path:
    directory = Path(home.job(job))
    directory.mkdir(parents=True)
    for name, content in parts.items():
        (directory / name.replace("_", "-")).write_bytes(content)
    return directory


@pytest.mark.outside("looks for a daemon that is not there")
def test_result_needs_no_daemon_and_keeps_the_order_of_parts(
    home: Home, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    directory = _finished(
        home, OLD, part_100000=b"3\n", part_00000=b"1\n", part_99999=b"2\n", log=b"x", part_x=b""
    )
    assert main(["result", "abcd"]) == 1
    assert b"has no result: it did not finish" in capfdbinary.readouterr().err
    (directory / "_SUCCESS").touch()
    assert main(["result", "abcd"]) == 0
    assert capfdbinary.readouterr().out == b"1\n2\n3\n"
    assert main(["result", OLD, "--json"]) == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert found["parts"][0] == {"path": str(directory / "part-00000"), "bytes": 2}
    assert main(["result", "zzzz"]) == 1
    assert b"There are: " + OLD.encode() in capfdbinary.readouterr().err


@pytest.mark.outside("unix socket")
def test_result_of_a_running_job_says_so(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["result", "efgh"]) == 1
    assert f"Job {NEW} has no result: it is running. More: ipdc-edge status {NEW}" in capsys.readouterr().err
