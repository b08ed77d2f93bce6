"""What the daemon believes of a runner's answers: DONE, FAILED and PROGRESS, checked field by field.

Owns the bounds of these answers and the errors that they become. Never talks to the child. Imported by the
daemon, not by the child: the user's code can write on the runner's socket, so nothing of it is taken on
trust.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ipdc_edge.codec import frames
from ipdc_edge.codec.messages import CONTROL
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from typing import Any

MOST_COUNTERS = 30  # with short names: they travel in one message with the rest
MOST_USER_COUNTERS = 50
MOST_NAME = 80  # characters of a counter's name
MOST_COUNTER_BYTES, MOST_USER_COUNTER_BYTES = 3 << 10, 11 << 10  # of all of them, as they travel in one message
MOST_STATUS = 100  # characters of what a task says of itself
_ASIDE = {"where": 100, "input": 1000, "record": 1000, "error": 1000}
_TEXTS = {"where": 100, "type": 200, "message": 4096, "traceback": 32 * 1024, "input": 4096, "record": 4096}


class TaskFailed(IpdcError):
    """the user's code failed in {where}: {type}: {message}"""  # details: all fields of a FAILED frame


class RunnerBroken(IpdcError):
    """the runner's process broke the protocol and was killed: {reason}"""


def parse_count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise RunnerBroken(reason="a count that is none")
    return value


def parse_progress(payload: bytearray) -> dict[str, Any]:
    """{"records", "bytes", "status"}."""
    fields = frames.parse_json(payload)
    status = fields.get("status")
    return {
        "records": parse_count(fields.get("records")),
        "bytes": parse_count(fields.get("bytes")),
        "status": status[:MOST_STATUS] if isinstance(status, str) else "",
    }


def parse_aside(payload: bytearray) -> dict[str, Any]:
    """A record that was set aside: {"where", "input", "offset", "record", "error"}, those that are known."""
    fields = frames.parse_json(payload)
    return {**_texts(fields, _ASIDE), "offset": _offset(fields)}


def _texts(fields: dict[str, object], lengths: dict[str, int]) -> dict[str, str | None]:
    texts = ((name, fields.get(name), length) for name, length in lengths.items())
    return {name: value[:length] if isinstance(value, str) else None for name, value, length in texts}


def _offset(fields: dict[str, object]) -> int | None:
    offset = fields.get("offset")
    return offset if type(offset) is int and 0 <= offset < 1 << 63 else None


def parse_failed(payload: bytearray) -> TaskFailed:
    """The details of a FAILED frame, each of its type and within its length."""
    fields = frames.parse_json(payload)
    details: dict[str, object] = {**_texts(fields, _TEXTS)}
    for name in ("where", "type", "message", "traceback"):
        details[name] = details[name] or ""
    details["offset"] = _offset(fields)
    return TaskFailed(**details)


def parse_done(fields: dict[str, object], outputs: int) -> dict[str, Any]:
    streams = fields.get("streams")
    if not isinstance(streams, list) or len(streams) != outputs or not all(isinstance(s, dict) for s in streams):
        raise RunnerBroken(reason="DONE without its streams")
    return {
        "counters": _counters(fields.get("counters"), MOST_COUNTERS, MOST_COUNTER_BYTES),
        "user_counters": _counters(fields.get("user_counters", {}), MOST_USER_COUNTERS, MOST_USER_COUNTER_BYTES),
        "streams": [{"records": parse_count(s.get("records")), "bytes": parse_count(s.get("bytes"))} for s in streams],
    }


def _counters(found: object, most: int, most_bytes: int) -> dict[str, int]:
    """Counters of the user's may be negative."""
    if not isinstance(found, dict) or len(found) > most:
        raise RunnerBroken(reason="DONE without counters, or with too many")
    for value in found.values():
        if type(value) is not int or not -1 << 63 < value < 1 << 63:
            raise RunnerBroken(reason="a counter that counts nothing")
    counters = {re.sub(f"[{CONTROL}]", "?", str(name))[:MOST_NAME]: value for name, value in found.items()}
    if len(json.dumps(counters, ensure_ascii=False).encode()) > most_bytes:
        raise RunnerBroken(reason=f"counters that take more than {most_bytes} bytes")
    return counters
