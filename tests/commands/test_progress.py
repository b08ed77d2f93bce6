"""What a person sees of a running job: speed and time left from bytes, two lines at a terminal, few lines elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ipdc_edge.commands import progress as module
from ipdc_edge.commands.display import cut
from ipdc_edge.commands.progress import Pace, Progress, detail_text, progress_text

MB = 1 << 20


def _job(done: int, **more: Any) -> dict[str, Any]:
    return {"id": "j", "state": "running", "maps": {"total": 8, "done": 3}, "reduces": {"total": 2, "done": 0},
            "input_bytes": 100 * MB, "bytes_done": done * MB, "nodes": [{"state": "working"}, {"state": "lost"}],
            **more}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_speed_and_time_left_come_from_bytes() -> None:
    pace = Pace()
    pace.see(_job(0), 0.0)
    assert (pace.speed(), pace.left(_job(0))) == (None, None)
    pace.see(_job(1), 1.0)
    assert pace.speed() is None  # too short a look
    pace.see(_job(20), 4.0)
    assert pace.speed() == 5 * MB
    assert pace.left(_job(20)) == 16.0
    assert pace.left(_job(20, shuffle_bytes=10 * MB)) == 16.0 + 10  # 50 MB will come of all input
    assert pace.left(_job(100, shuffle_bytes=50 * MB, shuffle_done=25 * MB)) == 5.0
    assert pace.left(_job(100)) is None
    assert pace.left(_job(20, stages=[{"ended": 0}] * 3)) is None  # nobody knows what comes after
    assert pace.left(_job(20, stages=[{"ended": 5.0}, {"ended": 0}, {"ended": 0}])) == 16.0


def test_speed_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    for second in range(60):
        pace.see(_job(10 * min(second, 30)), float(second))
    assert pace.speed() is None  # nothing was read any more
    pace.see(_job(0), 60.0)
    pace.see(_job(9), 63.0)
    assert pace.speed() == 3 * MB  # a lost worker's bytes are read again


def test_one_line_has_it_all() -> None:
    pace = Pace()
    pace.see(_job(0), 0.0)
    pace.see(_job(20), 4.0)
    job = _job(20, shuffle_bytes=10 * MB, shuffle_done=MB, bad_records=2)
    assert progress_text(job, now=0.0, pace=pace) == (
        "running  maps 3/8  20.0 MB of 100 MB  shuffle 1.0 MB of 10.0 MB  reduces 0/2  2 bad records  1 node"
        "  5.0 MB/s  about 25.8 s left  0.0 s")
    assert "left" not in progress_text({**job, "state": "collecting"}, now=0.0, pace=pace)


def test_the_second_line_says_what_tasks_say_or_why_anything_waits() -> None:
    running = [{"task": f"map-{n}", "node": f"node{n}", "status": f"page\n{n}" if n else ""} for n in range(6)]
    waiting = ["2 tasks wait for a worker with room", "no node works on the job at present"]
    said = detail_text(_job(0, running=running, waiting=waiting))
    assert said == "node1: page 1; node2: page 2; node3: page 3; 2 more"
    assert detail_text(_job(0, running=running[:1], waiting=waiting)) == "; ".join(waiting)
    assert detail_text(_job(0)) == ""
    failure = {"task": "map-00001", "name": "node2", "message": "KeyError:\n'x' " + "y" * 200}
    said = detail_text(_job(0, failure=failure))
    assert said.startswith("an attempt at map-00001 failed on node2: KeyError: 'x' yyy")
    assert said.endswith("y...") and len(said) < 140
    assert detail_text(_job(0, failure=failure, waiting=waiting)) == "; ".join(waiting)
    assert detail_text(_job(0, failure=failure, state="failed")) == "", "the end says it all"


def test_a_terminal_gets_two_lines_that_are_cleared(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.update(_job(0, waiting=["2 tasks wait for a worker with room for them"]))
    first, second = "running  maps 3/8  0 B of 100 MB", "reduces 0/2  1 node  0.0 s  2 tasks w"
    assert stream.getvalue() == f"\r{first}\x1b[J\n  {second}\x1b[A\r"
    drawn = len(stream.getvalue())
    progress.update(_job(1))
    assert len(stream.getvalue()) == drawn  # not ten times a second
    clock.now += 1
    progress.tick()
    again = stream.getvalue()[drawn:]
    assert again.startswith("\rrunning  maps 3/8  1.0 MB of 100 MB\x1b[J\n  reduces 0/2")
    progress.end()
    assert stream.getvalue().endswith("\r\x1b[J")


def test_elsewhere_a_line_when_something_changed_and_not_too_often(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    for second in range(20):
        clock.now += 1
        progress.update(_job(5 * min(second, 10), waiting=["one waits"]))
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 5 and all(line.endswith("  (one waits)") for line in lines)
    assert "50.0 MB of 100 MB" in lines[-1] and "MB/s" in lines[-1]
    progress.update(_job(50, state="collecting"))
    assert len(stream.getvalue().splitlines()) == len(lines) + 1  # another state is told at once


def test_cut_counts_columns() -> None:
    assert cut("日本語", 5) == "日本" and cut("e\u0301e\u0301", 1) == "e\u0301" and cut("abc", 3) == "abc"
