"""What the daemon believes of a runner's answers: DONE, FAILED and PROGRESS, checked field by field.

Owns the bounds of these answers and the errors that they become. Never talks to the child. Imported by the
daemon, not by the child: the user's code can write on the runner's socket, so nothing of it is taken on
trust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipdc_edge.codec import frames
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from typing import Any

MOST_COUNTERS = 30  # with short names: they travel in one message with the rest
_TEXTS = {"where": 100, "type": 200, "message": 4096, "traceback": 32 * 1024, "input": 4096, "record": 4096}


class TaskFailed(IpdcError):
    """the user's code failed in {where}: {type}: {message}"""  # details: all fields of a FAILED frame


class RunnerBroken(IpdcError):
    """the runner's process broke the protocol and was killed: {reason}"""


def parse_count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise RunnerBroken(reason="a count that is none")
    return value


def parse_failed(payload: bytearray) -> TaskFailed:
    """The details of a FAILED frame, each of its type and within its length."""
    fields = frames.parse_json(payload)
    details: dict[str, object] = {}
    for name, length in _TEXTS.items():
        value = fields.get(name)
        details[name] = value[:length] if isinstance(value, str) else None
    for name in ("where", "type", "message", "traceback"):
        details[name] = details[name] or ""
    offset = fields.get("offset")
    details["offset"] = offset if type(offset) is int and 0 <= offset < 1 << 63 else None
    return TaskFailed(**details)


def parse_done(fields: dict[str, object], outputs: int) -> dict[str, Any]:
    counters, streams = fields.get("counters"), fields.get("streams")
    if not isinstance(counters, dict) or len(counters) > MOST_COUNTERS:
        raise RunnerBroken(reason="DONE without counters, or with too many")
    if not isinstance(streams, list) or len(streams) != outputs or not all(isinstance(s, dict) for s in streams):
        raise RunnerBroken(reason="DONE without its streams")
    return {
        "counters": {str(name)[:60]: parse_count(value) for name, value in counters.items()},
        "streams": [{"records": parse_count(s.get("records")), "bytes": parse_count(s.get("bytes"))} for s in streams],
    }
