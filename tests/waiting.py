"""Waiting in tests: for a condition, bounded, and with words for what did not come.

The only place where tests let time pass. What a test waits for is a condition that becomes true and stays so;
that something does not happen is shown by something else that happens after it. Never a wait of a fixed
length: `seconds` bounds only how long a failure takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

PAUSE = 0.02  # seconds between two looks


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """What the condition gives once it is true; AssertionError that names `what` when it stays false."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() >= end  # asked before the condition: a machine that stalls gets one more look
        if found := condition():
            return found
        if last:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(PAUSE)


async def eventually_async(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """`eventually` for a condition that becomes true while the event loop runs."""
    end = time.monotonic() + seconds
    while True:
        last = time.monotonic() >= end
        if found := condition():
            return found
        if last:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(PAUSE)
