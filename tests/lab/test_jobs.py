"""Jobs over real nodes give, byte for byte after sorting, what a plain Python program gives."""

from __future__ import annotations

import collections
import json
import os
import re
import sysconfig
import threading

from tests.lab.conftest import Lab, eventually

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")


def program(name: str) -> str:
    return os.path.join(PROGRAMS, name)


def text_of(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return file.read().split("\n")


def as_lines(pairs: dict[str, object]) -> list[str]:
    """key TAB value, sorted as bytes, as a result is."""
    lines = [
        f"{key}\t{value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in pairs.items()
    ]
    return sorted(lines, key=lambda line: line.encode("utf-8", "surrogateescape"))


def test_word_count_over_64_mb(lab: Lab, book: str) -> None:
    job = lab.submit(1, program("words.py"), "--input", book, "-k", "3")
    expected = collections.Counter(word for line in text_of(book) for word in line.split())
    assert lab.result(1, job) == as_lines(dict(expected))
    directory = os.path.join(lab.home(1), "jobs", job)
    assert sorted(os.listdir(directory)) == ["_SUCCESS", "job.json", "part-00000", "part-00001", "part-00002"]
    for part in range(3):
        lines = open(os.path.join(directory, f"part-{part:05d}"), "rb").read().splitlines()
        assert lines == sorted(lines), "a part is sorted by key"
    view = json.load(open(os.path.join(directory, "job.json")))
    assert view["state"] == "succeeded" and view["maps"]["done"] == view["maps"]["total"] > 8
    assert {node["name"] for node in view["nodes"] if node["tasks_done"]} == {"node1", "node2", "node3"}
    assert all(verdict["reasons"] for verdict in view["placement"])


def test_an_index_over_a_directory_of_real_files(lab: Lab) -> None:
    """Python's own codecs: hundreds of files, compiled ones too, mastered by node 2, without a combiner."""
    library = os.path.join(sysconfig.get_path("stdlib"), "encodings")
    job = lab.submit(2, program("index.py"), "--input", library, "-k", "2", "--args", '{"least": 5}')
    paths = [os.path.join(directory, name) for directory, _, names in os.walk(library) for name in names]
    assert len(paths) > 100
    lengths: dict[str, list[int]] = {}
    for path in paths:
        for line in text_of(path):
            for found in re.findall(r"[A-Za-z_][A-Za-z0-9_]{3,}", line):
                lengths.setdefault(found, []).append(len(line))
    expected = {key: [len(v), min(v), max(v)] for key, v in lengths.items() if len(v) >= 5}
    assert lab.result(2, job) == as_lines(expected)
    assert not os.path.exists(os.path.join(lab.home(1), "jobs", job)), "the job is node 2's"


def test_a_map_only_job_and_its_prints(lab: Lab, book: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    small = tmp_path / "small.txt"
    with open(book, "rb") as file:
        small.write_bytes(file.read(3 << 20))
    job = lab.submit(3, program("long_lines.py"), "--input", str(small), "-k", "2")
    expected, offset = [], 0
    for line in small.read_bytes().split(b"\n"):
        text = line.decode("utf-8", "surrogateescape")
        if len(text) >= 76:
            expected.append(f"{offset}\t{text}")
        offset += len(line) + 1
    assert lab.result(3, job) == sorted(expected, key=lambda line: line.encode("utf-8", "surrogateescape"))
    assert "found one" in lab.run(3, "logs", job).stdout


def test_three_jobs_on_three_nodes_at_once(lab: Lab, book: str) -> None:
    jobs: dict[int, str] = {}
    ways = [
        threading.Thread(
            target=lambda n=n: jobs.update({n: lab.submit(n, program("words.py"), "--input", book, "-k", "3")})
        )
        for n in (1, 2, 3)
    ]
    for way in ways:
        way.start()
    for way in ways:
        way.join()
    first, second, third = (lab.result(node, jobs[node]) for node in (1, 2, 3))
    assert first == second == third and len(first) > 100_000
    for node in (1, 2, 3):
        assert jobs[node] in [job["id"] for job in lab.json(node, "jobs")]
    starts = {node: lab.json(node, "status", jobs[node]) for node in (1, 2, 3)}
    assert max(view["started"] for view in starts.values()) <= min(view["ended"] for view in starts.values()), (
        "side by side"
    )


def test_cancel_frees_every_node(lab: Lab, book: str) -> None:
    job = lab.run(1, "submit", program("slow.py"), "--input", book, "-k", "3", "--id-only").stdout.strip()
    eventually(lambda: sum(n["state"] == "working" for n in lab.json(1, "status", job)["nodes"]) == 3, "three workers")
    lab.run(1, "cancel", job)
    view = lab.json(1, "status", job)
    assert view["state"] == "cancelled"
    eventually(lab.idle, "all nodes are free")
    assert lab.run(1, "result", job, check=False).returncode == 1


def test_ids_by_prefix_and_no_wait(lab: Lab, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "few.txt"
    path.write_text("one two two\n")
    job = lab.run(2, "submit", program("words.py"), "--input", str(path), "--id-only").stdout.strip()
    eventually(lambda: lab.json(2, "status", job)["state"] == "succeeded", "the job's end")
    assert lab.json(2, "status", job[:-1])["id"] == job
    assert lab.result(2, job) == ["one\t1", "two\t2"]


def test_a_daemon_that_is_killed_takes_its_job_up_again(lab: Lab, book: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The seam of what a later issue proves in depth: kill -9 of the master in the middle of a job."""
    own = Lab(str(tmp_path / "lab"), 2)
    try:
        job = own.run(1, "submit", program("words.py"), "--input", book, "-k", "2", "--id-only").stdout.strip()
        eventually(lambda: own.json(1, "status", job)["maps"]["done"] >= 2, "two maps are done")
        with open(os.path.join(own.home(1), "run", "daemon.pid")) as file:
            os.kill(int(file.read().split()[0]), 9)
        Lab(str(tmp_path / "lab"), 2)
        eventually(lambda: own.json(1, "status", job)["state"] == "succeeded", "the job's end", 120)
        expected = collections.Counter(word for line in text_of(book) for word in line.split())
        assert own.result(1, job) == as_lines(dict(expected))
    finally:
        own.down()
