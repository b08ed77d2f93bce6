"""Bad input and bad programs on real nodes: each ends with its exit code and a message that names the thing, the value
and the way out, shows no frame of ours, and costs nobody else anything: after each test an ordinary job gives the
right result, and no node holds anything of any job."""

from __future__ import annotations

import collections
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import PYTHON, ROOT, Lab, difference, eventually, in_order
from tests.lab.test_exact import write
from tests.lab.test_jobs import program
from tests.lab.test_newcomers_errors import expect_refusal

AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
WITHOUT_RIGHTS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
MB = 1 << 20
RUNNER = 24 * MB  # as a small board gives where nothing is said
PAGES = 8 * MB  # of libraries and files, and what a runner has to report an error with: no part of its budget


def bad(function: str) -> str:
    return f"{program('bad_functions.py')}:{function}"


def submit(lab: Lab, node: int, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return lab.run(node, "submit", *words, check=False, **options)


def id_of(done: subprocess.CompletedProcess[str]) -> str:
    """The id of the job that a command speaks of."""
    found = re.search(r"\b\d{8}-\d{6}-[a-z]{4}\b", done.stdout + done.stderr)
    assert found, done
    return found[0]


@pytest.fixture
def few(tmp_path: Path) -> str:
    return write(tmp_path / "few.txt", [b"one two", b"two"])


@pytest.fixture(autouse=True)
def nothing_is_lost(request: pytest.FixtureRequest, few: str) -> Iterator[None]:
    """After the test, on the lab that it used."""
    used = "small" if "small" in request.fixturenames else "lab"
    here: Lab = request.getfixturevalue(used)
    yield
    eventually(here.idle, "nothing is left of the test's jobs on any node")
    job = here.submit(2, program("words.py"), "--input", few, "-k", "3")
    assert here.result(2, job) == ["one\t1", "two\t2"]


# -- files


def test_a_file_that_may_not_be_read(lab: Lab, tmp_path: Path, few: str) -> None:
    os.chmod(few, 0)
    try:
        for words in ([few], [str(tmp_path)]):
            done = subprocess.run(
                [*WITHOUT_RIGHTS, PYTHON, "-m", "ipdc_edge", "submit", program("words.py"), "--input", *words],
                env={**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(1)}, capture_output=True, text=True)
            expect_refusal(done, 1, "few.txt", "Permission denied")
    finally:
        os.chmod(few, 0o600)


def test_odd_bytes_are_kept_as_they_are(lab: Lab, tmp_path: Path) -> None:
    """CR LF, CR alone, NUL, no UTF-8, no newline at the end, empty files: through Python, and through a program."""
    (tmp_path / "odd").mkdir()
    files = {"dos": b"a b\r\nc\r\n\r\n", "mac": b"a\rb", "nul": b"\0\n a\0b \n\0", "latin": b"caf\xe9\n\xff\xfe\n\xc3",
             "empty": b"", "newlines": b"\n\n", "separators": b"\x0b\x0c\x1c\x1d\x1e\x85\xe2\x80\xa8x\n"}
    for name, content in files.items():
        (tmp_path / "odd" / name).write_bytes(content)
    lines = [line for content in files.values() for line in content.removesuffix(b"\n").split(b"\n") if content]
    offsets = b"".join(b"%d\t%s\n" % (offset, line) for content in files.values() for offset, line in _lines(content))
    job = lab.submit(1, bad("same"), "--input", str(tmp_path / "odd"), "-k", "3")
    assert not difference(in_order(b"".join(lab.parts(1, job))), in_order(offsets))
    job = lab.submit(2, "--mapper", "cat", "--reducer", "cat", "--input", str(tmp_path / "odd"), "-k", "3")
    assert not difference(in_order(b"".join(lab.parts(2, job))), in_order(b"".join(line + b"\t\n" for line in lines)))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for line in content.removesuffix(b"\n").split(b"\n") if content else ():
        yield at, line
        at += len(line) + 1


def test_a_line_of_200_mb_is_refused_within_the_memory_budget(lab: Lab, tmp_path: Path) -> None:
    """By Python and by a program; the lines around it are not its fault. With the way out taken, a long line is
    right."""
    path = _with_a_long_line(tmp_path / "huge.txt", 200 * MB)
    for words in ((program("words.py"),), ("--mapper", "cat", "--reducer", "cat")):
        with Peaks(lab) as peaks:
            done = submit(lab, 1, *words, "--input", path, "-k", "3", "--memory", "24M")
        expect_refusal(done, 1, "huge.txt, byte offset 6:", "a line of more than 3145728 bytes", "24 MB of memory",
                       "give the job more memory (--memory), or break the line")
        assert "MemoryError" not in done.stderr
        most = peaks.interpreter + RUNNER + PAGES
        assert 0 < peaks.most < most, f"a runner took {peaks.most / MB:.0f} MB"
    os.unlink(path)
    path = _with_a_long_line(tmp_path / "long.txt", 20 * MB)
    done = submit(lab, 1, bad("length"), "--input", path, "--memory", "24M")
    expect_refusal(done, 1, "long.txt, byte offset 6:", "more memory")
    job = lab.submit(1, bad("length"), "--input", path, "--memory", "192M", "-k", "2")
    assert lab.result(1, job) == ["0\t5", f"{20 * MB + 7}\t4", f"6\t{20 * MB}"]


def _with_a_long_line(path: Path, size: int) -> str:
    with open(path, "wb") as file:
        file.write(b"first\n")
        for _ in range(size // MB):
            file.write(b"x" * MB)
        file.write(b"\nlast\n")
    return str(path)


class Peaks:
    """Meanwhile, the most memory that any runner of a lab had (VmHWM of proc(5), which the kernel keeps)."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = 0
        alone = subprocess.run([PYTHON, "-P", "-s", "-c", "import ipdc_edge.apps.mapreduce.task\n"
                                "import ipdc_edge.apps.mapreduce.command, ipdc_edge.runner.__main__\n"
                                "print(open('/proc/self/status').read())"],
                               env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=True)
        self.interpreter = _peak(alone.stdout)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for pid in self._lab.in_runners():
                try:
                    with open(f"/proc/{pid}/status") as status:
                        self.most = max(self.most, _peak(status.read()))
                except OSError:
                    continue  # it has ended


def _peak(status: str) -> int:
    """Bytes; 0 of what has ended."""
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


# -- what a map gives


@pytest.mark.parametrize(
    "function, words",
    [
        ("no_pair", ["NoPair", "(key, value) pairs", "'one two' of type str", "few.txt"]),
        ("a_set", ["a value of type set cannot travel", "key 'some'", "values are None, bool, int, float, str"]),
        ("an_object", ["a value of type object", "key 'one two'", "lists, tuples and dicts"]),
        ("list_key", ["a key of type list", "['one two']", "keys are None, bool", "tuples of these"]),
        ("nan_key", ["a key of type float", "nan"]),
        ("long_key", ["a key of type str", "kkkk", "it takes 10485", "at most 65536", "make a key of its hash"]),
        ("long_value", ["a value of type str", "key 'one two'", "it takes 20971", "at most 1048576"]),
        ("leaves", ["the program ended the runner: exit(3)", "few.txt, byte 0", "'one two'", "sys.exit(3)"]),
        ("vanishes", ["the runner's process ended by itself", "exit status 3", "ipdc-edge logs"]),
        ("is_killed", ["the runner's process ended by itself", "signal SIGKILL", "ipdc-edge logs"]),
        ("hoards", ["MemoryError", "budget of 24 MB", "more memory (--memory) or hold less", "held.append"]),
    ],
)
def test_a_map_that_gives_what_cannot_be_carried_or_ends_its_runner(
    lab: Lab, few: str, function: str, words: list[str]
) -> None:
    done = submit(lab, 1, bad(function), bad("total"), "--input", few, "-k", "2", "--memory", "24M")
    expect_refusal(done, 1, *words, "map-00000 failed 4 times, last on node")
    job = id_of(done)
    assert lab.json(1, "status", job)["state"] == "failed" and lab.run(1, "result", job, check=False).returncode == 1
    assert words[0] in lab.run(1, "status", job).stdout


def test_a_job_without_a_memory_has_what_all_nodes_spare(lab: Lab, few: str) -> None:
    nodes = lab.json(1, "nodes")
    shares = [min(node["memory_total"] // 8, node["memory_available"] // 2) // node["slots"] for node in nodes]
    spared = max(24, min(128, min(shares) // MB))
    expect_refusal(submit(lab, 1, bad("hoards"), "--input", few, "-k", "2"), 1, f"budget of {spared} MB")


@pytest.mark.parametrize("function", ["nothing", "silent"])
def test_a_map_without_pairs_has_an_empty_result(lab: Lab, few: str, function: str) -> None:
    for reduce in ([], [bad("total")]):
        job = lab.submit(3, bad(function), *reduce, "--input", few, "-k", "2")
        parts = lab.parts(3, job)
        assert parts and not any(parts) and lab.json(3, "status", job)["output_bytes"] == 0
    done = submit(lab, 3, bad(function), bad("total"), "--input", few, "-k", "2")
    assert done.returncode == 0 and "written    0 B" in done.stdout
    assert lab.run(3, "result", job).stdout == ""


@pytest.mark.parametrize(
    "words, said",
    [
        ([bad("smae")], ["bad_functions.py defines no smae", "Did you mean same?"]),
        ([bad("same"), bad("totals")], ["defines no totals", "Did you mean total?"]),
        ([program("bad_functions.py")], ["defines no map(key, line) or map_lines(lines)", "It defines", "a_set"]),
        ([bad("same"), program("bad_functions.py")], ["defines no reduce(key, values)"]),
        ([bad("same"), bad("total"), "--partition", "by_lenght"], ["defines no by_lenght", "Did you mean by_length?"]),
        ([bad("same"), "--step", bad("nowhere")], ["defines no nowhere"]),
    ],
)
def test_functions_that_are_not_there_are_told_before_there_is_a_job(
    lab: Lab, few: str, words: list[str], said: list[str]
) -> None:
    before = len(lab.json(1, "jobs"))
    expect_refusal(submit(lab, 1, *words, "--input", few), 1, *said)
    assert len(lab.json(1, "jobs")) == before


# -- programs


@pytest.mark.parametrize(
    "script, said",
    [
        ("#!/bin/sh\ncat >/dev/null; echo going down >&2; exit 7\n",
         ["prog.sh ended with exit status 7", "last words on standard error:\ngoing down", "few.txt"]),
        ("#!/bin/sh\nkill -9 $$\n", ["prog.sh was killed by signal SIGKILL", "It said nothing", "few.txt"]),
        ("#!/bin/sh\nexec no-such-command\n", ["exit status 127", "no-such-command: not found", "few.txt"]),
        ("#!/opt/no-such/interpreter -x\n",
         ["prog.sh wants the interpreter '/opt/no-such/interpreter'", "install it there, or change that line"]),
        ("#!/bin/sh\nexec cat /dev/zero\n",
         ["prog.sh printed more than 4194304 bytes without a newline", "each line must end"]),
    ],
    ids=["exit", "killed", "missing on the node", "no interpreter", "an endless line"],
)
def test_a_program_that_fails(lab: Lab, few: str, tmp_path: Path, script: str, said: list[str]) -> None:
    (tmp_path / "prog.sh").write_text(script)
    for place in ("map", "reduce"):
        words = ["--mapper", "./prog.sh"] if place == "map" else ["--mapper", "cat", "--reducer", "./prog.sh"]
        done = submit(lab, 2, *words, "--input", few, "-k", "2", cwd=tmp_path)
        expect_refusal(done, 1, *(said if place == "map" else said[:1]), f"{place}-0000", "failed 4 times",
                       "ipdc-edge logs")


def test_a_program_that_is_missing_is_told_before_there_is_a_job(lab: Lab, few: str, tmp_path: Path) -> None:
    before = len(lab.json(1, "jobs"))
    for words, said in (
        (["--mapper", "no-such-prog"], ["--mapper", "no program 'no-such-prog'", "--file", "install it"]),
        (["--mapper", "cat", "--reducer", "./few.tx"], ["--reducer", "no program './few.tx'", "you mean ./few.txt?"]),
        (["--mapper", "cat", "--combiner", "no-such-prog", "--reducer", "cat"], ["--combiner", "no-such-prog"]),
    ):
        expect_refusal(submit(lab, 1, *words, "--input", few, cwd=tmp_path), 1, *said)
    assert len(lab.json(1, "jobs")) == before


def test_a_program_that_prints_no_tab_gives_keys_without_values(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "lines", [b"pear", b"apple x", b"pear", b"a\tb\tc"])
    job = lab.submit(3, "--mapper", "cat", "--reducer", "cat", "--input", path, "-k", "2")
    assert lab.result(3, job) == ["a\tb\tc", "apple x\t", "pear\t", "pear\t"]
    job = lab.submit(3, "--mapper", "cat", "--reducer", "uniq -c", "--input", path, "-k", "1")
    assert lab.parts(3, job) == [b"      1 a\tb\tc\n      1 apple x\t\n      2 pear\t\n"]


# -- records that may be left out


def test_bad_records_are_set_aside_up_to_a_number(lab: Lab, tmp_path: Path) -> None:
    """Of all tasks together, with their places; a record too many fails the job."""
    (tmp_path / "in").mkdir()
    lines = {"a": [b"1", b"x", b"2", b""], "b": [b"\xff", b"10"] + [b"5"] * 400_000, "c": [b"3"]}
    for name, content in lines.items():
        write(tmp_path / "in" / name, content)
    words = (bad("numbers"), bad("total"), "--input", str(tmp_path / "in"), "-k", "3")
    done = submit(lab, 1, *words, "--skip-bad", "3")
    assert done.returncode == 0, done.stderr
    job = id_of(done)
    assert lab.result(1, job) == [f"sum\t{16 + 5 * 400_000}"]
    view = lab.json(1, "status", job)
    directory = os.path.join(view["directory"], "bad-records")
    assert f"3 records set aside in {directory}" in done.stdout and view["bad_records"] == 3
    found = []
    for name in os.listdir(directory):
        with open(os.path.join(directory, name)) as file:
            found += [json.loads(line) for line in file]
    assert sorted((entry["input"], entry["offset"], entry["record"]) for entry in found) == [
        ("in/a", 2, "x"), ("in/a", 6, ""), ("in/b", 0, "\udcff")]
    assert all("ValueError: invalid literal for int()" in entry["error"] and entry["where"] == "map" for entry in found)
    for most in ("2", "1"):  # by tasks that have fewer each, or by one that has too many
        expect_refusal(submit(lab, 1, *words, "--skip-bad", most), 1, "bad", f"allows {most}")
    expect_refusal(submit(lab, 1, *words), 1, "ValueError: invalid literal for int()", "input   in/")


def test_a_bad_key_is_set_aside_whole(lab: Lab, few: str) -> None:
    words = (bad("by_length"), bad("not_two"), "--input", few, "-k", "2")
    Path(few).write_text("a\nbb\nccc\nbb\n")
    job = lab.submit(2, *words, "--skip-bad", "1")
    assert lab.result(2, job) == ["1\t1", "3\t1"] and lab.json(2, "status", job)["bad_records"] == 1
    expect_refusal(submit(lab, 2, *words), 1, "KeyError: 'nobody knows 2'", "record  'key 2'")
    Path(few).write_text("one two\ntwo\n")


# -- nodes


def test_more_workers_than_nodes_is_told_and_the_job_goes_on(lab: Lab, few: str) -> None:
    done = submit(lab, 1, program("words.py"), "--input", few, "-k", "9")
    assert done.returncode == 0, done.stderr
    assert "-k 9, but only 3 nodes can take part now. The job goes on with these" in done.stderr
    job = id_of(done)
    assert len(lab.parts(1, job)) == 9 and lab.result(1, job) == ["one\t1", "two\t2"]


def test_no_node_is_fit(lab: Lab, few: str) -> None:
    """Waits, with the reason of each node, or ends with exit code 4."""
    words = (program("words.py"), "--input", few, "--memory", "900G", "-k", "2")
    done = submit(lab, 2, *words, "--no-queue")
    expect_refusal(done, 4, "No node takes the job", *(f"\n  node{node}: " for node in (1, 2, 3)))
    assert done.stderr.count("memory") >= 3
    assert "queued" not in [job["state"] for job in lab.json(2, "jobs")]
    done = submit(lab, 2, *words, "--id-only")
    assert done.returncode == 0 and "-k 2, but no node can take part now" in done.stderr
    job = done.stdout.strip()
    eventually(lambda: lab.json(2, "status", job)["placement"], "every node was judged")
    shown = lab.run(2, "status", job).stdout
    assert "queued" in shown and "waits      no node is fit for the job yet" in shown
    assert all(f"node{node} not fit: " in shown for node in (1, 2, 3))
    lab.run(2, "cancel", job)


# -- full disks


class SmallLab(Lab):
    """Three nodes. Nodes 1 and 2 have each of blocks, scratch and jobs on a small disk of its own; no node keeps more
    than 32 MB."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory, 3)
        super().down()
        self.disks: list[str] = []
        for node in (1, 2, 3):
            with open(os.path.join(self.home(node), "ipdc.conf"), "a") as file:
                file.write("store_quota = 32M\n")
        for node in (1, 2):
            for part, size in (("blocks", "24M"), ("scratch", "4M"), ("jobs", "4M")):
                self._mount(os.path.join(self.home(node), part), size)
        super().__init__(directory, 3)

    def _mount(self, path: str, size: str) -> None:
        kept = f"{path}.kept"
        os.rename(path, kept)
        os.mkdir(path)
        options = f"size={size},mode=0700,uid={os.getuid()},gid={os.getgid()}"
        subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
        self.disks.append(path)
        shutil.copytree(kept, path, dirs_exist_ok=True)

    def down(self) -> None:
        super().down()
        for path in self.disks:
            subprocess.run([*AS_ROOT, "umount", path], check=True)


class Full:
    """A disk that is full while this lasts, but for `left` bytes."""

    def __init__(self, lab: Lab, node: int, part: str, left: int) -> None:
        self._path, self._left = os.path.join(lab.home(node), part, "filler"), left

    def __enter__(self) -> None:
        disk = os.statvfs(os.path.dirname(self._path))
        with open(self._path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(4096, disk.f_bavail * disk.f_frsize - self._left))

    def __exit__(self, *_: object) -> None:
        os.unlink(self._path)


@pytest.fixture(scope="module")
def small() -> Iterator[SmallLab]:
    directory = tempfile.mkdtemp(prefix="ipdc-lab-", dir="/tmp")
    made = SmallLab(directory)
    try:
        yield made
    finally:
        made.down()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """4 MB of words that occur once or twice, and their counts."""
    chance = random.Random(4)
    words = [f"{chance.getrandbits(64):x}" for _ in range(120_000)]
    words += words[:120_000]
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_text("".join(f"{one} {two}\n" for one, two in zip(words[::2], words[1::2])))
    return str(path), sorted(f"{word}\t{count}" for word, count in collections.Counter(words).items())


@pytest.mark.parametrize("part, left", [("scratch", 64 << 10), ("blocks", 256 << 10)])
def test_a_full_disk_on_a_worker(small: SmallLab, pairs: tuple[str, list[str]], part: str, left: int) -> None:
    """The others do its tasks, however fast it fails; the log names node and path."""
    path, expected = pairs
    words = (program("words.py"), "--input", path, "-k", "3", "--sort-budget", "1M")
    with Full(small, 2, part, left):
        job = small.submit(3, *words)
        logs = small.run(3, "logs", job).stdout
    assert small.result(3, job) == expected
    assert " on node2: " in logs and os.path.join(small.home(2), part) in logs and "No space" in logs or "full" in logs
    assert "ipdc_edge/" not in logs


def test_a_full_disk_under_the_masters_results(small: SmallLab, pairs: tuple[str, list[str]]) -> None:
    path, expected = pairs
    words = (program("words.py"), "--input", path, "-k", "2")
    with Full(small, 1, "jobs", 64 << 10):
        done = submit(small, 1, *words)
        job = id_of(done)
        expect_refusal(done, 1, os.path.join(small.home(1), "jobs", job), "no room for reduce-0000")
        directory = os.path.join(small.home(1), "jobs", job)
        eventually(lambda: os.listdir(directory) == ["job.json"], "what had come is removed, the record is left")
    shutil.rmtree(directory)
    assert small.result(1, small.submit(1, *words)) == expected


@pytest.mark.parametrize("left", [0, 64 << 10])
def test_a_full_disk_under_the_masters_store(
    small: SmallLab, pairs: tuple[str, list[str]], tmp_path: Path, left: int
) -> None:
    """Told at submit, with the path; also where it is the index that does not fit."""
    path, _ = pairs
    before = len(small.json(1, "jobs"))
    with Full(small, 1, "blocks", left), open(path, "rb") as file:
        done = submit(small, 1, program("words.py"), "--input", "-", "-k", "2", stdin=file)
        expect_refusal(done, 1, "The disk is full", os.path.join(small.home(1), "blocks"))
    assert len(small.json(1, "jobs")) == before


def test_a_store_that_may_hold_no_more(small: SmallLab, tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(33 * MB)
    with open(tmp_path / "big", "rb") as file:
        done = submit(small, 3, program("words.py"), "--input", "-", stdin=file)
    expect_refusal(done, 1, "The block store holds", f"of the {32 * MB} bytes", "Raise store_quota in ipdc.conf")


@pytest.mark.parametrize("words", [("--mapper", "yes"), (bad("endless"),)])
def test_what_prints_without_end_is_ended(small: SmallLab, few: str, words: tuple[str, ...]) -> None:
    done = submit(small, 3, *words, "--input", few, "-k", "2")
    expect_refusal(done, 1, "the task wrote more than", "this node keeps", "map-00000")
