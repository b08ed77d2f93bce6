"""The runner's end of its one socket: what a task reads, writes and tells goes through here.

Owns the order of frames on the child's side (documented in codec/frames.py). Never opens anything:
descriptors come with the job. The daemon is trusted here; the other direction is checked by the daemon.
"""

from __future__ import annotations

import os
import time
from io import BytesIO

from ipdc_edge.codec import frames
from ipdc_edge.codec.open_file import HEAD
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import Any

    from ipdc_edge.frame_socket import FrameSocket

TELL_EVERY = 0.3  # seconds between two PROGRESS frames
BURST = 5.0  # words of a task that are told at once, though others were a moment ago
MOST_STATUS = 200  # characters of a task's status


class DaemonGone(BaseException):
    """The other end is closed: nobody is left to tell. No Exception, so that the user's code does not catch it."""


class Link:
    """Requests and answers over a frame socket; strictly one at a time, as the child has one thread."""

    def __init__(self, frame_socket: FrameSocket) -> None:
        self._socket = frame_socket
        self._told = 0.0
        self._read = (0, 0)  # records and bytes of this task
        self._status: str | None = None  # not told yet
        self._said, self._breath = 0.0, BURST  # when the task last said something, and how many more it may at once

    def receive_job(self) -> tuple[dict[str, Any], dict[str, bytes], list[int]] | None:
        """(the JOB object, the code files, the spill descriptors); None when the daemon left before it sent one."""
        job = self._expect(frames.JOB)
        if job is None:
            return None
        fields: dict[str, Any] = frames.parse_json(job)
        code: dict[str, bytes] = {}
        rest: bytes | bytearray = b""
        given = self._socket.take_descriptors()
        for entry in fields["code"]:
            if not rest and entry["size"]:
                frame = self._receive()
                if frame is None:
                    return None
                if frame[0] == frames.FILE:
                    (descriptor,) = self._socket.take_descriptors()
                    code[entry["name"]] = OpenFile(os.pread(descriptor, HEAD, 0), descriptor)
                    continue
                rest = self._of_kind(frame, frames.CODE)
            file = BytesIO()  # gives its bytes out without a copy: a file may be half of a board's memory
            while missing := entry["size"] - file.tell():
                if not rest:
                    more = self._expect(frames.CODE)
                    if more is None:
                        return None
                    rest = more
                file.write(rest[:missing])
                rest = rest[missing:]
            code[entry["name"]] = file.getvalue()
        return fields, code, given

    def receive_task(self) -> dict[str, Any] | None:
        """The next TASK's object; None when it is time to leave."""
        frame = self._receive()
        if frame is None or frame[0] == frames.CLOSE:
            return None
        if frame[0] != frames.TASK:
            raise frames.BadFrame(f"{frames.NAMES[frame[0]]} where TASK was due")
        return frames.parse_json(frame[1])

    def begin_task(self) -> None:
        """What was said of the task before is of no interest any more."""
        self._read, self._status = (0, 0), None

    def send(self, kind: int, value: dict[str, Any]) -> None:
        """One control frame."""
        try:
            self._socket.send_json(kind, value)
        except OSError as error:
            raise DaemonGone from error

    def read(self, stream: int) -> bytearray:
        """The next block of an input stream; empty at its end."""
        self.send(frames.READ, {"stream": stream})
        data = self._expect(frames.DATA)
        if data is None:
            raise DaemonGone
        return data

    def write(self, stream: int, data: bytes) -> None:
        """A block of an output stream."""
        try:
            self._socket.send_write(stream, data)
        except OSError as error:
            raise DaemonGone from error

    def progress(self, records: int, size: int) -> None:
        """Tells how much was read, unless it told so a moment ago."""
        self._read = (records, size)
        now = time.monotonic()
        if now - self._told >= TELL_EVERY:
            self._told = now
            told: dict[str, Any] = {"records": records, "bytes": size}
            if self._status is not None:
                told["status"], self._status = self._status, None
            self.send(frames.PROGRESS, told)

    def status(self, text: str) -> None:
        """A line for people: told at once, because long work may follow in which nothing is told. Who says many in a
        row is heard with the next PROGRESS."""
        self._status = " ".join(str(text)[:MOST_STATUS].split())
        now = time.monotonic()
        self._breath, self._said = min(BURST, self._breath + (now - self._said) / TELL_EVERY), now
        if self._breath >= 1.0:
            self._breath -= 1.0
            self._told = 0.0
        self.progress(*self._read)

    def set_aside(self, record: dict[str, Any]) -> None:
        """A record that the job goes on without."""
        self.send(frames.ASIDE, frames.bounded_aside(record))

    def _expect(self, kind: int) -> bytearray | None:
        frame = self._receive()
        return None if frame is None else self._of_kind(frame, kind)

    @staticmethod
    def _of_kind(frame: tuple[int, bytearray], kind: int) -> bytearray:
        if frame[0] != kind:
            raise frames.BadFrame(f"{frames.NAMES[frame[0]]} where {frames.NAMES[kind]} was due")
        return frame[1]

    def _receive(self) -> tuple[int, bytearray] | None:
        try:
            return self._socket.receive()
        except OSError as error:
            raise DaemonGone from error
