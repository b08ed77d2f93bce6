"""The runner's end of its one socket: what a task reads, writes and tells goes through here.

Owns the order of frames on the child's side (documented in codec/frames.py). Never opens anything:
descriptors come with the job. The daemon is trusted here; the other direction is checked by the daemon.
"""

from __future__ import annotations

import time

from ipdc_edge.codec import frames

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

    from ipdc_edge.frame_socket import FrameSocket

TELL_EVERY = 0.3  # seconds between two PROGRESS frames


class Link:
    """Requests and answers over a frame socket; strictly one at a time, as the child has one thread."""

    def __init__(self, frame_socket: FrameSocket) -> None:
        self._socket = frame_socket
        self._told = 0.0

    def receive_job(self) -> tuple[dict[str, Any], dict[str, bytes], list[int]] | None:
        """(the JOB object, the code files, the spill descriptors); None when the daemon left before it sent one."""
        job = self._expect(frames.JOB)
        if job is None:
            return None
        fields: dict[str, Any] = frames.parse_json(job)
        code: dict[str, bytes] = {}
        piece = bytearray()
        for entry in fields["code"]:
            while len(piece) < entry["size"]:
                more = self._expect(frames.CODE)
                if more is None:
                    return None
                piece += more
            code[entry["name"]] = bytes(piece[: entry["size"]])
            del piece[: entry["size"]]
        return fields, code, self._socket.take_descriptors()

    def receive_task(self) -> dict[str, Any] | None:
        """The next TASK's object; None when it is time to leave."""
        frame = self._socket.receive()
        if frame is None or frame[0] == frames.CLOSE:
            return None
        if frame[0] != frames.TASK:
            raise frames.BadFrame(f"{frames.NAMES[frame[0]]} where TASK was due")
        return frames.parse_json(frame[1])

    def send(self, kind: int, value: dict[str, Any]) -> None:
        """One control frame."""
        self._socket.send_json(kind, value)

    def read(self, stream: int) -> bytearray:
        """The next block of an input stream; empty at its end."""
        self._socket.send_json(frames.READ, {"stream": stream})
        data = self._expect(frames.DATA)
        if data is None:
            raise EOFError("the daemon is gone")
        return data

    def write(self, stream: int, data: bytes) -> None:
        """A block of an output stream."""
        self._socket.send_write(stream, data)

    def progress(self, records: int, size: int) -> None:
        """Tells how much was read, unless it told so a moment ago."""
        now = time.monotonic()
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._socket.send_json(frames.PROGRESS, {"records": records, "bytes": size})

    def _expect(self, kind: int) -> bytearray | None:
        frame = self._socket.receive()
        if frame is None:
            return None
        if frame[0] != kind:
            raise frames.BadFrame(f"{frames.NAMES[frame[0]]} where {frames.NAMES[kind]} was due")
        return frame[1]
