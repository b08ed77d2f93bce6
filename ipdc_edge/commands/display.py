"""How jobs, sizes and times look to people.

Owns the wording and layout of what commands print. Never asks the daemon and never decides an exit code. Job
dictionaries may be of a newer daemon: what is missing or unknown is left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

FINAL = ("succeeded", "failed", "cancelled")
LINE_PAUSE = 2.0  # seconds between two progress lines where there is no terminal


def print_json(value: object, line: bool = False) -> None:
    """One JSON value: indented for a look at it, or on one line where more follow."""
    print(json.dumps(value, ensure_ascii=False, indent=None if line else 2), flush=line)


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


def counted(count: int, word: str) -> str:
    """A number and its word: 1 node, 3 nodes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def table(rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Rows as aligned columns; the first row is the heading, `right` the columns that are numbers."""
    text = [["-" if cell is None else str(cell) for cell in row] for row in rows]
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


def working(job: Mapping[str, Any]) -> int:
    """How many nodes take part now."""
    return sum(node.get("state") == "working" for node in job.get("nodes") or ())


def progress_text(job: Mapping[str, Any], now: float | None = None) -> str:
    """A job's progress in one line."""
    parts = [str(job.get("state", "?"))]
    for stage in ("maps", "reduces"):
        done, total = tasks(job, stage)
        if total:
            parts.append(f"{stage} {done}/{total}")
    if job.get("input_bytes"):
        parts.append(f"{size(job.get('bytes_done') or 0)} of {size(job['input_bytes'])}")
    count = working(job)
    if count:
        parts.append(counted(count, "node"))
    elif job.get("state") == "queued":
        parts.append("no node has accepted yet")
    parts.append(seconds(elapsed(job, now)))
    return "  ".join(parts)


def error_text(job: Mapping[str, Any]) -> str:
    """Why a job failed, in a line: its error is text, or an IpdcError as a dictionary."""
    error = job.get("error")
    if isinstance(error, Mapping):
        error = error.get("message")
    return str(error or "the daemon gave no reason")


def failure_text(job: Mapping[str, Any]) -> str:
    """What the user's code did wrong: where, with which record, and its traceback; empty where it did nothing."""
    failure = job.get("failure")
    if not isinstance(failure, Mapping):
        return ""
    kind = failure.get("type")
    said = [str(part) for part in (kind if kind != "user" else None, failure.get("message")) if part]
    lines = [": ".join(said) or "error"]
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


class Progress:
    """Shows a job while it runs: one line that changes at a terminal, a line now and then elsewhere, JSON lines."""

    def __init__(self, json_lines: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._json = json_lines
        self._terminal = not json_lines and self._stream.isatty()
        self._job: Mapping[str, Any] = {}
        self._shown = ""
        self._state = ""
        self._at = 0.0

    def update(self, job: Mapping[str, Any]) -> None:
        """A new state of the job."""
        self._job = job
        if self._json:
            print_json(job, line=True)
        else:
            self.tick()

    def tick(self) -> None:
        """Time has passed."""
        if self._json or not self._job:
            return
        if self._terminal:
            self.line(progress_text(self._job))
            return
        now = time.monotonic()
        state = str(self._job.get("state"))
        text = progress_text(self._job)
        if state != self._state or (now - self._at >= LINE_PAUSE and text != self._shown):
            self._stream.write(text + "\n")
            self._stream.flush()
            self._shown, self._state, self._at = text, state, now

    def line(self, text: str) -> None:
        """Replaces the terminal's line; nothing elsewhere."""
        if self._terminal:
            import shutil

            self._stream.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
            self._stream.flush()
            self._shown = text

    def end(self) -> None:
        """Leaves the terminal's line clear for what comes."""
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = ""
