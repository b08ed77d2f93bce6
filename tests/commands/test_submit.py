"""submit: what reaches the daemon, what is shown while the job runs, and the exit codes of its ends."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.__main__ import main
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands.progress import Progress
from ipdc_edge.errors import IpdcError, NotPlaced
from ipdc_edge.home import Home

pytestmark = pytest.mark.outside("speaks to a control server over a unix socket")
TOP = Path(__file__).resolve().parents[2]
ID = "20261123-010203-abcd"
MAP = "import words\ndef map(key, line):\n    yield line, 1\n"
REDUCE = "def reduce(key, values):\n    yield key, sum(values)\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    (work / "logs" / "sub").mkdir(parents=True)
    (work / "logs" / ".git").mkdir()
    for name, text in {
        "Map.py": MAP,
        "Reduce.py": REDUCE,
        "words.py": "",
        "book.txt": "a book\n",
        "logs/2.txt": "two",
        "logs/sub/1.txt": "one",
        "logs/.hidden": "no",
        "logs/.git/config": "no",
        "logs/empty": "",
    }.items():
        (work / name).write_text(text)
    monkeypatch.chdir(work)
    return work


def _job(state: str, maps: int = 0, reduces: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "state": state,
        "app": "mapreduce",
        "workers": 2,
        "maps": {"total": 4, "done": maps},
        "reduces": {"total": 2, "done": reduces},
        "error": None,
        "submitted": "2026-11-23T01:02:03Z",
        "started": "2026-11-23T01:02:04Z",
        "ended": "2026-11-23T01:02:15Z" if state != "running" else None,
        "input_bytes": 4 << 20,
        "bytes_done": maps << 20,
        "directory": f"/jobs/{ID}",
        "failure": None,
        "nodes": [{"id": "Qm1", "name": "node1", "state": "working", "tasks_done": maps}],
        "placement": [{"node": "Qm1", "name": "node1", "score": 0.9, "suitable": True, "reasons": []}],
        **more,
    }


def _answers(daemon: Any, *jobs: dict[str, Any]) -> None:
    daemon.answers = {
        "nodes": {"nodes": [{"state": "ready"}, {"state": "ready"}, {"state": "draining"}]},
        "submit": {"id": ID},
        "watch": list(jobs) or [_job("succeeded", 4, 2)],
    }


def test_content_that_comes_from_kubo_first_is_told_on_the_way(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(daemon)
    cid = raw_cid(b"elsewhere")
    daemon.answers["submit"] = [{"fetching": cid, "bytes": 5 << 20}, {"fetching": cid, "bytes": "?"},
                                {"id": ID, "compressed": [cid]}]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["submit", "Map.py", "--input", cid, "--id-only"]) == 0
    found = capsys.readouterr()
    assert found.out == f"{ID}\n" and "fetching from Kubo  5.0 MB" in found.err
    assert "is compressed" in found.err


def test_the_job_reaches_the_daemon_whole(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon)
    cid = raw_cid(b"elsewhere")
    code = main(
        [
            "submit",
            "Map.py",
            "Reduce.py",
            "--input",
            "book.txt",
            "logs",
            "--input",
            f"/ipfs/{cid}",
            "-k",
            "2",
            "--args",
            '{"least": 3}',
        ]
    )
    assert code == 0
    (request,) = daemon.requests("submit")
    names = [item["name"] for item in request["spec"]["inputs"]]
    assert names == ["book.txt", "logs/2.txt", "logs/empty", "logs/sub/1.txt", cid]
    assert request["spec"] == {
        "app": "mapreduce",
        "workers": 2,
        "arguments": {"least": 3},
        "options": {"steps": [{"map": "Map.py", "reduce": "Reduce.py"}]},
        "code": {
            name: {"cid": raw_cid(text.encode()), "size": len(text)}
            for name, text in {"Map.py": MAP, "words.py": "", "Reduce.py": REDUCE}.items()
        },
        "inputs": [
            *(
                {"name": name, "cid": raw_cid(text), "size": len(text)}
                for name, text in zip(names[:4], (b"a book\n", b"two", b"", b"one"), strict=True)
            ),
            {"name": cid, "cid": cid, "size": None},
        ],
    }
    assert len(request["submission"]) == 16 and int(request["submission"], 16) >= 0
    added = daemon.requests("add")
    assert {item["name"]: item["copy"] for item in added} == {
        "Map.py": True,
        "words.py": True,
        "Reduce.py": True,
        "book.txt": False,
        "logs/2.txt": False,
        "logs/empty": False,
        "logs/sub/1.txt": False,
    }
    assert all(item["submission"] == request["submission"] and not item["keep"] for item in added)
    assert daemon.added[raw_cid(b"a book\n")]["content"] == b"a book\n"
    out = capsys.readouterr().out
    assert f"job {ID} succeeded in 12.0 s: 4.0 MB read" in out
    assert f"ipdc-edge result {ID}" in out


@pytest.mark.parametrize(
    "words, expected",
    [
        (["Map.py:map", "Reduce.py:reduce", "--step", "-", "Reduce.py"],
         {"options": {"steps": [{"map": "Map.py:map", "reduce": "Reduce.py:reduce"}, {"reduce": "Reduce.py"}]}}),
        (["Map.py", "Reduce.py", "--partition", "reduce", "--sort-values", "--output-format", "json", "--input-format",
          "csv", "--skip-bad", "7", "--no-queue", "--memory", "64M", "--sort-budget", "16M"],
         {"memory": 64 << 20,
          "options": {"steps": [{"map": "Map.py", "reduce": "Reduce.py", "partition": "Reduce.py:reduce"}],
                      "sort_values": True, "output_format": "json", "input_format": "csv", "skip_bad": 7,
                      "sort_budget": 16 << 20, "no_queue": True}}),
        (["--mapper", "python3 words.py logs/2.txt", "--combiner", "cat", "--reducer", "uniq -c"],
         {"options": {"steps": [{"mapper": ["python3", "words.py", "2.txt"], "combiner": ["cat"],
                                 "reducer": ["uniq", "-c"]}]}}),
        (["Map.py", "--priority", "-5", "--timeout", "15m"],
         {"priority": -5, "timeout": 900, "options": {"steps": [{"map": "Map.py"}]}}),
        (["--mapper", "cat", "--reducer", "NONE"], {"options": {"steps": [{"mapper": ["cat"]}]}}),
    ],
)
def test_options_reach_the_daemon(words: list[str], expected: dict[str, Any], daemon: Any, files: Path) -> None:
    _answers(daemon)
    assert main(["submit", *words, "--input", "book.txt"]) == 0
    spec = daemon.requests("submit")[0]["spec"]
    steps = spec["options"]["steps"]
    named = {str(word).partition(":")[0] for step in steps for value in step.values()
             for word in (value if isinstance(value, list) else [value])}
    always = ("app", "workers", "grows", "arguments", "code", "inputs")
    assert {key: value for key, value in spec.items() if key not in always} == expected
    assert named & {"Map.py", "Reduce.py", "words.py", "2.txt"} <= set(spec["code"])


def test_files_travel_with_either_kind_of_program(daemon: Any, files: Path) -> None:
    _answers(daemon)
    for words, code in ((["Map.py"], {"Map.py", "words.py"}), (["--mapper", "cat"], set())):
        assert main(["submit", *words, "--file", "logs", "book.txt", "--input", "book.txt"]) == 0
        spec = daemon.requests("submit")[-1]["spec"]
        assert set(spec["code"]) == code | {"logs/2.txt", "logs/empty", "logs/sub/1.txt", "book.txt"}
        assert spec["code"]["book.txt"] == {"cid": raw_cid(b"a book\n"), "size": 7}


def test_where_the_data_lies_there_are_no_inputs(daemon: Any, files: Path) -> None:
    _answers(daemon)
    assert main(["submit", "Map.py", "--input-local", "/var/log/*.csv"]) == 0
    spec = daemon.requests("submit")[0]["spec"]
    assert (spec["local"], spec["inputs"], spec["workers"]) == ({"pattern": "/var/log/*.csv"}, [], 2)


def test_another_architecture_needs_no_map(daemon: Any, files: Path) -> None:
    _answers(daemon)
    assert main(["submit", "--app", "search", "--args", '{"first": 0}', "-k", "2"]) == 0
    assert daemon.requests("submit")[0]["spec"] == {
        "app": "search", "workers": 2, "arguments": {"first": 0}, "options": {}, "code": {}, "inputs": []}


def test_compressed_and_standard_input(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(daemon)
    (files / "book.gz").write_bytes(gzip.compress(b"a book"))
    with (files / "book.txt").open("rb") as book:
        before = os.dup(0)
        os.dup2(book.fileno(), 0)
        try:
            assert main(["submit", "Map.py", "--input", "book.gz", "-"]) == 0
        finally:
            os.dup2(before, 0)
            os.close(before)
    packed, given = daemon.requests("submit")[0]["spec"]["inputs"]
    assert (packed["name"], packed["compression"]) == ("book.gz", "gz")
    assert given == {"name": "standard-input", "cid": raw_cid(b"a book\n"), "size": 7}
    assert {item["name"]: item["copy"] for item in daemon.requests("add")}["standard-input"]
    err = capsys.readouterr().err
    assert err.count("book.gz is compressed: one task reads all of it") == 1 and "were copied" not in err


@pytest.mark.parametrize("nodes, words", [(2, "only 2 nodes can take part now"), (1, "only 1 node"), (0, "no node")])
def test_more_workers_than_fit_nodes_are_told(
    nodes: int, words: str, daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon)
    unfit = [{"state": "draining"}, {"state": "ready", "capabilities": ["search"]},
             {"state": "ready", "memory_available": 30 << 20}]
    fit = {"state": "ready", "capabilities": ["mapreduce"], "memory_available": 32 << 20}
    daemon.answers["nodes"] = {"nodes": [*unfit, *[fit] * nodes]}
    assert main(["submit", "Map.py", "--input", "book.txt", "-k", "3", "--memory", "32M"]) == 0
    assert f"-k 3, but {words}" in capsys.readouterr().err
    assert daemon.requests("submit")[0]["spec"]["workers"] == 3
    assert main(["submit", "Map.py", "--input", "book.txt", "-k", "1", "--memory", "32M"]) == 0
    assert ("-k 1, but" in capsys.readouterr().err) == (nodes == 0)


def test_the_closing_block(daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _answers(daemon, _job("succeeded", 4, 2, shuffle_bytes=3 << 20, output_bytes=2048, bad_records=1,
                          counters={"words": 12000, "lines": 7}))
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"job {ID} succeeded in 12.0 s: 4.0 MB read, 341 kB/s",
        "shuffled   3.0 MB",
        "written    2.0 kB",
        "counters   12000  words",
        "               7  lines",
        f"bad        1 record set aside in /jobs/{ID}/bad-records",
        f"results    /jobs/{ID}",
        f"read them  ipdc-edge result {ID} | head",
        f"look back  ipdc-edge status {ID}",
    ]


def test_workers_are_as_many_as_nodes_are_ready(daemon: Any, files: Path) -> None:
    _answers(daemon)
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 0
    (request,) = daemon.requests("submit")
    assert (request["spec"]["workers"], request["spec"]["options"]) == (2, {"steps": [{"map": "Map.py"}]})


def test_id_only_prints_the_id_and_does_not_wait(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon)
    assert main(["submit", "Map.py", "--input", "book.txt", "--id-only"]) == 0
    assert capsys.readouterr().out == f"{ID}\n"
    assert not daemon.requests("watch")
    assert main(["submit", "Map.py", "--input", "book.txt", "--id-only", "--wait"]) == 0
    assert capsys.readouterr().out == f"{ID}\n"
    assert len(daemon.requests("watch")) == 1


def test_no_wait(daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _answers(daemon)
    assert main(["submit", "Map.py", "--input", "book.txt", "--no-wait"]) == 0
    assert f"ipdc-edge status {ID}" in capsys.readouterr().out
    assert main(["submit", "Map.py", "--input", "book.txt", "--no-wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": ID}
    assert not daemon.requests("watch")


def test_progress_as_lines_and_as_json(daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [_job("queued", nodes=[]), _job("running", 1), _job("running", 2), _job("succeeded", 4, 2)]
    _answers(daemon, *jobs)
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["queued", "running", "succeeded"]
    assert lines[0].split("  ")[-2] == "no node has accepted yet"
    assert lines[1].startswith("running  maps 1/4  1.0 MB of 4.0 MB  reduces 0/2  1 node  ")
    assert main(["submit", "Map.py", "--input", "book.txt", "--json"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == jobs
    assert captured.err == ""


def test_progress_at_a_terminal_that_is_narrow_goes_on_below_and_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.update(_job("running", 1))
    progress.tick()
    progress.end()
    text = stream.getvalue()
    assert text.startswith("\rrunning  maps 1/4\x1b[J\n  1.0 MB of 4.0 MB")
    assert text.endswith("\r\x1b[J")


FAILURE = {
    "task": "map-3",
    "node": "node2",
    "type": "ValueError",
    "message": "bad",
    "input": "book.txt",
    "offset": 0,
    "record": "a \x00book",
    "traceback": 'Traceback:\n  File "Map.py", line 3, in map\nValueError: bad\n',
}


def test_a_failed_job_shows_the_users_traceback_file_offset_and_record(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon, _job("failed", error="task map-3 failed 4 times", failure=FAILURE))
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 1
    err = capsys.readouterr().err
    for words in (
        f"Job {ID} failed: task map-3 failed 4 times",
        "ValueError: bad",
        "book.txt, byte 0",
        r"'a \x00book'",
        'File "Map.py", line 3, in map',
        f"ipdc-edge logs {ID}",
        "node2",
    ):
        assert words in err, words


def test_a_cancelled_job_is_a_failure(daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _answers(daemon, _job("cancelled"))
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 1
    assert f"Job {ID} was cancelled." in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        {
            "started": None,
            "error": "not placed: nobody is fit",
            "placement": [
                {
                    "node": "Qm1",
                    "name": "node1",
                    "score": 0,
                    "suitable": False,
                    "reasons": ["memory 8 MB of 24 MB"],
                }
            ],
        },
        {"error": NotPlaced(reason="nobody is fit\n  node1: memory 8 MB of 24 MB").to_dict()},
    ],
)
def test_a_job_that_no_node_takes_is_4_and_says_why(
    more: dict[str, Any], daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon, _job("failed", **more))
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 4
    err = capsys.readouterr().err
    assert "No node takes the job: nobody is fit" in err
    assert "node1: memory 8 MB of 24 MB" in err


def test_a_refusal_of_the_daemon_is_shown_as_it_is(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon)
    daemon.answers["submit"] = IpdcError(reason="the job has no worker")
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 1
    assert "ipdc-edge: the job has no worker" in capsys.readouterr().err


def test_inputs_that_the_daemon_had_to_copy_are_told(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon)
    daemon.stored = "copy"
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 0
    assert "7 B of input were copied" in capsys.readouterr().err


def test_ctrl_c_leaves_the_job_and_says_how_to_look_at_it(daemon: Any, home: Home, files: Path) -> None:
    _answers(daemon, _job("running", 1), "silence")  # type: ignore[arg-type]
    command = [sys.executable, "-m", "ipdc_edge", "submit", "Map.py", "--input", "book.txt"]
    environ = {**os.environ, "PYTHONPATH": str(TOP)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"running")
        process.send_signal(signal.SIGINT)
        text = process.stderr.read().decode()
        assert process.wait() == 130
    assert f"ipdc-edge status {ID}" in text and f"ipdc-edge cancel {ID}" in text
    assert "Traceback" not in text
    assert not daemon.requests("cancel")


def test_a_daemon_that_goes_away_is_3_and_the_job_goes_on(
    daemon: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(daemon, _job("running", 1))
    assert main(["submit", "Map.py", "--input", "book.txt"]) == 3
    assert f"`ipdc-edge status {ID}`; the job itself goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message, code",
    [
        (
            ["Map.py", "--input", "bok.txt"],
            "Cannot read bok.txt: No such file or directory. Did you mean book.txt?",
            1,
        ),
        (
            ["Map.py", "--input", "nothing"],
            "Cannot read nothing: No such file or directory. It is no CID either.",
            1,
        ),
        (["Map.py", "--input", "book.txt", "-k", "0"], "-k 0: give 1 to 1000 workers", 2),
        (["Map.py", "--input", "book.txt", "--args", "{x}"], "--args is not JSON", 2),
        (["Map.py", "--input", "book.txt", "--args", "[1]"], "not an object", 2),
        (["map.py", "--input", "book.txt"], "Did you mean Map.py?", 1),
        (["words.py", "--input", "book.txt"], "words.py defines no map(key, line)", 1),
        ([], "which program? Give MAP", 2),
        (["--input", "book.txt"], "which program? Give MAP", 2),
        (["Map.py"], "which input? Give --input PATH", 2),
        (["Map.py", "--input", "book.txt", "--input-local", "/a"], "--input and --input-local", 2),
        (["Map.py", "--input-local", "a/*"], "give an absolute path", 2),
        (["Map.py", "--mapper", "cat", "--input", "book.txt"], "Map.py and --mapper: a step is either Python", 2),
        (["--reducer", "NONE", "--input", "book.txt"], "give --mapper COMMAND, --reducer COMMAND", 2),
        (["--mapper", "ctt", "--input", "book.txt"], "--mapper: there is no program 'ctt'", 1),
        (["--mapper", "cat", "--partition", "f", "--reducer", "cat", "--input", "book.txt"], "programs in Python", 2),
        (["Map.py", "--step", "a", "b", "c", "--input", "book.txt"], "a step has one or two words", 2),
        (["--app", "search", "Map.py"], "MAP is for Map-Reduce; --app search is told by --args", 2),
        (["--app", "search", "--sort-values"], "--sort-values is for Map-Reduce", 2),
        (["Map.py", "--input", "book.txt", "--memory", "2M"], "--memory 2.0 MB: a runner needs at least 16.0 MB", 2),
        (["Map.py", "--input", "*.nothing"], "*.nothing matches no file here", 1),
        (["Map.py", "--input", "book.gz"], "book.gz is named .gz but does not begin as such a file does", 1),
        (["Map.py", "--file", "nothing", "--input", "book.txt"], "Cannot read nothing", 1),
        (["Map.py", "--input", "hollow"], "hollow is a directory without a file in it", 1),
        (["Map.py", "--input", "pipe"], "pipe is not a regular file", 2),
    ],
)
def test_mistakes_are_told_before_the_daemon_is_asked(
    words: list[str], message: str, code: int, home: Home, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "hollow").mkdir()
    os.mkfifo(files / "pipe")
    (files / "book.gz").write_text("plain")
    assert main(["submit", *words]) == code  # no daemon runs: it would be exit code 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--priority", "11"), ("--priority", "-11"), ("--priority", "1.5"),
                                               ("--timeout", "0"), ("--timeout", "-1"), ("--timeout", "2w"),
                                               ("--timeout", "999999999d"), ("--timeout", "soon")])
def test_a_priority_and_a_time_are_bounded(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["submit", "Map.py", "--input", "book.txt", option, value])
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is not a" in capsys.readouterr().err


def test_inputs_without_their_option_are_told_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in ((["book.txt"], True), (["--inputs", "book.txt"], False)):
        with pytest.raises(SystemExit, match="2"):
            main(["submit", "Map.py", "Reduce.py", *words])
        err = capsys.readouterr().err
        assert f"unrecognized arguments: {words[0]}" in err and ("Inputs stand after --input: " in err) is told
