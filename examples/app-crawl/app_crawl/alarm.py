"""An end to what takes too long, whatever it does: a server that sends a byte a minute, a page that parsers choke on.

Owns the process's alarm clock (SIGALRM). In the main thread only, where a runner works.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterator


class TookTooLong(Exception):
    """Time is up. Not an OSError: libraries would take it for one of their own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """TookTooLong in what stands inside when it lasts longer. In the main thread, where a runner works."""

    def ring(number: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again each second, should a library swallow it
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
