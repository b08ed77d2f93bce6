"""status, jobs, logs, cancel, result: ids by their beginning, what is shown, what JSON holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.commands import logs
from ipdc_edge.commands.choose import choose
from ipdc_edge.commands.display import LAST_FAILURE
from ipdc_edge.commands.status import text
from ipdc_edge.commands.watch import success_text
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
        "jobs": {"jobs": [_job(NEW, "running", local="/var/*.csv"),
                          _job(OLD, "succeeded", ended="2026-11-23T01:04:08Z")]},
        "status": _job(NEW, "running"),
        "cancel": {"id": NEW, "state": "cancelled"},
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


def test_a_job_of_which_nothing_came_says_what_functions_and_programs_have_to_do() -> None:
    done = _job(NEW, "succeeded", ended="2026-11-23T01:04:08Z", input_bytes=7)
    for written, told in ((0, True), (1, False)):
        assert ("functions yield pairs" in success_text({**done, "output_bytes": written}, "")) is told
    assert "functions yield" not in success_text({**done, "input_bytes": 0, "output_bytes": 0}, ""), "nothing was read"


def test_a_failure_that_others_mended_is_told_as_such() -> None:
    failure = {"type": "user", "message": "ValueError: bad", "name": "node2", "task": "map-1"}
    assert LAST_FAILURE not in text(_job(NEW, "failed", error="map-1 failed", failure=failure))
    assert f"{LAST_FAILURE}\nValueError: bad" in text(_job(NEW, "running", failure=failure))
    assert "ValueError" not in text(_job(NEW, "succeeded", failure=failure))
    assert "== the job failed" in logs.text({"state": "failed", "failure": failure})
    assert "== the job failed" not in logs.text({"state": "succeeded", "failure": failure})


@pytest.mark.parametrize(("told", "roles", "shown"), [
    ({"task": "map-00003", "node": "pi", "text": "a\nb\n"}, False, "map-00003@pi | a\nmap-00003@pi | b"),
    ({"task": "worker-0", "node": "pi", "text": "a\n\n"}, True, "worker:0@pi | a\nworker:0@pi | "),
    ({"task": "client", "node": None, "text": "not ended"}, True, "client | not ended"),
])
def test_lines_that_are_followed_say_where_they_come_from(told: dict[str, object], roles: bool, shown: str) -> None:
    assert logs.lines(told, roles) == shown


def test_a_node_that_lets_nobody_follow_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [{"node": "pi", "refused": "it answered 503 too many\x1b[2J"}, {"state": "succeeded"}]
    monkeypatch.setattr(logs, "call", lambda *_, **__: {"app": "mapreduce"})
    monkeypatch.setattr(logs, "events", lambda *_, **__: iter(told))
    nobody: Any = None
    assert logs._follow(nobody, NEW, False) == 0
    said = capsys.readouterr()
    assert not said.out and "\x1b" not in said.err
    assert "ipdc-edge: pi does not let this be followed at present (it answered 503 too many" in said.err


STAGES = [
    {"name": "maps", "total": 4, "done": 4, "began": 1795395724.0, "ended": 1795395732.5},
    {"name": "reduces", "total": 2, "done": 1, "began": 1795395732.5, "ended": 0},
    {"name": "reduces 2", "total": 2, "done": 0, "began": 0, "ended": 0},
]


def test_status_explains_where_the_time_went_and_why_anything_waits() -> None:
    job = _job(
        NEW, "running", stages=STAGES, waiting=["1 task waits for node2, which is lost"], shuffle_bytes=3 << 20,
        shuffle_done=1 << 20, bad_records=3, output_bytes=12, counters={"words": 12000, "bad: lines": 3},
        running=[{"task": "reduce-00001", "node": "node1", "seconds": 3.14, "bytes_done": 2048, "status": "key\nx"},
                 {"task": "reduce-00002", "node": "node2", "seconds": 0, "bytes_done": 0, "status": ""}],
        nodes=[{"name": "node1", "state": "working", "tasks_done": 3, "holds": 1}],
        placement=[{"name": "node1", "score": 0.5, "reasons": ["1.9 idle cores at speed 1.00", "512 MB available",
                                                               "holds the input", "throttled"]}],
    )
    found = text(job, now=1795395740.0)
    for words in (
        "shuffle    1.0 MB of 3.0 MB fetched",
        "time       1.0 s  waiting for a node\n"
        "           8.5 s  maps (4 of 4 tasks)\n"
        "           7.5 s  reduces (1 of 2 tasks)\n",
        "waits      1 task waits for node2, which is lost",
        "running    reduce-00001 on node1 for 3.1 s, 2.0 kB: key x\n           reduce-00002 on node2 for 0.0 s\n",
        "counters   12000  words\n               3  bad: lines\n",
        f"bad        3 records set aside in /jobs/{NEW}/bad-records",
        "nodes      node1 working, 3 tasks done, holds 1",
        "placement  node1 0.50: 1.9 idle cores at speed 1.00, 512 MB available, holds the\n"
        "             input, throttled",
    ):
        assert words in found, found
    assert "reduces 2" not in found and max(map(len, found.splitlines())) <= 80


def test_status_tells_what_was_written_for_a_job() -> None:
    assert "flash" not in text(_job(NEW, "running", written_bytes=None, fsyncs=None))
    found = text(_job(NEW, "running", written_bytes=4 << 20, fsyncs=1, stored_bytes=1 << 20, spilled_bytes=1 << 20))
    assert ("flash      4.0 MB written and 1 fsync for it on this node\n"
            "           2.0 MB written by its tasks on all nodes, 1.0 MB of it spilled") in found


def test_status_of_a_job_that_has_ended() -> None:
    ended = [{**stage, "began": 1795395724.0 + 10 * number, "ended": 1795395734.0 + 10 * number}
             for number, stage in enumerate(STAGES)]
    job = _job(NEW, "succeeded", stages=ended, waiting=["never shown"], ended=1795395755.5, local="/var/log/*.csv")
    found = text(job)
    assert "10.0 s  reduces 2 (0 of 2 tasks)\n            1.5 s  fetching results\n" in found
    assert "never shown" not in found and "input      /var/log/*.csv on each node" in found
    assert "fetching" not in text({**job, "state": "failed"})
    queued = _job(NEW, "queued", stages=[{**stage, "began": 0, "ended": 0} for stage in STAGES])
    assert "time       2.0 s  waiting for a node\n" in text(queued, now=1795395725.0) + "\n"


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
    assert second.split()[:5] == [NEW, "running", "1/4", "0/0", "local"]
    assert main(["jobs", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == [OLD, NEW]


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


@pytest.mark.outside("unix socket")
def test_a_cancel_that_comes_too_late_says_so(jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for state, told in (("running", "is as good as done"), ("succeeded", "is succeeded already")):
        jobs.answers["cancel"] = {"id": NEW, "state": state}
        assert main(["cancel", "efgh"]) == 1
        assert told in capsys.readouterr().err


def test_status_shows_priority_and_the_time_that_is_left() -> None:
    job = _job(NEW, "running", priority=-2, timeout=90, submitted="2026-11-23T01:03:00Z")
    shown = text(job, now=1795395810.0).splitlines()  # half a minute later
    assert "priority   -2" in shown and "timeout    1:30 after its submission, 1:00 left" in shown
    ended = text({**job, "state": "failed", "ended": "2026-11-23T01:04:30Z"}).splitlines()
    assert "timeout    1:30 after its submission" in ended
    assert not any(line.startswith(("priority", "timeout")) for line in text(_job(NEW, "running")).splitlines())


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


@pytest.mark.outside("unix socket")
def test_result_of_a_job_that_failed_says_so(daemon: Any, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    Path(home.job(NEW)).mkdir(parents=True)
    for state, told in (("failed", "it failed"), ("cancelled", "it was cancelled")):
        daemon.answers = {"status": {"id": NEW, "state": state}, "jobs": {"jobs": [{"id": NEW}]}}
        assert main(["result", NEW]) == 1
        assert f"has no result: {told}. More: " in capsys.readouterr().err
