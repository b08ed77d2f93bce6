"""Standard error of user programs: counters and statuses in the Hadoop way, and everything else in the job's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers_command import Programs
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.mapreduce.command_reports import MOST_REPORT, Reports

pytestmark = pytest.mark.outside("runs real programs")


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


class Heard:
    """Reports, and what was made of them; the log is gathered instead of written."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.log = b""
        self.reports = Reports(self.told.append, lambda name, amount: self.told.append((name, amount)))
        self.reports._write = self._write  # type: ignore[method-assign]

    def _write(self, data: bytes) -> None:
        self.log += data


def test_a_program_counts_and_tells_its_status(programs: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    script = b"""import sys
for line in sys.stdin:
    print("reporter:counter:Sensors,bad lines,2", file=sys.stderr)
    print("what is", line, end="", file=sys.stderr)
print("reporter:status:half way", file=sys.stderr)
print("reporter:counter:Sensors,bad lines,-1", end="", file=sys.stderr)
"""
    programs.run("m.py", lines=[b"a\nb\n"], m_py=script)
    assert programs.counters == {"Sensors: bad lines": 3}
    assert programs.statuses == ["half way"]
    assert capfd.readouterr().err == "what is a\nwhat is b\n"


def test_reports_count_when_the_program_fails_too(programs: Programs) -> None:
    with pytest.raises(Exception, match="status 1"):
        programs.shell("printf 'reporter:counter:a,b,7' >&2; exit 1")
    assert programs.counters == {"a: b": 7}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"reporter:counter:g,c,1", ("g: c", 1)),
        (b"reporter:counter:g,c,+12\r", ("g: c", 12)),
        (b"reporter:counter:g,c, -12 ", ("g: c", -12)),
        (b"reporter:counter:g: x,c d,0", ("g: x: c d", 0)),
        ("reporter:counter:Größe,é,1".encode(), ("Größe: é", 1)),
        (b"reporter:counter:\xff,c,1", ("\ufffd: c", 1)),
        (b"reporter:counter:g,c,9999999999999999999", ("g: c", 9999999999999999999)),
        (b"reporter:status:", ""),
        (b"reporter:status:a, b: c", "a, b: c"),
    ],
)
def test_reports(line: bytes, told: object) -> None:
    heard = Heard()
    heard.reports.feed(b"before\n" + line + b"\nafter\n")
    assert heard.told == [told] and heard.log == b"before\nafter\n"


@pytest.mark.parametrize(
    "line",
    [
        b"reporter:counter:g,c",
        b"reporter:counter:g,c,",
        b"reporter:counter:g,c,x",
        b"reporter:counter:g,c,1.5",
        b"reporter:counter:g,c,1_000",
        b"reporter:counter:g,c,1,2",
        "reporter:counter:g,c,٣".encode(),
        b"reporter:counter:g,c,--1",
        b"reporter:counter:g,c," + b"9" * 5000,
        b"reporter:counters:g,c,1",
        b"reporter:",
        b"reporter",
        b" reporter:counter:g,c,1",
        b"Reporter:counter:g,c,1",
        b"see reporter:counter:g,c,1",
        b"reporter:status:" + b"x" * MOST_REPORT,
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_malformed_reports_are_ordinary_lines(line: bytes, end: bytes) -> None:
    heard = Heard()
    heard.reports.feed(b"before\n" + line + end)
    heard.reports.finish()
    assert heard.told == [] and heard.log == b"before\n" + line + end


PIECES = [b"reporter:counter:g,c,1\n", b"reporter:status:s\n", b"reporter:counter:g", b",c,1", b"reporter:", b"rep"]
PIECES += [b"x", b"\n", b"\r", b"a line\n"]


@given(st.lists(st.sampled_from(PIECES)))
def test_what_comes_in_pieces_is_what_comes_at_once(pieces: list[bytes]) -> None:
    whole, cut = Heard(), Heard()
    whole.reports.feed(b"".join(pieces))
    for piece in pieces:
        cut.reports.feed(piece)
    for heard in (whole, cut):
        heard.reports.finish()
    assert (whole.told, whole.log) == (cut.told, cut.log)


def test_a_partial_line_is_passed_on_at_once_unless_it_may_become_a_report() -> None:
    heard = Heard()
    for data, log in ((b"50 %", b"50 %"), (b" done", b" done"), (b"\nrep", b"\n"), (b"air", b"repair"), (b"\n", b"\n")):
        heard.log = b""
        heard.reports.feed(data)
        assert heard.log == log
    heard.log = b""
    heard.reports.feed(b"reporter:counter:g,")
    assert heard.log == b"" and heard.told == []
    heard.reports.feed(b"c,1\n")
    assert heard.log == b"" and heard.told == [("g: c", 1)]


def test_a_report_without_end_is_not_gathered() -> None:
    heard = Heard()
    for _ in range(1000):
        heard.reports.feed(b"reporter:status:" + b"x" * 1000)
        assert len(heard.reports._held) <= MOST_REPORT
    assert len(heard.log) == 1016 * 1000


def test_a_flood_does_not_hold_the_program_up(programs: Programs, capfd: pytest.CaptureFixture[str]) -> None:
    found = programs.run("tee", "/dev/stderr", lines=[b"a line of input\n" * 4000] * 100)
    assert len(found) == len(capfd.readouterr().err) == 16 * 4000 * 100


def test_a_log_that_nobody_reads_is_no_failure(programs: Programs) -> None:
    ends, kept = os.pipe(), os.dup(2)
    os.close(ends[0])
    os.dup2(ends[1], 2)
    try:
        found = programs.shell("echo lost >&2; echo out")
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(ends[1])
    assert found == b"out\n"
