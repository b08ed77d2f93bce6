"""How jobs, sizes and times look to people.

Owns the wording and layout of what commands print. Never asks the daemon and never decides an exit code. Job
dictionaries may be of a newer daemon: what is missing or unknown is left out.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

WIDTH = 80  # columns that a page of ours takes
FINAL = ("succeeded", "failed", "cancelled")
LAST_FAILURE = "the last attempt that failed, others do its task again:"
OWN_KINDS = ("user", "runner", "fetch", "node", "hopeless")  # of failures, among nodes: no words for people
# What moves a cursor, hides text or turns its direction at the reader's terminal, and what no terminal can be given.
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """What others said, harmless to a terminal: what would act on it is shown as an escape."""
    return ACTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: object, line: bool = False) -> None:
    """One JSON value: indented for a look at it, or on one line where more follow."""
    print(plain(json.dumps(value, ensure_ascii=False, indent=None if line else 2)), flush=line)


def size(count: object) -> str:
    """Bytes as people say them: 512 B, 1.5 MB (powers of 1024, as settings are)."""
    if not isinstance(count, int | float):
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def seconds(count: float) -> str:
    """A duration: 12.3 s, 2:05, 1:02:05."""
    if count < 60:
        return f"{count:.1f} s"
    minutes, rest = divmod(int(count), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(value: object) -> datetime | None:
    """A time of a job: ISO text or seconds since the epoch; None for "not yet"."""
    try:
        if isinstance(value, int | float) and value > 0:
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and value:
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def clock(value: object) -> str:
    """A time of a job in the reader's own zone; "-" for "not yet"."""
    found = moment(value)
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S") if found else "-"


def elapsed(job: Mapping[str, Any], now: float | None = None) -> float:
    """Seconds from a job's submission to its end, or until now."""
    begun, ended = moment(job.get("submitted")), moment(job.get("ended"))
    if begun is None:
        return 0.0
    end = ended.timestamp() if ended else time.time() if now is None else now
    return max(0.0, end - begun.timestamp())


def program() -> str:
    """How to call this program from the reader's shell: by its name where it is installed, else out of the
    checkout."""
    import os
    import shlex
    import shutil

    import ipdc_edge

    if shutil.which("ipdc-edge"):
        return "ipdc-edge"
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(ipdc_edge.__file__)))
    return f"PYTHONPATH={shlex.quote(checkout)} {shlex.quote(sys.executable)} -m ipdc_edge"


def cut(text: str, columns: int) -> str:
    """As much of a line as fits, when wide characters take two columns and combining ones none."""
    import unicodedata

    taken = 0
    for number, character in enumerate(text):
        if not unicodedata.combining(character):
            taken += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if taken > columns:
            return text[:number]
    return text


def counted(count: int, word: str) -> str:
    """A number and its word: 1 node, 3 nodes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def table(rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns; the first row is the heading, `right` the columns that are numbers."""
    text = [["-" if cell is None else plain(" ".join(str(cell).split())) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in text) for column in range(len(text[0]))]
    lines = []
    for row in text:
        cells = [cell.rjust(width) if column in right else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def tasks(job: Mapping[str, Any], stage: str) -> tuple[int, int]:
    """(done, total) of "maps" or "reduces"."""
    found = job.get(stage)
    if not isinstance(found, Mapping):
        return 0, 0
    return int(found.get("done") or 0), int(found.get("total") or 0)


def task_word(job: Mapping[str, Any], stage: str) -> str:
    """What people call the tasks of "maps" or "reduces": another architecture has neither."""
    return stage if job.get("app") in (None, "mapreduce") else "tasks"


def count_of(job: Mapping[str, Any], name: str) -> int:
    """A number of a job; 0 where it has none."""
    value = job.get(name)
    return int(value) if isinstance(value, int | float) else 0


def counter_lines(job: Mapping[str, Any]) -> list[str]:
    """The user's counters, a line each, numbers below each other."""
    counters = job.get("counters")
    if not isinstance(counters, Mapping) or not counters:
        return []
    width = max(len(str(value)) for value in counters.values())
    return [f"{value:>{width}}  {plain(' '.join(str(name).split()))}" for name, value in counters.items()]


def bad_records_text(job: Mapping[str, Any]) -> str:
    """How many records were set aside, and where they lie; empty where there are none."""
    bad = count_of(job, "bad_records")
    if not bad:
        return ""
    return f"{counted(bad, 'record')} set aside in {job.get('directory') or '.'}/bad-records"


def column(title: str, entries: Sequence[str]) -> list[str]:
    """Lines under one title, which stands beside the first. What is too long goes on, indented, in the next; a path
    or a word is never broken."""
    import textwrap

    lines: list[str] = []
    for entry in entries:
        lines += textwrap.wrap(entry, WIDTH - 11, subsequent_indent="  ", break_long_words=False,
                               break_on_hyphens=False) or [""]
    return [f"{title if number == 0 else '':10} {line}" for number, line in enumerate(lines)]


def working(job: Mapping[str, Any]) -> int:
    """How many nodes take part now."""
    return sum(node.get("state") == "working" for node in job.get("nodes") or ())


def error_text(job: Mapping[str, Any]) -> str:
    """Why a job failed, in a line: its error is text, or an IpdcError as a dictionary."""
    error = job.get("error")
    if isinstance(error, Mapping):
        error = error.get("message")
    return str(error or "the daemon gave no reason")


def failure_text(job: Mapping[str, Any]) -> str:
    """What the user's code did wrong: where, with which record, and its traceback; empty where it did nothing. What
    the job's error says already is not said again."""
    failure = job.get("failure")
    if not isinstance(failure, Mapping):
        return ""
    kind, message = failure.get("type"), failure.get("message")
    said = [str(part) for part in (None if kind in OWN_KINDS else kind, message) if part]
    lines = [] if message and str(message) in error_text(job) else [": ".join(said) or "error"]
    node = failure.get("name") or failure.get("node")
    named = (("task", failure.get("task")), ("node", node))
    lines += [f"  {label:7} {value}" for label, value in named if value]
    if failure.get("input"):
        at = f", byte {failure['offset']}" if failure.get("offset") is not None else ""
        lines.append(f"  input   {failure['input']}{at}")
    if failure.get("record") is not None:
        lines.append(f"  record  {str(failure['record'])[:500]!r}")
    if failure.get("traceback"):
        lines += ["", str(failure["traceback"]).rstrip()]
    return "\n".join(lines)
