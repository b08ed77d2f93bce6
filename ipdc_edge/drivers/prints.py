"""What the user's code prints: kept within bounds, whatever it is.

Owns the first and the last bytes of a stream of prints. Never reads from anything; the runner's driver does.
"""

from __future__ import annotations

OUTPUT_KEPT = 32 * 1024  # bytes of prints, of the first and of the last


class Output:
    """The first and the last bytes of what the user's code prints; what was between is counted."""

    def __init__(self, keep: int = OUTPUT_KEPT) -> None:
        self._keep = keep
        self._first = bytearray()
        self._last = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """Some more."""
        room = self._keep - len(self._first)
        if room > 0:
            self._first += data[:room]
            data = data[room:]
        self._last += data
        surplus = len(self._last) - self._keep
        if surplus > 0:
            self._left_out += surplus
            del self._last[:surplus]

    def pieces(self) -> list[tuple[int, bytes]]:
        """What is kept, each piece with its place in the stream."""
        if not self._left_out:
            return [(0, bytes(self._first + self._last))]
        return [(0, bytes(self._first)), (len(self._first) + self._left_out, bytes(self._last))]

    def text(self) -> bytes:
        """All of it, with a line that says how much is missing."""
        if not self._left_out:
            return bytes(self._first + self._last)
        return bytes(self._first) + b"\n... %d bytes left out ...\n" % self._left_out + bytes(self._last)
