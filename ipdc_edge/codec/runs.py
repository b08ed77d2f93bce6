"""Runs: sorted record lines, compressed, cut into blocks; and the manifest that lists a map's runs.

Owns the form of intermediate data on disk and on the wire. Never sorts, stores or fetches. A run is one zlib
stream (level 1: on small boards higher levels cost more time than the bytes they save) of record lines, each
with its LF, cut into blocks of at most 32 KiB wherever they are full. An empty run has no blocks. A manifest
is what a map hands over, one run for each partition:

    {"version": 1, "runs": [{"blocks": [CID, ...], "bytes": compressed bytes, "records": lines}, ...]}
"""

from __future__ import annotations

import json
import zlib

from ipdc_edge.codec.records import MAX_LINE

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    class RunEntry(TypedDict):
        """One partition's run in a manifest."""

        blocks: list[str]
        bytes: int
        records: int


MAX_BLOCK = 32 * 1024  # bytes of a run's block; a merge holds one of each of its runs
MAX_RUNS = 10_000  # in one manifest: the partitions of a job
MAX_MANIFEST = 2 * 1024 * 1024  # bytes
MAX_CID = 128  # characters
WINDOW_BITS = 13  # a merge has up to 48 runs open: 8 KiB of window each, not 32; with 4 zlib takes a fifth more time
OPEN_RUN = MAX_BLOCK + 20 * 1024  # bytes of memory of an open run beside its text: a block, and zlib's state
LEAST_PIECE = 4 * 1024  # bytes of a block decompressed in one go,
PIECE_SHARE = 4  # or that part of the text that may be held: lines are seldom compressed better
TEXT_TARGET = 64 * 1024  # bytes of text compressed in one go


class BadRun(ValueError):
    """A run or a manifest that is not what its description says: a peer's fault, never the user's code."""


class RunWriter:
    """Takes sorted lines (one-byte text) and hands full blocks to `emit`; O(one block) memory."""

    def __init__(self, emit: Callable[[bytes], None], block: int = MAX_BLOCK) -> None:
        self._emit = emit
        self._block = block
        self._zlib = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS)
        self._ready = bytearray()
        self.records = 0
        self.bytes = 0
        self.text_bytes = 0

    def feed(self, lines: list[str]) -> None:
        """The next lines, sorted, without their LF; a few thousand at most, for they are joined."""
        if not lines:
            return
        lines.append("")
        data = "\n".join(lines).encode("latin-1")
        lines.pop()
        self.records += len(lines)
        self.text_bytes += len(data)
        self._add(self._zlib.compress(data))

    def feed_all(self, lines: list[str], step: int = 2048) -> None:
        """Any number of lines."""
        for start in range(0, len(lines), step):
            self.feed(lines[start : start + step])

    def finish(self) -> None:
        """The last, shorter block. A run without records emits nothing."""
        if self.records:
            self._add(self._zlib.flush())
            if self._ready:
                self._send(len(self._ready))

    def _add(self, data: bytes) -> None:
        self._ready += data
        while len(self._ready) >= self._block:
            self._send(self._block)

    def _send(self, length: int) -> None:
        block = bytes(self._ready[:length])
        del self._ready[:length]
        self.bytes += length
        self._emit(block)


class RunReader:
    """Pulls a run's blocks through `read` (empty or None: the end) and gives its lines, a few at a time.

    Bounded whatever the blocks hold: at most `text` bytes are decompressed at a time, plus one unfinished
    line of at most MAX_LINE. BadRun for a stream that is cut, damaged, not sorted, or goes on after its end.
    """

    def __init__(
        self, read: Callable[[], bytes | bytearray | None], text: int = TEXT_TARGET, origin: str = ""
    ) -> None:
        """origin: whose run it is, for the error."""
        self._read = read
        self._text = text
        self._piece = max(LEAST_PIECE, text // PIECE_SHARE)
        self._origin = origin
        self._zlib = zlib.decompressobj(WINDOW_BITS)
        self._block: bytes | bytearray = b""
        self._at = 0  # how much of it is used up
        self._began = self._ended = False
        self._tail = ""
        self._last = ""

    def lines(self) -> list[str]:
        """The next lines without their LF, sorted; empty at the end of the run."""
        try:
            return self._lines()
        except BadRun as error:
            raise BadRun(f"from {self._origin}: {error}" if self._origin else str(error)) from None

    def _lines(self) -> list[str]:
        while not self._ended:
            text = self._decompress()
            if text is None:
                self._ended = True
                if self._tail:
                    raise BadRun("a run that ends within a line")
                break
            cut = text.rfind("\n")
            if cut < 0:
                self._tail += text
                if len(self._tail) > MAX_LINE:
                    raise BadRun(f"a line of more than {MAX_LINE} bytes")
                continue
            lines = (self._tail + text[:cut]).split("\n")
            self._tail = text[cut + 1 :]
            return self._checked(lines)
        return []

    def _checked(self, lines: list[str]) -> list[str]:
        """Merging trusts the order, so it is verified: once over, a comparison a line."""
        ordered = sorted(lines)
        if ordered != lines or lines[0] < self._last:
            raise BadRun("a run that is not sorted")
        self._last = lines[-1]
        return lines

    def _decompress(self) -> str | None:
        """Some text, at most self._text bytes; None at the end. Asks for a block only when all before it is
        used up, and shows zlib a small piece at a time, because it copies what it leaves of a piece."""
        while not self._zlib.eof:
            if self._began:
                piece = self._block[self._at : self._at + self._piece]
                try:
                    data = self._zlib.decompress(piece, self._text)
                except zlib.error as error:
                    raise BadRun(f"a damaged run: {error}") from None
                self._at += len(piece) - len(self._zlib.unconsumed_tail)
                if data:
                    return data.decode("latin-1")
                if self._at < len(self._block) or self._zlib.eof:
                    continue
            self._block, self._at = b"", 0
            block = self._read()
            if not block:
                if self._began:
                    raise BadRun("a run that is cut off")
                return None
            self._began = True
            self._block = block
        if self._zlib.unused_data or self._at < len(self._block) or self._read():
            raise BadRun("bytes after the end of a run")
        return None


def encode_manifest(runs: list[RunEntry]) -> bytes:
    """The manifest's JSON, which is stored as content. ValueError when it would not be accepted back (our bug)."""
    data = json.dumps({"version": 1, "runs": runs}, separators=(",", ":"), sort_keys=True).encode("ascii")
    if len(data) > MAX_MANIFEST or len(runs) > MAX_RUNS:
        raise ValueError(f"a manifest of {len(runs)} runs and {len(data)} bytes; at most {MAX_RUNS} and {MAX_MANIFEST}")
    return data


def parse_manifest(data: bytes) -> list[RunEntry]:
    """The runs of a manifest, by partition; BadRun for anything else. CIDs are checked for length only."""
    if len(data) > MAX_MANIFEST:
        raise BadRun(f"a manifest of {len(data)} bytes; at most {MAX_MANIFEST}")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRun(f"a manifest that is not JSON: {error}") from None
    if not isinstance(manifest, dict) or type(manifest.get("version")) is not int or manifest["version"] != 1:
        raise BadRun("a manifest of another version than 1")
    runs = manifest.get("runs")
    if not isinstance(runs, list) or len(runs) > MAX_RUNS:
        raise BadRun("a manifest without a list of runs")
    return [_entry(run) for run in runs]


def _entry(run: object) -> RunEntry:
    if not isinstance(run, dict):
        raise BadRun("a run in a manifest that is not an object")
    blocks, length, records = run.get("blocks"), run.get("bytes"), run.get("records")
    if type(length) is not int or type(records) is not int or length < 0 or records < 0:
        raise BadRun("a run in a manifest without its bytes and records")
    if not isinstance(blocks, list) or not all(isinstance(cid, str) and 0 < len(cid) <= MAX_CID for cid in blocks):
        raise BadRun("a run in a manifest without its blocks")
    if not len(blocks) <= length <= len(blocks) * MAX_BLOCK:
        raise BadRun(f"a run of {length} bytes in {len(blocks)} blocks")
    return {"blocks": blocks, "bytes": length, "records": records}
