"""Notes about those who are refused: one line a minute and source, however often somebody tries.

Owns when a line is due. A journal lies on flash, and who is refused decides how often; so the number of sources that
are told apart is bounded too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 60.0  # seconds between two lines about one source
SOURCES = 256  # that are remembered; when so many were noted within a minute, further ones are not


class Refusals:
    """Passes lines to `note`. `now` tells the time, in seconds that never go back."""

    def __init__(self, note: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._note = note
        self._now = now
        self._noted: dict[str, tuple[float, int]] = {}  # source -> when its last line was, and how many were left out

    def tell(self, source: str, line: str) -> None:
        """Notes a line about a source, or counts it for the next one."""
        now = self._now()
        last, left_out = self._noted.get(source, (-PAUSE, 0))
        if now - last < PAUSE:
            self._noted[source] = last, left_out + 1
            return
        if source not in self._noted and len(self._noted) >= SOURCES:
            self._noted = {known: value for known, value in self._noted.items() if now - value[0] < PAUSE}
            if len(self._noted) >= SOURCES:
                return
        self._noted[source] = now, 0
        self._note(f"{line} (and {left_out} times since the last such line)" if left_out else line)
