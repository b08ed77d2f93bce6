"""Results as bytes, in chunks as the store wants them.

    text    one line a pair, key TAB value LF. str stands as it is (surrogate escapes become the bytes they were; a
            tab or newline within is the user's own affair), other types as JSON
    json    one line a pair, the JSON array [key, value]; bytes as DAG-JSON, tuples as arrays, surrogate escapes
            (which no UTF-8 has) as \\udcXX
    raw     the values only, str and bytes as they are, nothing between them

Owns these forms. Never sorts. What a command prints as a job's last step is written as it is.
"""

from __future__ import annotations

from itertools import islice

from ipdc_edge.apps.mapreduce.mapper import NoPair
from ipdc_edge.codec.keys import ValueNotCarried
from ipdc_edge.codec.records import json_text, value_text

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1024 * 1024  # the leaf size of unixfs-v1-2025: every block but the last is exactly this long
_FIRST_BATCH, _MOST_BATCH = 16, 1024  # pairs
_BATCH_BYTES = 256 * 1024


class ResultWriter:
    """Writes pairs; `emit` gets chunks of exactly `chunk` bytes, the last one shorter, none when empty."""

    def __init__(self, emit: Callable[[bytes], None], form: str = "text", chunk: int = CHUNK) -> None:
        if form not in ("text", "json", "raw"):
            raise ValueError(f"no output format {form!r}")
        self._emit = emit
        self._form = form
        self._chunk = chunk
        self._buffer = bytearray()
        self.records = 0
        self.bytes = 0

    def write(self, pairs: Iterator[tuple[object, object]]) -> None:
        """All pairs of an iterator. ValueNotCarried for what the form has no place for; the user's own errors."""
        size = _FIRST_BATCH
        form = {"text": _text_lines, "json": _json_lines, "raw": _raw_pieces}[self._form]
        while True:
            try:
                count, data = form(pairs, size)
            except (TypeError, ValueError) as error:
                here = error.__traceback__.tb_next if error.__traceback__ else None
                if "unpack" not in str(error) or here is None or here.tb_next is not None:
                    raise  # the user's own, or what a pair has in it
                raise NoPair(thing=f"something else ({error})") from None
            if not count:
                return
            self.records += count
            size = max(1, min(_MOST_BATCH, size * 2, _BATCH_BYTES * count // max(1, len(data))))
            self._add(data)

    def write_lines(self, chunks: Iterator[bytes]) -> None:
        """Whole lines, as they are."""
        for chunk in chunks:
            self.records += chunk.count(b"\n")
            self._add(chunk)

    def check(self, key: object, value: object) -> None:
        """ValueNotCarried when `write` would refuse this pair."""
        {"text": _text_lines, "json": _json_lines, "raw": _raw_pieces}[self._form](iter(((key, value),)), 1)

    def _add(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._chunk:
            self._send(self._chunk)

    def finish(self) -> None:
        """The rest."""
        if self._buffer:
            self._send(len(self._buffer))

    def _send(self, length: int) -> None:
        block = bytes(self._buffer[:length])
        del self._buffer[:length]
        self.bytes += length
        self._emit(block)


def _text_lines(pairs: Iterator[tuple[object, object]], size: int) -> tuple[int, bytes]:
    """(how many pairs, their lines) for the next pairs, at most `size` of them."""
    lines, gathered = [], 0
    for key, value in islice(pairs, size):
        if type(key) is str and (type(value) is int or type(value) is str):
            lines.append(f"{key}\t{value}\n")
        else:
            lines.append(f"{_text(key, key)}\t{_text(value, key)}\n")
        gathered += len(lines[-1])
        if gathered > _BATCH_BYTES:
            break
    return len(lines), _encoded("".join(lines))


def _json_lines(pairs: Iterator[tuple[object, object]], size: int) -> tuple[int, bytes]:
    lines, gathered = [], 0
    for key, value in islice(pairs, size):
        lines.append(f"[{json_text((key, value), key)}]\n")
        gathered += len(lines[-1])
        if gathered > _BATCH_BYTES:
            break
    return len(lines), "".join(lines).encode("utf-8")


def _raw_pieces(pairs: Iterator[tuple[object, object]], size: int) -> tuple[int, bytes]:
    pieces: list[object] = []
    gathered, only_text = 0, True
    for key, value in islice(pairs, size):
        if type(value) is not str:
            if not isinstance(value, (str, bytes, bytearray)):
                reason = "with the output format raw values are str or bytes; text and json write others"
                kind = type(value).__name__
                raise ValueNotCarried(role="a result", type=kind, where=f" (key {ascii(key)[:200]})", reason=reason)
            only_text = False
        pieces.append(value)
        gathered += len(value)
        if gathered > _BATCH_BYTES:
            break
    if only_text:  # encoded at once
        return len(pieces), _encoded("".join(pieces))  # type: ignore[arg-type]
    data = [_encoded(piece) if isinstance(piece, str) else piece for piece in pieces]
    return len(pieces), b"".join(data)  # type: ignore[arg-type]


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        bad = ascii(error.object[max(0, error.start - 40) : error.end])
        reason = "it holds a lone surrogate, which has no place in UTF-8"
        raise ValueNotCarried(role="a result", type="str", where=f" ({bad})", reason=reason) from None


def _text(thing: object, key: object) -> str:
    return str(thing) if isinstance(thing, str) else value_text(thing, key)
