"""What a runner does for a search: tries nonces, and writes down the first whose hash is low enough.

Owns the inner loop. Reads nothing but its parameters, which the master's side (`plan.py`) has checked and which no
runner imports. A hash is SHA-256 of SHA-256 of a header's 80 bytes, read as a little-endian number; it will do when it
is not above the target. The first 64 of the bytes are hashed once for all nonces.
"""

from __future__ import annotations

import struct
import time
from hashlib import sha256

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

    from ipdc_edge.runner.task_io import TaskIo

HEADER = 76  # bytes before the nonce
STEP = 1 << 15  # nonces between two words of progress


def load(spec: dict[str, Any], code: dict[str, bytes]) -> bytes:
    """What all tasks of a job share: the header without its nonce. The runner calls this once, for its job."""
    return bytes.fromhex(spec["arguments"]["header"])[:HEADER]


def make_task(header: bytes, task_id: str, params: dict[str, Any], io: TaskIo) -> SearchTask:
    """One chunk; the runner calls this for each task."""
    return SearchTask(header, params, io)


class SearchTask:
    """The nonces from `first` to `last`, both included."""

    def __init__(self, header: bytes, params: dict[str, Any], io: TaskIo) -> None:
        self._header, self._io = header, io
        self._first, self._last, self._target = params["first"], params["last"], int(params["target"], 16)
        self._at = self._first

    def run(self) -> dict[str, Any]:
        """Writes a line "nonce TAB hash" to output 0 when there is one; what was counted."""
        began = time.monotonic()
        answer = None
        while answer is None and self._at <= self._last:
            end = min(self._at + STEP, self._last + 1)
            answer = search(self._header, self._at, end, self._target)
            self._at = end if answer is None else answer + 1
            self._tell(time.monotonic() - began)
        tried = self._at - self._first
        line = b"" if answer is None else f"{answer}\t{hash_of(self._header, answer)}\n".encode()
        if line:
            self._io.write(0, line)
        counters = {"tried": tried, "found": int(answer is not None), "output_bytes": len(line)}
        milliseconds = round((time.monotonic() - began) * 1000)
        return {"counters": counters, "user_counters": {"hashes": tried, "milliseconds of hashing": milliseconds},
                "streams": [{"records": int(answer is not None), "bytes": len(line)}]}

    def _tell(self, seconds: float) -> None:
        tried = self._at - self._first
        self._io.progress(tried, tried)
        self._io.status(f"{tried / max(seconds, 1e-6):,.0f} hashes/s, at nonce {self._at}")

    def position(self) -> dict[str, object]:
        """Where it was, should it fail."""
        return {"where": "search", "record": f"nonce {self._at}"}


def search(header: bytes, first: int, end: int, target: int) -> int | None:
    """The first nonce, first <= nonce < end, whose hash is at most `target`."""
    begun = sha256(header[:64])
    begun.update(header[64:HEADER])
    copy, pack, number = begun.copy, struct.Struct("<I").pack, int.from_bytes
    top = target >> 248  # nearly all hashes fall by their highest byte, which is cheap to look at
    for nonce in range(first, end):
        inner = copy()
        inner.update(pack(nonce))
        digest = sha256(inner.digest()).digest()
        if digest[31] <= top and number(digest, "little") <= target:
            return nonce
    return None


def hash_of(header: bytes, nonce: int) -> str:
    """A header's hash as people write it: the highest byte first."""
    return sha256(sha256(header[:HEADER] + nonce.to_bytes(4, "little")).digest()).digest()[::-1].hex()
