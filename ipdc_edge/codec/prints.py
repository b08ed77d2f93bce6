"""A line of the stream of what a node's runners print, as who follows it reads it; daemon/prints.py writes it.

Owns its bounds: it comes from another node, and holds what anybody's program printed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..core.values import Attempt
from .messages import load

MOST_TEXT = 4 << 10  # bytes of prints in one line of the stream
MOST_LINE = 8 * MOST_TEXT + 1024  # bytes of a line: JSON has up to six for one
MOST_COUNT = 1 << 50  # of bytes


class BadPrint(ValueError):
    """A line that is none of these."""


class Piece(NamedTuple):
    """`size` bytes of what an attempt at a task prints, from byte `at` on."""

    task: str
    attempt: Attempt
    at: int
    size: int
    text: str


class Lost(NamedTuple):
    """So many bytes came faster than they were read."""

    size: int


def encode(value: Piece | Lost) -> bytes:
    """A line, with its end."""
    told: dict[str, object] = {"lost": value.size} if isinstance(value, Lost) else value._asdict()
    return json.dumps(told).encode() + b"\n"


def parse(line: bytes) -> Piece | Lost | None:
    """None for a sign of life, which has nothing in it. BadPrint."""
    if not line.strip():
        return None
    try:
        value: Any = load(line[:MOST_LINE])
    except ValueError as error:
        raise BadPrint("no JSON") from error
    if not isinstance(value, dict):
        raise BadPrint("no object")
    if "lost" in value:
        return Lost(_count(value["lost"]))
    task, attempt, text = value.get("task"), value.get("attempt"), value.get("text")
    if not isinstance(task, str) or len(task) > 64 or not isinstance(text, str) or len(text) > MOST_TEXT:
        raise BadPrint("no task, or no text")
    if not isinstance(attempt, list) or len(attempt) != 2:
        raise BadPrint("no attempt")
    size = _count(value.get("size"))
    if not 0 < size <= MOST_TEXT:
        raise BadPrint("a size that no line has")
    text = text.encode("utf-8", "replace").decode()  # half of a pair of surrogates is no character
    return Piece(task, Attempt(*map(_count, attempt)), _count(value.get("at")), size, text)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < MOST_COUNT:
        raise BadPrint("a count that is none")
    return value
