"""Blocking frames over a stream socket, with descriptors: the runner's child and the command line use it.

Owns the socket's calls; what a frame is, is codec/frames.py's. The daemon has its own, non-blocking ways.
"""

from __future__ import annotations

import array
import socket

from ipdc_edge.codec import frames

MAX_DESCRIPTORS = 64  # in one frame
_FLAGS = socket.MSG_CMSG_CLOEXEC


class FrameSocket:
    """Blocking frames over a connected stream socket: the runner's child and the command line use it.

    Owns the socket from then on. `receive` reads exactly one frame, so nothing is ever read past a
    descriptor.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._descriptors: list[int] = []

    def send(self, kind: int, payload: bytes | bytearray | memoryview = b"", fds: tuple[int, ...] = ()) -> None:
        """One frame, with descriptors on its first byte. OSError when the other side is gone."""
        header = frames.encode_header(kind, len(payload))
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sent = self.sock.sendmsg([header], rights)
            header = header[sent:]
        self._send_two(header, payload)

    def send_json(self, kind: int, value: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """One control frame."""
        self.send(kind, frames.encode_json(kind, value)[frames.HEADER.size :], fds)

    def send_write(self, stream: int, data: bytes | bytearray | memoryview) -> None:
        """One WRITE frame."""
        self._send_two(frames.encode_write(stream, len(data)), data)

    def receive(self) -> tuple[int, bytearray] | None:
        """(kind, payload); None when the other side closed between two frames; frames.BadFrame when it did
        within one."""
        header = self._receive_header()
        if header is None:
            return None
        kind, length = frames.parse_header(header)
        payload = bytearray(length)
        view = memoryview(payload)
        while view:
            count = self.sock.recv_into(view)
            if not count:
                raise frames.BadFrame(f"the connection ended within a {frames.NAMES[kind]} frame")
            view = view[count:]
        return kind, payload

    def take_descriptors(self) -> list[int]:
        """The descriptors that arrived so far; they belong to the caller now."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def close(self) -> None:
        """Closes the socket and every descriptor that nobody took."""
        for descriptor in self.take_descriptors():
            socket.close(descriptor)
        self.sock.close()

    def _send_two(self, first: bytes, second: bytes | bytearray | memoryview) -> None:
        # One system call for header and payload, without joining them in memory.
        if not first:
            self.sock.sendall(second)
            return
        sent = self.sock.sendmsg([first, second])
        if sent < len(first):
            self.sock.sendall(first[sent:])
            sent = len(first)
        if sent < len(first) + len(second):
            self.sock.sendall(memoryview(second)[sent - len(first) :])

    def _receive_header(self) -> bytes | None:
        header = b""
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        while len(header) < frames.HEADER.size:
            data, ancillary, _flags, _address = self.sock.recvmsg(frames.HEADER.size - len(header), space, _FLAGS)
            for level, kind, rights in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
                    self._descriptors.extend(fds)
            if not data:
                if header:
                    raise frames.BadFrame("the connection ended within a frame's header")
                return None
            header += data
        return header
