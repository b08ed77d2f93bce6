"""What a person meets: progress at a terminal and elsewhere, what to type next, Ctrl-C, `status` that explains, and
`cancel` that leaves nothing. On real nodes, at a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import PYTHON, ROOT, Lab, eventually
from tests.lab.test_exact import write
from tests.lab.test_jobs import program
from tests.lab.test_streaming import processes
from tests.lab.test_submit import running

PACED = program("bad_paced.py")
COLUMNS, ROWS = 80, 24
PROMPT = 2.0  # seconds that a cancel may take; on a machine that does much else, PATIENCE times as long
PATIENCE = 5
TIME = r"(?:[\d.]+ s|(?:\d+:)?\d+:\d\d)"  # a machine that does much else may need minutes


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    """6 MB of 6000 lines, which begin with 000 to 099."""
    path = tmp_path_factory.mktemp("records") / "records"
    return write(path, (b"%03d" % (number % 100) + b"x" * 1020 for number in range(6000)))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A shell that finds ipdc-edge on its PATH, as people have it who have installed it."""
    directory = tmp_path_factory.mktemp("bin")
    (directory / "ipdc-edge").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {PYTHON} -m ipdc_edge "$@"\n')
    os.chmod(directory / "ipdc-edge", 0o755)

    def run(home: str, command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "IPDC_HOME": home}
        return subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60)

    return run


def paced(**arguments: object) -> tuple[str, ...]:
    return PACED, "--args", json.dumps(arguments)


class Terminal:
    """A command at a pseudo-terminal, and all that it wrote there."""

    def __init__(self, lab: Lab, node: int, *words: str) -> None:
        self.text = ""
        self._pid, self._terminal = pty.fork()
        if not self._pid:
            environment = {**os.environ, "PYTHONPATH": ROOT, "IPDC_HOME": lab.home(node), "TERM": "xterm"}
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execve(PYTHON, [PYTHON, "-m", "ipdc_edge", *words], environment)

    def until(self, pattern: str, seconds: float = 60) -> None:
        """Until it has written this."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            assert self._read(end), f"it ended without {pattern!r}: {self.text!r}"

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def end(self, seconds: float = 60) -> int:
        """Waits for its end; the exit code."""
        end = time.monotonic() + seconds
        while self._read(end):
            assert time.monotonic() < end, f"it does not end: {self.text!r}"
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, end: float) -> bool:
        if select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # EIO: the other end is closed
                return False
            self.text += data.decode()
            return bool(data)
        return True

    def screen(self) -> list[str]:
        """What stands on the terminal in the end, line by line. Fails on what moves in another way than ours."""
        lines, row, column = [""], 0, 0
        for word in re.findall(r"\x1b\[[A-Z]|[\r\n]|[^\x1b\r\n]+|\x1b", self.text):
            if word == "\r":
                column = 0
            elif word == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif word == "\x1b[J":
                lines[row:] = [lines[row][:column]]
            elif word == "\x1b[A":
                row -= 1
            else:
                assert "\x1b" not in word, self.text
                lines[row] = lines[row][:column].ljust(column) + word + lines[row][column + len(word) :]
                column += len(word)
                assert column <= COLUMNS, f"a line that the terminal would break: {lines[row]!r}"
        return [line.rstrip() for line in lines]

    def pictures(self) -> list[str]:
        """What was drawn one over the other, each with the lines below it on one line."""
        drawn = [piece for piece in re.split(r"\r(?!\n)", self.text) if "\x1b[J" in piece]
        return [re.sub(r"\s*\r\n\s*", "  ", re.sub(r"\x1b\[[AJ]", "", piece)).strip() for piece in drawn]


def test_progress_at_a_terminal(lab: Lab, records: str) -> None:
    terminal = Terminal(lab, 1, "submit", *paced(pause=0.002), "--input", records, "-k", "3")
    assert terminal.end() == 0
    drawn = terminal.pictures()
    assert len(drawn) >= 10, terminal.text
    for pattern in (r"^running  maps \d/\d+  [\d.]+ [kM]?B of 5\.9 MB", r"shuffle .*B",
                    r"reduces [0-3]/3", r"  3 nodes", rf"  [\d.]+ [kM]B/s  about {TIME} left  {TIME}",
                    r"^succeeded  "):
        assert any(re.search(pattern, picture) for picture in drawn), (pattern, "\n".join(drawn))
    done = [int(re.search(r"maps (\d+)/", picture)[1]) for picture in drawn if "maps " in picture]
    assert done == sorted(done) and len(set(done)) >= 3, "it moves"
    screen = terminal.screen()
    job = screen[0].split()[1]
    assert lab.json(1, "status", job)["state"] == "succeeded"
    assert screen[0].startswith(f"job {job} succeeded in ") and screen[-2] == f"look back  ipdc-edge status {job}"
    assert not any("maps " in line for line in screen), "progress is wiped away"


def test_progress_elsewhere_is_plain_lines(lab: Lab, records: str) -> None:
    done = lab.run(2, "submit", *paced(pause=0.002), "--input", records, "-k", "3")
    lines = done.stderr.splitlines()
    assert 3 <= len(lines) <= 12 and not re.search(r"[\r\x1b]", done.stderr + done.stdout)
    assert lines[0].startswith("queued  ") or lines[0].startswith("running  ")
    assert lines[-1].startswith("succeeded  maps ") and re.search(r"[kM]B/s  about .* left", done.stderr)
    assert done.stdout.startswith("job ") and "maps" not in done.stdout


def test_json_lines_end_in_a_final_state(lab: Lab, records: str) -> None:
    done = lab.run(3, "submit", *paced(pause=0.001), "--input", records, "-k", "3", "--json")
    views = [json.loads(line) for line in done.stdout.splitlines()]
    states = list(dict.fromkeys(view["state"] for view in views))
    assert states[-2:] == ["running", "succeeded"] and states[:-2] in ([], ["queued"])  # one may be over soon
    assert len(views) >= 5 and not done.stderr
    for name in ("maps", "reduces"):
        counts = [view[name]["done"] for view in views]
        assert counts == sorted(counts) and counts[-1] == views[-1][name]["total"]
    assert len({view["id"] for view in views}) == 1 and views[-1]["shuffle_done"] == views[-1]["shuffle_bytes"] > 0
    done = lab.run(3, "submit", program("bad_functions.py:numbers"), "--input", records, "--json", check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and last["state"] == "failed" and "ValueError" in last["error"]


def test_what_the_closing_block_says_can_be_typed(
    lab: Lab, records: str, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    home, submit = lab.home(1), f"ipdc-edge submit {PACED} --input {records}"
    done = shell(home, submit)
    commands = re.findall(r"^(?:read them|look back)  (.*)$", done.stdout, re.MULTILINE)
    directory = re.search(r"^results    (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and len(commands) == 2 and directory and os.path.isdir(directory[1]), done.stdout
    read, look = (shell(home, command) for command in commands)
    assert read.returncode == look.returncode == 0 and not read.stderr + look.stderr
    assert re.fullmatch(r"(\d{3}\t60\n){10}", read.stdout) and "succeeded at" in look.stdout
    (command,) = re.findall(r"ipdc-edge result .*", look.stdout)
    assert shell(home, command).stdout.count("\t60\n") == 100
    failed = shell(home, f"ipdc-edge submit {program('bad_functions.py')}:numbers --input {records}")
    (command,) = re.findall(r"ipdc-edge logs .*", failed.stderr)
    assert "ValueError: invalid literal" in shell(home, command).stdout
    later = shell(home, f"{submit} --no-wait")
    (command,) = re.findall(r"ipdc-edge status .*", later.stdout)
    eventually(lambda: "succeeded at" in shell(home, command).stdout, "the job's end")
    unknown = shell(home, "ipdc-edge status nowhere")
    assert unknown.returncode == 1 and "'nowhere'" in unknown.stderr


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(
    lab: Lab, records: str, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    terminal = Terminal(lab, 2, "submit", *paced(pause=0.003), "--input", records, "-k", "3")
    terminal.until(r"running  maps \d")
    terminal.press_ctrl_c()
    assert terminal.end(20) == 130
    said = "\n".join(terminal.screen())
    look, end = re.findall(r"ipdc-edge (?:status|cancel) \S+", said)
    assert "The job goes on." in said and "Traceback" not in said and "maps" not in said
    job = look.split()[-1]
    assert lab.json(2, "status", job)["state"] == "running", "it did not end with the command"
    assert "running, " in shell(lab.home(2), look).stdout
    eventually(lambda: lab.json(2, "status", job)["state"] == "succeeded", "the job's end")
    assert len(lab.result(2, job)) == 100
    assert shell(lab.home(2), end).returncode == 1, "there is nothing left to cancel"


# -- status


@pytest.fixture
def ended(lab: Lab) -> Iterator[list[tuple[int, str]]]:
    """Jobs (node, id) that the test leaves behind: cancelled after it."""
    jobs: list[tuple[int, str]] = []
    yield jobs
    for node, job in jobs:
        lab.run(node, "cancel", job, check=False)


def hand_in(lab: Lab, node: int, *words: str) -> str:
    return lab.run(node, "submit", *words, "--id-only").stdout.strip()


def section(text: str, name: str) -> str:
    """What `status` says under a title, on one line."""
    found = re.search(rf"^{name:10} (.*(?:\n {{11}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def test_status_while_tasks_wait_for_room(lab: Lab, records: str, ended: list[tuple[int, str]]) -> None:
    job = hand_in(lab, 1, *paced(hold="map"), "--input", records, "-k", "1")
    ended.append((1, job))
    text = eventually(lambda: [text for text in [lab.run(1, "status", job).stdout] if "holds on" in text],
                      "a task at work")[0]
    total = lab.json(1, "status", job)["maps"]["total"]
    waits = re.match(r"(\d+) tasks? waits? for a worker with room", section(text, "waits"))
    assert waits and int(waits[1]) in (total - 1, total - 2) and total >= 3, text  # one may be in hand already
    assert re.match(rf"map-00000 on node\d for {TIME}.*: holds on", section(text, "running"))
    assert re.search(rf"waiting for a node {TIME} maps \(0 of \d+ tasks\)", section(text, "time"))
    assert re.search(r"node\d working, 0 tasks done", section(text, "nodes"))
    assert len(re.findall(r"node\d [\d.]+: ", section(text, "placement"))) == 3, "why which node"


def test_status_of_a_job_behind_another_ones_tasks(lab: Lab, records: str, ended: list[tuple[int, str]]) -> None:
    """Every slot is taken: what has been given out does not run, and is not said to."""
    first = hand_in(lab, 1, *paced(hold="map"), "--input", records, "-k", "3")
    ended.append((1, first))
    eventually(lambda: len({task["node"] for task in lab.json(1, "status", first)["running"]
                            if task["status"] == "holds on"}) == 3, "all slots are taken")
    second = hand_in(lab, 2, *paced(), "--input", PACED, "-k", "3")
    ended.append((2, second))
    text = eventually(lambda: [text for text in [lab.run(2, "status", second).stdout] if section(text, "waits")],
                      "why it waits")[0]
    assert re.match(r"1 task waits at node\d, which does other tasks before", section(text, "waits")), text
    assert not section(text, "running")
    lab.run(1, "cancel", first)
    eventually(lambda: lab.json(2, "status", second)["state"] == "succeeded", "it has its turn")


def test_status_tells_where_the_time_went(lab: Lab, records: str) -> None:
    job = lab.submit(3, *paced(pause=0.001), "--input", records, "-k", "3")
    text = lab.run(3, "status", job).stdout
    took = float(re.search(r"state +succeeded at .* after ([\d.]+) s", text)[1])
    spans = re.findall(r"([\d.]+) s (waiting for a node|maps|reduces|fetching results)", section(text, "time"))
    assert [what for _, what in spans] == ["waiting for a node", "maps", "reduces", "fetching results"]
    assert abs(sum(float(span) for span, _ in spans) - took) < 0.5 and float(spans[1][0]) >= 1.0
    assert not section(text, "waits") and not section(text, "running")


def test_status_and_result_of_a_cancelled_job(lab: Lab, records: str, ended: list[tuple[int, str]]) -> None:
    job = hand_in(lab, 1, *paced(hold="reduce"), "--input", records, "-k", "2")
    ended.append((1, job))
    eventually(lambda: "holds on" in lab.run(1, "status", job).stdout, "reduces at work")
    lab.run(1, "cancel", job)
    text = lab.run(1, "status", job).stdout
    assert "cancelled at " in text and re.search(r"maps \((\d+) of \1 tasks\)", section(text, "time"))
    assert not section(text, "waits") and not section(text, "running")
    for command, words in (("cancel", "is cancelled already"), ("result", "it was cancelled")):
        done = lab.run(1, command, job, check=False)
        assert done.returncode == 1 and words in done.stderr
    assert [view["state"] for view in lab.json(1, "jobs") if view["id"] == job] == ["cancelled"]


# -- cancel


def left_of(lab: Lab, node: int, job: str) -> list[str]:
    """All that is left of a cancelled job of a node's, anywhere, but its record and its logs."""
    found = processes(lab)
    for number in range(1, lab.nodes + 1):
        counters = lab.ask(number, "counters")
        found += [owner for owner in counters["owners"] if owner.startswith(job)]
        found += [held["job"] for held in counters["held_jobs"]]
        found += os.listdir(os.path.join(lab.home(number), "scratch"))
        files = os.path.join(lab.home(number), "blocks", "files")
        found += [name for name in os.listdir(files) if name.startswith(job)]
    directory = os.path.join(lab.home(node), "jobs", job)
    names = os.listdir(directory) if os.path.exists(directory) else []
    return found + [name for name in names if name not in ("job.json", "log")] + ["no record"] * (
        "job.json" not in names)


def cancel(lab: Lab, node: int, job: str) -> None:
    """Cancels, and waits until nothing is left."""
    begun = time.monotonic()
    assert lab.ask(node, "cancel", id=job)["state"] == "cancelled"
    eventually(lambda: not left_of(lab, node, job), f"nothing is left of {job}", PATIENCE * PROMPT)
    assert time.monotonic() - begun < PATIENCE * PROMPT
    view = lab.json(node, "status", job)
    assert view["state"] == "cancelled" and not view["running"]
    with open(os.path.join(lab.home(node), "jobs", job, "job.json")) as file:
        assert json.load(file)["state"] == "cancelled"


def test_cancel_while_queued(lab: Lab, records: str, ended: list[tuple[int, str]]) -> None:
    eventually(lab.idle, "jobs before")
    job = hand_in(lab, 1, *paced(), "--input", records, "--memory", "900G")
    ended.append((1, job))
    assert lab.json(1, "status", job)["state"] == "queued"
    cancel(lab, 1, job)


@pytest.mark.parametrize("phase", ["map", "reduce"])
def test_cancel_while_tasks_run(lab: Lab, records: str, ended: list[tuple[int, str]], phase: str) -> None:
    """On three nodes at once; in the reduces with runs of all maps lying about."""
    eventually(lab.idle, "jobs before")
    job = hand_in(lab, 2, *paced(hold=phase), "--input", records, "-k", "3")
    ended.append((2, job))
    eventually(lambda: len({task["node"] for task in lab.json(2, "status", job)["running"]
                            if task["task"].startswith(phase) and task["status"] == "holds on"}) == 3,
               f"{phase}s on three nodes")
    assert len(processes(lab)) == 3 and left_of(lab, 2, job)
    cancel(lab, 2, job)


def test_cancel_in_the_middle_of_a_shuffle(lab: Lab, book: str, ended: list[tuple[int, str]]) -> None:
    eventually(lab.idle, "jobs before")
    job = hand_in(lab, 3, program("words.py"), "--input", book, "-k", "3")
    ended.append((3, job))

    def shuffles() -> bool:
        view = lab.ask(3, "status", id=job)
        return bool(0 < view["shuffle_done"] < view["shuffle_bytes"] and view["maps"]["done"] == view["maps"]["total"])

    eventually(shuffles, "a shuffle under way", 120)
    cancel(lab, 3, job)


def test_cancel_while_results_are_fetched(lab: Lab, records: str) -> None:
    """The time between the last task and the result is short: tried until it is met."""

    def met() -> bool:
        eventually(lab.idle, "jobs before")
        job = hand_in(lab, 1, f"{PACED}:swells", "--input", records, "-k", "1")
        while (view := lab.ask(1, "status", id=job))["state"] in ("queued", "running"):
            if view["phase"] == "collecting":
                if lab.ask(1, "cancel", id=job)["state"] == "cancelled":
                    eventually(lambda: not left_of(lab, 1, job), "nothing is left", PATIENCE * PROMPT)
                    return True
        return False

    eventually(met, "a job cancelled while its results are on their way", 120)


def test_the_command_that_waits_hears_of_a_cancel(
    lab: Lab, records: str, ended: list[tuple[int, str]]
) -> None:
    terminal = Terminal(lab, 1, "submit", *paced(hold="map"), "--input", records, "-k", "3")
    job = running(lab, 1)
    ended.append((1, job))
    terminal.until("holds on")
    lab.run(3, "status", check=False)
    assert lab.run(3, "cancel", job, check=False).returncode == 1, "another node's job is not known here"
    cancel(lab, 1, job)
    assert terminal.end(20) == 1
    screen = terminal.screen()
    assert f"ipdc-edge: Job {job} was cancelled." in screen and not any("maps" in line for line in screen)
