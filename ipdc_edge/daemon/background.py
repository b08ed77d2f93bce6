"""Work that goes on beside the loop's events: kept alive until it ends, and never silent about a bug.

Owns the references to running tasks (asyncio keeps none) and the report of what went wrong in them. Knows
nothing of what they do.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


class Background:
    """A group of tasks that end by themselves, or when the group is closed."""

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin it. An exception that it lets out is a bug: its traceback goes to the journal, the daemon goes on."""
        task = asyncio.create_task(work)
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            report_bug(error)

    async def close(self) -> None:
        """Cancel all and wait until they have ended."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def note(text: str) -> None:
    """A line for the journal. Where that is a file on a full disk the daemon still goes on."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def report_bug(error: BaseException) -> None:
    """A traceback for the journal, if it takes one."""
    with suppress(OSError):
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
