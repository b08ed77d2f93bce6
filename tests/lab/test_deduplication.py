"""No block of an input is moved or stored twice: a second job, a file that grew, several who have it; and what becomes
of a job whose input changes under it. On three real nodes; a test says which of them work."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Lab, eventually

MB = 1 << 20
CODE = """
import os, time
GO = %r
def map_lines(lines):
    count = 0
    for line in lines:
        count += 1
        while GO and not os.path.exists(GO):
            time.sleep(0.02)
    yield "lines", count

def reduce(key, values):
    yield key, sum(values)
"""


class Kept(Lab):
    """Its nodes have room for all the tasks of a job."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, 3, "--sandbox", "rlimits")
        for node in (1, 2, 3):
            self.set(node, "slots", "4")

    def set(self, node: int, name: str, value: str) -> None:
        """Change a setting, and have it taken up."""
        conf = Path(self.home(node), "ipdc.conf")
        lines = [line for line in conf.read_text().splitlines() if not line.startswith(name)]
        conf.write_text("\n".join([*lines, f"{name} = {value}"]) + "\n")
        os.kill(int(Path(self.home(node), "run", "daemon.pid").read_text().split()[0]), signal.SIGHUP)

    def work(self, *nodes: int) -> None:
        """Only these take tasks from now on, and hold no input of before."""
        for node in (1, 2, 3):
            self.run(node, "drain", *(["--off"] if node in nodes else []))
            self.run(node, "gc")
        eventually(lambda: [int(one["name"][-1]) for one in self.json(1, "nodes") if one["state"] == "ready"]
                   == list(nodes), "who works")

    def counts(self, node: int) -> tuple[int, int, int]:
        """Bytes that it took from others, blocks that it has, bytes of inputs that it keeps."""
        eventually(self.idle, "clean-up")
        found = self.ask(node, "counters")
        return found["fetched"]["bytes"], found["store"]["blocks"], self.json(node, "store", "stat")["cached"]

    def job(self, path: Path, code: Path, *words: str) -> dict[str, Any]:
        """Count its lines, rightly."""
        job = self.submit(1, str(code), "--input", str(path), *words)
        assert self.result(1, job) == [f"lines\t{path.read_bytes().count(10)}"]
        return dict(self.json(1, "status", job))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(str(tmp_path_factory.mktemp("kept") / "lab"))
    try:
        yield made
        eventually(made.idle, "clean-up of every job on every node")
        assert made.left_over() == []
    finally:
        made.down()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "Count.py"
    path.write_text(CODE % "")
    return path


def text(path: Path, size: int, seed: int) -> Path:
    """Lines of which no block is like another."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(b"%x\n" % chance.getrandbits(4000))
        file.truncate(size)
        file.seek(size - 1)
        file.write(b"\n")
    return path


def test_a_second_job_moves_no_input_and_one_over_a_file_that_grew_its_new_blocks(
    lab: Kept, code: Path, tmp_path: Path
) -> None:
    lab.work(2)
    path = text(tmp_path / "text", 12 * MB + 300_000, 1)
    size = path.stat().st_size
    before = lab.counts(2)
    assert before[2] == 0
    first = lab.job(path, code, "-k", "1")
    after = lab.counts(2)
    assert first["fetched_bytes"] >= size and after[0] - before[0] >= size
    assert size <= after[2] < size + 64_000, "it is kept, and once"
    assert "inputs      12." in lab.run(2, "store", "stat").stdout
    assert "came from other nodes" in lab.run(1, "status").stdout

    second = lab.job(path, code, "-k", "1")
    again = lab.counts(2)
    assert second["fetched_bytes"] == 0 and again[0] - after[0] < 64_000  # what the job itself is
    assert again[1:] == after[1:], "no block is stored twice"

    with path.open("ab") as file:
        file.write(text(tmp_path / "more", 2 * MB, 2).read_bytes())
    new = path.stat().st_size - 12 * MB  # the last old block is another now
    third = lab.job(path, code, "-k", "1")
    grown = lab.counts(2)
    assert new <= third["fetched_bytes"] < new + 64_000 and new <= grown[0] - again[0] < new + 128_000
    assert new <= grown[2] - again[2] < new + 64_000 and grown[1] - again[1] == 4, "three leaves, and the root"
    assert lab.json(1, "doctor", "--domain") and not lab.left_over()

    lab.set(2, "input_cache", "0")
    eventually(lambda: lab.counts(2)[2] == 0, "what was kept is gone")
    assert lab.job(path, code, "-k", "1")["fetched_bytes"] >= path.stat().st_size
    lab.set(2, "input_cache", "auto")


def test_each_worker_is_given_what_it_holds(lab: Kept, code: Path, tmp_path: Path) -> None:
    lab.work(2, 3)
    path = text(tmp_path / "text", 16 * MB, 3)
    first = lab.job(path, code, "-k", "2")
    both = [lab.counts(node) for node in (2, 3)]
    assert all(kept > MB for _, _, kept in both) and first["fetched_bytes"] >= 16 * MB
    for _ in range(2):
        view = lab.job(path, code, "-k", "2")
        assert view["fetched_bytes"] == 0
        told = [reason for one in view["placement"] for reason in one["reasons"] if reason.endswith("% of the input")]
        assert len(told) == 2, "who holds it is a better worker"
    again = [lab.counts(node) for node in (2, 3)]
    assert [counts[1:] for counts in again] == [counts[1:] for counts in both], "nothing is stored anew"


def test_no_worker_moves_a_block_twice_where_the_submitter_works_too(lab: Kept, code: Path, tmp_path: Path) -> None:
    """Who holds everything has more than its share to do, so the other one takes some of it, in each job perhaps other
    splits: each block comes to it once."""
    lab.work(1, 2)
    lab.set(1, "slots", "1")
    eventually(lambda: {one["name"]: one["slots"] for one in lab.json(1, "nodes")}["node1"] == 1, "one at a time")
    path = text(tmp_path / "text", 16 * MB, 8)
    before = lab.counts(2)
    moved = [lab.job(path, code, "-k", "2")["fetched_bytes"] for _ in range(4)]
    after = lab.counts(2)
    lab.set(1, "slots", "4")
    assert moved[0] > MB, "both work"
    assert sum(moved) <= after[2] - before[2] + 64_000, f"{moved} bytes moved, of which it keeps {after[2] - before[2]}"
    assert sum(moved) <= path.stat().st_size + 64_000 and lab.counts(1)[2] == 0


def test_who_has_added_the_file_gives_it_too(lab: Kept, code: Path, tmp_path: Path) -> None:
    lab.work(3)
    path = text(tmp_path / "text", 16 * MB, 4)
    cid = lab.run(2, "add", "--copy", str(path)).stdout.strip()
    before = [lab.ask(node, "counters")["gateway"]["bytes"] for node in (1, 2)]
    for given in (path, cid):  # the second time node 1 has it by its CID
        lab.run(3, "gc")
        job = lab.submit(1, str(code), "--input", str(given), "-k", "1")
        assert lab.json(1, "status", job)["fetched_bytes"] >= 16 * MB
        after = [lab.ask(node, "counters")["gateway"]["bytes"] for node in (1, 2)]
        assert all(new - old > 2 * MB for old, new in zip(before, after)), (before, after)
        before = after
        lab.run(1, "add", str(path))
    lab.run(2, "unpin", cid)
    lab.run(1, "unpin", cid)


def change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(10 * MB)
        file.write(b"#" * (6 * MB))


@pytest.mark.parametrize("harm", [change, Path.unlink])
@pytest.mark.parametrize("another", [True, False], ids=["another has it", "nobody else has it"])
def test_an_input_that_changes_or_vanishes_under_a_job(lab: Kept, tmp_path: Path, harm: Any, another: bool) -> None:
    lab.work(3)
    go, code, path = tmp_path / "go", tmp_path / "Count.py", text(tmp_path / "great.txt", 16 * MB, 5 + another)
    code.write_text(CODE % str(go))
    lines = path.read_bytes().count(10)
    cid = lab.run(2, "add", "--copy", str(path)).stdout.strip() if another else ""
    job = lab.run(1, "submit", str(code), "--input", str(path), "-k", "1", "--id-only").stdout.strip()
    eventually(lambda: len(lab.json(1, "status", job)["running"]) == 4, "tasks wait in the middle")
    harm(path)
    go.touch()
    view = eventually(lambda: (view := lab.json(1, "status", job))["state"] not in ("queued", "running") and view,
                      "the job's end", 120)
    if another:
        assert view["state"] == "succeeded" and lab.result(1, job) == [f"lines\t{lines}"], view["error"]
        lab.run(2, "unpin", cid)
    else:
        assert view["state"] == "failed", view
        assert "great.txt" in view["error"] and "changed since" in view["error"], view["error"]
