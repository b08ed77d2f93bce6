"""`submit` with a real daemon: leaving it, losing the daemon, inputs by CID, what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from tests.lab.conftest import PYTHON, ROOT, Lab, eventually
from tests.lab.test_domain import pid_of
from tests.lab.test_jobs import program


def begin(lab: Lab, node: int, *words: str) -> subprocess.Popen[str]:
    """A submit that waits, as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(node)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [PYTHON, "-m", "ipdc_edge", "submit", *words], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def running(lab: Lab, node: int) -> str:
    """The id of the node's newest job, once it runs."""

    def look() -> str:
        jobs = lab.json(node, "jobs")
        return jobs[-1]["id"] if jobs and jobs[-1]["state"] == "running" else ""

    return str(eventually(look, "a running job"))


def test_ctrl_c_leaves_the_job_running_and_says_how_to_look_at_it(lab: Lab) -> None:
    child = begin(lab, 1, program("slow.py"), "--input", program("words.py"))
    job = running(lab, 1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert f"ipdc-edge status {job}" in said and f"ipdc-edge cancel {job}" in said and "Traceback" not in said
    assert lab.json(1, "status", job)["state"] == "running"
    lab.run(1, "cancel", job)


def test_a_daemon_that_goes_away_is_told_with_exit_code_3(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(str(tmp_path / "lab"), 1)
    try:
        child = begin(lab, 1, program("slow.py"), "--input", program("words.py"))
        running(lab, 1)
        os.kill(pid_of(lab, 1), signal.SIGKILL)
        _, said = child.communicate(timeout=30)
        assert child.returncode == 3 and "daemon" in said and "Traceback" not in said
    finally:
        lab.down()


def test_an_input_may_be_named_by_its_cid(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "words.txt"
    path.write_text("one two\ntwo\n" * 1000)
    cid = lab.run(2, "add", str(path)).stdout.strip()
    job = lab.submit(2, program("words.py"), "--input", cid, "-k", "2")
    assert lab.result(2, job) == ["one\t1000", "two\t2000"]


def test_json_lines_end_with_the_whole_job(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "one.txt"
    path.write_text("one\n")
    lines = lab.run(3, "submit", program("words.py"), "--input", str(path), "-k", "2", "--json").stdout.splitlines()
    last = json.loads(lines[-1])
    wanted = {"id", "state", "app", "workers", "maps", "reduces", "error"}
    assert wanted <= set(last) and last["state"] == "succeeded" and last["error"] is None
    assert last["maps"] == {"total": 1, "done": 1} and last["reduces"] == {"total": 2, "done": 2}
    assert last["submitted"] <= last["started"] <= last["ended"]
    assert wanted <= set(lab.json(3, "jobs")[-1])


def test_more_workers_than_nodes_go_on_with_those_there_are(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "few.txt"
    path.write_text("a b c d\n")
    job = lab.submit(1, program("words.py"), "--input", str(path), "-k", "7")
    assert lab.result(1, job) == ["a\t1", "b\t1", "c\t1", "d\t1"]
    assert len([name for name in os.listdir(os.path.join(lab.home(1), "jobs", job)) if name.startswith("part-")]) == 7


def test_empty_and_odd_inputs(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """An empty file, one without a newline at its end, NUL and bytes that are no UTF-8: kept as they are."""
    for name, content in (("empty", b""), ("bare", b"last line"), ("odd", b"a\x00b \xff\xfe\n\n\r\n"), ("one", b"\n")):
        (tmp_path / name).write_bytes(content)
    job = lab.submit(2, program("words.py"), "--input", str(tmp_path), "-k", "2")
    assert lab.result(2, job) == ["a\x00b\t1", "last\t1", "line\t1", "\udcff\udcfe\t1"]
    empty = lab.submit(2, program("words.py"), "--input", str(tmp_path / "empty"), "-k", "1")
    assert lab.result(2, empty) == []
