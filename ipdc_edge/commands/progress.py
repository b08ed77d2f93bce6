"""A job while it runs, for the person who waits: two live lines at a terminal, a line now and then elsewhere, JSON
lines where a program listens.

Owns how fast a job is and how long it may take, both from the bytes that were read, and when to say so. Never asks
the daemon. What is not known is not said.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from ipdc_edge.commands.display import (
    count_of,
    counted,
    cut,
    elapsed,
    plain,
    print_json,
    seconds,
    size,
    task_word,
    tasks,
    working,
)

LINE_PAUSE = 3.0  # seconds between two lines where there is no terminal
DRAW_PAUSE = 0.1  # and between two pictures at one
LOOK_BACK = 15.0  # seconds over which speed is measured
LEAST_LOOK = 2.0  # seconds before it is said
RUNNING_SHOWN = 3
FAILURE_SHOWN = 80  # columns


class Pace:
    """How fast a job reads, from what is seen of it."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # (seconds, bytes read)
        self._left: float | None = None
        self._at = 0.0

    def see(self, job: Mapping[str, Any], now: float) -> None:
        """A picture of the job."""
        seen = self._seen
        done = count_of(job, "bytes_done") + count_of(job, "shuffle_done")
        if seen and done < seen[-1][1]:
            seen.clear()  # a lost worker's bytes are read again
        seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] > LOOK_BACK:
            seen.popleft()

    def speed(self) -> float | None:
        """Bytes a second, or None while too little was seen."""
        if len(self._seen) < 2:
            return None
        (begun, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - begun) if ended - begun >= LEAST_LOOK and last > first else None

    def left(self, job: Mapping[str, Any]) -> float | None:
        """Seconds that maps and reduces may still take, or None where nobody can know: with several steps, until the
        last one runs, and before anything was mapped. What will be shuffled is reckoned from what the maps made so
        far."""
        speed = self.speed()
        total, done = count_of(job, "input_bytes"), count_of(job, "bytes_done")
        stages = [stage for stage in job.get("stages") or () if not stage.get("ended")]
        if speed is None or not total or not done or len(stages) > 2:
            return None
        shuffle = count_of(job, "shuffle_bytes")
        if done < total:
            shuffle = shuffle * total // done
        rest = max(0, total - done) + max(0, shuffle - count_of(job, "shuffle_done"))
        return rest / speed if rest else None


def progress_text(job: Mapping[str, Any], now: float | None = None, pace: Pace | None = None) -> str:
    """A job's progress in one line."""
    return plain("  ".join([*_parts(job, pace), seconds(elapsed(job, now))]))


def detail_text(job: Mapping[str, Any]) -> str:
    """What its tasks say of themselves, or why anything waits, or what failed and is tried again; empty where there is
    nothing to say."""
    said = [f"{task.get('node')}: {task['status']}" for task in job.get("running") or () if task.get("status")]
    if said:
        more = f"; {len(said) - RUNNING_SHOWN} more" if len(said) > RUNNING_SHOWN else ""
        return plain(" ".join(("; ".join(said[:RUNNING_SHOWN]) + more).split()))
    waiting = [str(text) for text in job.get("waiting") or ()]
    failure = job.get("failure")
    if not waiting and isinstance(failure, Mapping) and job.get("state") == "running":
        message = " ".join(str(failure.get("message")).split())
        message = message if len(message) <= FAILURE_SHOWN else f"{cut(message, FAILURE_SHOWN)}..."
        waiting = [f"an attempt at {failure.get('task')} failed on {failure.get('name')}: {message}"]
    return plain(" ".join("; ".join(waiting).split()))


def _parts(job: Mapping[str, Any], pace: Pace | None) -> list[str]:
    parts = [str(job.get("state", "?"))]
    done, total = tasks(job, "maps")
    if total:
        parts.append(f"{task_word(job, 'maps')} {done}/{total}")
    if job.get("input_bytes"):
        parts.append(f"{size(job.get('bytes_done') or 0)} of {size(job['input_bytes'])}")
    if job.get("shuffle_bytes"):
        fetched = f"{size(job['shuffle_done'])} of " if job.get("shuffle_done") else ""
        parts.append(f"shuffle {fetched}{size(job['shuffle_bytes'])}")
    done, total = tasks(job, "reduces")
    if total:
        parts.append(f"reduces {done}/{total}")
    if job.get("bad_records"):
        parts.append(f"{counted(int(job['bad_records']), 'bad record')}")
    count = working(job)
    if count:
        parts.append(counted(count, "node"))
    elif job.get("state") == "queued" and not job.get("waiting"):
        parts.append("no node has accepted yet")
    if pace is not None and job.get("state") == "running":
        speed, left = pace.speed(), pace.left(job)
        if speed is not None:
            parts.append(f"{size(speed)}/s")
        if left is not None:
            parts.append(f"about {seconds(left)} left")
    return parts


class Progress:
    """Shows a job while it runs."""

    def __init__(self, json_lines: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._json = json_lines
        self._terminal = not json_lines and self._stream.isatty()
        self._job: Mapping[str, Any] = {}
        self._pace = Pace()
        self._shown: object = None
        self._state = ""
        self._at = -LINE_PAUSE

    def update(self, job: Mapping[str, Any]) -> None:
        """A new state of the job."""
        self._job = job
        if self._json:
            print_json(job, line=True)
        else:
            self._pace.see(job, time.monotonic())
            self.tick()

    def tick(self) -> None:
        """Time has passed."""
        if self._json or not self._job:
            return
        now, state = time.monotonic(), str(self._job.get("state"))
        pause = DRAW_PAUSE if self._terminal else LINE_PAUSE
        if state == self._state and now - self._at < pause:
            return
        text, detail = progress_text(self._job, pace=self._pace), detail_text(self._job)
        if self._terminal:
            self._draw(text, detail)
        else:
            picture = (_parts(self._job, None), detail)  # without speed and time, which always change
            if picture == self._shown:
                return
            self._stream.write(text + (f"  ({detail})" if detail else "") + "\n")
            self._stream.flush()
            self._shown = picture
        self._state, self._at = state, now

    def line(self, text: str) -> None:
        """Replaces the terminal's lines; nothing elsewhere."""
        if self._terminal:
            self._draw(text, "")

    def follow(
        self, pictures: Iterable[Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str],
    ) -> Mapping[str, Any]:
        """Shows of each a line while they come; the last one."""
        last: Mapping[str, Any] = {}
        try:
            for last in pictures:
                self.line(text(last))
        finally:
            self.end()
        return last

    def _draw(self, text: str, detail: str) -> None:
        """One or two lines, and the cursor back on the first."""
        import shutil

        columns = shutil.get_terminal_size().columns - 1
        if len(text) > columns and "  " in text[: columns + 2]:  # what is too long goes on below, whole words of it
            at = text.rindex("  ", 0, columns + 2)
            text, detail = text[:at], "  ".join(part for part in (text[at + 2 :], detail) if part)
        below = f"\n  {cut(detail, columns - 2)}\x1b[A\r" if detail else ""
        self._stream.write(f"\r{cut(text, columns)}\x1b[J{below}")
        self._stream.flush()
        self._shown = text

    def end(self) -> None:
        """Leaves the terminal's lines clear for what comes."""
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[J")
            self._stream.flush()
            self._shown = None
