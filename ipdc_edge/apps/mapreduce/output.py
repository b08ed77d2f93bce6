"""Results as text: one line a pair, key TAB value LF, in chunks as the store wants them.

Owns the text form of results. Never sorts. str stands as it is (surrogate escapes become the bytes they were;
a tab or newline within is the user's own affair), other types as JSON.
"""

from __future__ import annotations

from itertools import islice

from ipdc_edge.codec.records import ValueNotCarried, value_text

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1024 * 1024  # the leaf size of unixfs-v1-2025: every block but the last is exactly this long
_FIRST_BATCH, _MOST_BATCH = 16, 1024  # pairs
_BATCH_BYTES = 256 * 1024


class TextWriter:
    """Writes pairs as lines; `emit` gets chunks of exactly `chunk` bytes, the last one shorter, none when empty."""

    def __init__(self, emit: Callable[[bytes], None], chunk: int = CHUNK) -> None:
        self._emit = emit
        self._chunk = chunk
        self._buffer = bytearray()
        self.records = 0
        self.bytes = 0

    def write(self, pairs: Iterator[tuple[object, object]]) -> None:
        """All pairs of an iterator. ValueNotCarried for what is neither text nor JSON; the user's own errors."""
        size = _FIRST_BATCH
        while True:
            lines, gathered = [], 0
            for key, value in islice(pairs, size):
                if type(key) is str and (type(value) is int or type(value) is str):
                    lines.append(f"{key}\t{value}\n")
                else:
                    lines.append(f"{_text(key, key)}\t{_text(value, key)}\n")
                gathered += len(lines[-1])
                if gathered > _BATCH_BYTES:
                    break
            if not lines:
                return
            data = self._encoded(lines)
            self.records += len(lines)
            size = max(1, min(_MOST_BATCH, size * 2, _BATCH_BYTES * len(lines) // len(data)))
            self._buffer += data
            while len(self._buffer) >= self._chunk:
                self._send(self._chunk)

    def finish(self) -> None:
        """The rest."""
        if self._buffer:
            self._send(len(self._buffer))

    def _encoded(self, lines: list[str]) -> bytes:
        try:
            return "".join(lines).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            bad = ascii(error.object[max(0, error.start - 40) : error.end])
            reason = "it holds a lone surrogate, which has no place in UTF-8"
            raise ValueNotCarried(role="a result", type="str", where=f" ({bad})", reason=reason) from None

    def _send(self, length: int) -> None:
        block = bytes(self._buffer[:length])
        del self._buffer[:length]
        self.bytes += length
        self._emit(block)


def _text(thing: object, key: object) -> str:
    return str(thing) if isinstance(thing, str) else value_text(thing, key)
