"""Fields of what clients ask at the control socket, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..drivers.block_rows import SUBMITTED
from ..errors import BadRequest

SUBMISSION = re.compile(r"[0-9a-f]{16}")  # names content that waits for its job; drawn by the client


def waiting_owner(request: Mapping[str, Any]) -> str:
    """The owner of content that waits for its job."""
    submission = text_of(request, "submission")
    if not SUBMISSION.fullmatch(submission):
        raise BadRequest(reason=f"submission {submission[:40]!r}")
    return SUBMITTED + submission


def text_of(request: Mapping[str, Any], name: str) -> str:
    """A field that is there, and text. BadRequest."""
    value = request.get(name)
    if not isinstance(value, str):
        raise BadRequest(reason=f"no {name}")
    return value
