"""What a runner says of an attempt on its way to the master: how far it is, what it set aside, why it failed.

Owns the bounds: words of progress come seldom, what is set aside is kept up to a size, and a failure's details fit into
one message with the rest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

PROGRESS_PAUSE = 0.2  # seconds between two words of an attempt's progress
MOST_ASIDE = 1 << 20  # bytes kept of the records that a task set aside
MOST_DETAILS = 8000  # bytes of a failure's details; they travel in one message with the rest


class Progress:
    """An attempt's words, passed on at most every PROGRESS_PAUSE. `tell` takes bytes of input and what the user's code
    said, "" for nothing new; `read` knows how many bytes were read, 0 where the runner alone knows."""

    def __init__(self, tell: Callable[[int, str], None], read: Callable[[], int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.tell, self.read = tell, read
        self.bytes, self.said = 0, ""
        self.told, self.later = 0.0, False

    def report(self, report: dict[str, Any]) -> None:
        """The runner's word."""
        self.said, self.bytes = report["status"] or self.said, self.read() or report["bytes"]
        if self.loop.time() - self.told >= PROGRESS_PAUSE:
            self._tell()
        elif self.said and not self.later:  # long work may follow, in which the runner tells nothing
            self.later = True
            self.loop.call_later(PROGRESS_PAUSE, self._tell)

    def _tell(self) -> None:
        self.tell(self.bytes, self.said)
        self.told, self.said, self.later = self.loop.time(), "", False


class Aside:
    """The records that a task set aside, a line of JSON each, up to MOST_ASIDE bytes."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.lines = bytearray()
        self.left_out = 0

    def add(self, record: dict[str, Any]) -> None:
        """One more."""
        line = json.dumps({"task": self.task, **record}).encode() + b"\n"
        if self.left_out or len(self.lines) + len(line) > MOST_ASIDE:
            self.left_out += 1
        else:
            self.lines += line

    def taken(self) -> bytes:
        """All of them, and how many there was no room for."""
        if not self.left_out:
            return bytes(self.lines)
        more = {"task": self.task, "left_out": self.left_out, "error": f"more than {MOST_ASIDE} bytes of them"}
        return bytes(self.lines) + json.dumps(more).encode() + b"\n"


def message(details: Mapping[str, Any]) -> str:
    """A failure in a line."""
    return f"{details.get('type', 'error')}: {details.get('message', '')}"[:1000]


def fitting(details: Mapping[str, Any]) -> dict[str, Any]:
    """A failure's details cut so that they fit into a message, measured as they travel: the end of a
    traceback and of what was printed says most."""
    cut: dict[str, Any] = {}
    room = MOST_DETAILS
    for name, most in (("input", 500), ("record", 1200), ("traceback", 4500), ("output", 4000)):
        text = str(details.get(name) or "")
        if text:
            cut[name] = _ending(text, min(most, room))
            room -= len(json.dumps(cut[name]))
    if isinstance(details.get("offset"), int):
        cut["offset"] = details["offset"]
    return cut


def _ending(text: str, most: int) -> str:
    """The end of a text of which the JSON has at most so many bytes."""
    if len(json.dumps(text)) <= most:
        return text
    kept = text[-most:]
    while len(json.dumps(kept)) + 4 > most and kept:
        kept = kept[len(kept) // 8 + 1 :]
    return "... " + kept
