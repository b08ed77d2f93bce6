"""The command line's side of the control socket: blocking, one connection for each request.

Owns connecting, sending a request with its descriptors, and reading what comes back. Never prints, never
retries, and knows no operation. What the daemon's errors mean stays in them: they are raised as they are.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Collection, Iterator
from types import TracebackType

from ipdc_edge.codec import control as codec
from ipdc_edge.codec import frames
from ipdc_edge.commands import accounts
from ipdc_edge.errors import ControlBroken, DaemonLost, IpdcError, NoDaemon, NotAllowed
from ipdc_edge.frame_socket import FrameSocket
from ipdc_edge.home import Home

CONNECT_SECONDS = 5.0


class RequestTooBig(IpdcError):
    """What you ask for takes more than {limit} bytes to say. Name fewer inputs, or put small files together first."""


class Conversation:
    """One request and its answer. A context manager; leaving it closes the connection, which cancels the request."""

    def __init__(self, home: Home, advice: str = "`ipdc-edge jobs` shows what became of it") -> None:
        self._path = home.control_socket
        self._advice = advice
        self.frames = FrameSocket(_connect(home, self._path))
        self.idle: Callable[[], None] | None = None  # called every second in which the daemon says nothing

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.frames.close()

    def request(self, operation: str, fields: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        """Sends the request; the descriptors travel on its first byte."""
        try:
            request = frames.encode_json(frames.REQUEST, {**fields, "operation": operation})
        except ValueError as error:
            raise RequestTooBig(limit=frames.MAX_PAYLOAD) from error
        self.send(frames.REQUEST, request[frames.HEADER.size :], fds)

    def send(self, kind: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Sends one more frame. A daemon that has had enough is asked for its error, which is raised."""
        try:
            self.frames.send(kind, payload, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.answer()
            raise ControlBroken(reason="the daemon answered before the request was whole") from error

    def received(self) -> Iterator[tuple[int, bytearray]]:
        """(kind, payload) of EVENT, DATA, and last of ANSWER or END. Raises DaemonLost where the answer
        ends early."""
        while True:
            while self.idle is not None and not select.select([self.frames.sock], [], [], 1.0)[0]:
                self.idle()
            try:
                frame = self.frames.receive()
            except frames.BadFrame as error:
                raise ControlBroken(reason=str(error)) from error
            except ConnectionResetError:
                frame = None
            if frame is None:
                raise DaemonLost(socket=self._path, advice=self._advice)
            if frame[0] not in (frames.EVENT, frames.DATA, frames.ANSWER, frames.END):
                raise ControlBroken(reason=f"an answer of the kind {frames.NAMES[frame[0]]}")
            yield frame
            if frame[0] in (frames.ANSWER, frames.END):
                return

    def objects(self) -> Iterator[dict[str, object]]:
        """Every streamed object, then the answer (nothing for END). Raises the daemon's error."""
        pieces = bytearray()
        for kind, payload in self.received():
            if kind == frames.DATA:
                pieces += payload
                if len(pieces) > codec.ANSWER_LIMIT:
                    raise ControlBroken(reason=f"an answer of more than {codec.ANSWER_LIMIT} bytes")
                continue
            text = payload or bytes(pieces)
            pieces.clear()
            if kind == frames.EVENT:
                yield codec.parse_object(text)
            elif kind == frames.ANSWER:
                yield codec.parse_answer(text)

    def answer(self) -> dict[str, object]:
        """The last object; empty where there is none."""
        found = list(self.objects())
        return found[-1] if found else {}


def call(home: Home, operation: str, /, **fields: object) -> dict[str, object]:
    """Asks and returns the answer."""
    with Conversation(home) as conversation:
        conversation.request(operation, fields)
        return conversation.answer()


def events(home: Home, operation: str, advice: str, /, **fields: object) -> Iterator[dict[str, object]]:
    """Asks and yields every streamed object and then the answer. `advice`: what to type if the daemon goes away."""
    with Conversation(home, advice) as conversation:
        conversation.request(operation, fields)
        yield from conversation.objects()


def download(home: Home, operation: str, /, **fields: object) -> Iterator[bytearray]:
    """Asks and yields the content that streams back. Raises the daemon's error, also in the middle."""
    with Conversation(home, "ask again") as conversation:
        conversation.request(operation, fields)
        for kind, payload in conversation.received():
            if kind == frames.DATA:
                yield payload
            elif kind == frames.ANSWER:
                codec.parse_answer(payload)


def running(home: Home) -> bool:
    """Whether a daemon accepts connections."""
    try:
        Conversation(home).__exit__(None, None, None)
    except NoDaemon:
        return False
    except IpdcError:
        return True
    return True


def _connect(home: Home, path: str) -> socket.socket:
    """A connected socket. Raises NoDaemon, or NotAllowed with the line that helps."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(path)
        connection.settimeout(None)
        return connection
    except PermissionError as error:
        connection.close()
        raise not_allowed(path) from error
    except OSError as error:
        connection.close()
        raise NoDaemon(socket=path, start=start_command(home)) from error


def start_command(home: Home) -> str:
    """What starts the daemon of this home."""
    if not home.own:
        return "sudo systemctl start ipdc-edge"
    import shlex

    lab = os.path.dirname(home.state)
    if os.path.exists(os.path.join(lab, "lab.json")):
        return f"ipdc-edge lab up --dir {shlex.quote(lab)}"
    return f"IPDC_HOME={shlex.quote(home.state)} ipdc-edge run --with-broker"


def group_of(path: str) -> str:
    """The group of a file, or the one that an installed node has."""
    import grp

    try:
        return grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "ipdc"


def not_allowed(path: str, groups: Collection[int] | None = None) -> NotAllowed:
    """The error of who may not use a path, with what helps: `groups` are those of this process."""
    import grp

    name, user = group_of(path), user_name()
    try:
        entry = grp.getgrnam(name)
        early = user in entry.gr_mem and entry.gr_gid not in (os.getgroups() if groups is None else groups)
    except KeyError:
        early = False
    return NotAllowed(path=path, group=name, user=user, help=(
        f"{user} is in it, but this session began before. Log out and in again, or: `newgrp {name}`." if early else
        f"`sudo usermod -aG {name} {user}`, then log in again."))


def user_name() -> str:
    """Who runs this command."""
    return accounts.user(os.getuid())
