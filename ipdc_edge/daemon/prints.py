"""What the runners of this node print at present, for the masters of their jobs who follow it (`ipdc-edge logs -f`).

Owns the way from a runner's prints to `GET /ipdc/prints?job=JOB`: a stream of JSON lines that lasts as long as this
node holds the job. Who asks is the master that is meant, so nobody gets the prints of another one's jobs. Loaded when
somebody asks first; nothing is kept of jobs that nobody follows, and nothing is ever written to a disk.

A line of the stream (codec/prints.py) has whole lines of an attempt's prints, as far as there are any, and where in
these they begin, so that who asks again knows what is new; or says how much there was no room for; or nothing, every
few seconds, but that the node is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..codec.prints import MOST_TEXT, Lost, Piece, encode
from ..core.values import Attempt, JobKey

if TYPE_CHECKING:
    from ..drivers.runner import Runner

MOST_FOLLOWED, MOST_OF_ONE = 8, 4  # streams at a time, and those of one master
MOST_WAITING = 128 << 10  # bytes that wait for one reader
BEAT = 4.0  # seconds between two signs of life; less than a reader's patience


@dataclass(eq=False)
class _Stream:
    """What waits for one reader."""

    key: JobKey
    pieces: deque[Piece] = field(default_factory=deque)
    size: int = 0
    lost: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.size += piece.size
        while self.size > MOST_WAITING:  # what is newest says most
            oldest = self.pieces.popleft()
            self.size -= oldest.size
            self.lost += oldest.size
        self.woken.set()

    def taken(self) -> Iterator[bytes]:
        """Everything that waits."""
        while self.lost or self.pieces:
            if self.lost:  # before what is newer
                lost, self.lost = self.lost, 0
                yield encode(Lost(lost))
            else:
                piece = self.pieces.popleft()
                self.size -= piece.size
                yield encode(piece)


@dataclass
class _Printing:
    """An attempt whose prints are heard: those from byte `at` on are in `rest`, and not told yet."""

    task: str
    runner: Runner
    at: int
    rest: bytearray


class Prints:
    """All that is followed on this node."""

    def __init__(
        self, running: Mapping[tuple[JobKey, Attempt], tuple[str, Runner]], holds: Callable[[JobKey], bool],
    ) -> None:
        """running: the attempts at work, with their tasks and runners; holds: whether a job is here still."""
        self.running, self.holds = running, holds
        self.streams: list[_Stream] = []
        self.heard: dict[tuple[JobKey, Attempt], _Printing] = {}

    # -- what the runners do

    def begin(self, key: JobKey, attempt: Attempt, task: str, runner: Runner) -> None:
        """An attempt begins, or somebody begins to follow its job."""
        if (key, attempt) in self.heard or not any(stream.key == key for stream in self.streams):
            return
        pieces = runner.pieces()
        end = pieces[-1][0] + len(pieces[-1][1]) if pieces else 0
        rest = pieces[-1][1] if pieces else b""
        rest = rest[rest.rfind(b"\n") + 1 :][-MOST_TEXT:]
        self.heard[key, attempt] = _Printing(task, runner, end - len(rest), bytearray(rest))
        runner.listener = partial(self._heard, key, attempt)
        for at, piece in pieces:
            for part in _parts(task, attempt, at, piece[: max(0, end - len(rest) - at)]):
                self._tell(key, part)

    def end(self, key: JobKey, attempt: Attempt) -> None:
        """All that an attempt printed was heard."""
        printing = self.heard.pop((key, attempt), None)
        if printing is not None:
            printing.runner.listener = None
            self._flush(key, attempt, printing, True)
        self.wake(key)

    def wake(self, key: JobKey) -> None:
        """Something of a job has changed, as that it is no longer here."""
        for stream in self.streams:
            if stream.key == key:
                stream.woken.set()

    def _heard(self, key: JobKey, attempt: Attempt, data: bytes) -> None:
        printing = self.heard[key, attempt]
        printing.rest += data
        self._flush(key, attempt, printing, False)
        if len(printing.rest) >= MOST_TEXT:
            self._flush(key, attempt, printing, True)

    def _flush(self, key: JobKey, attempt: Attempt, printing: _Printing, whole: bool) -> None:
        """Tell what is there, up to the last end of a line, or `whole`."""
        length = len(printing.rest) if whole else printing.rest.rfind(b"\n") + 1
        told = bytes(printing.rest[:length])
        for part in _parts(printing.task, attempt, printing.at, told):
            self._tell(key, part)
        printing.at += length
        del printing.rest[:length]

    def _tell(self, key: JobKey, piece: Piece) -> None:
        for stream in self.streams:
            if stream.key == key:
                stream.add(piece)

    # -- who follows

    def stream(self, key: JobKey) -> AsyncGenerator[bytes, None] | None:
        """The lines for one reader, until the job is no longer here; None where too many read."""
        own = sum(stream.key.master == key.master for stream in self.streams)
        if len(self.streams) >= MOST_FOLLOWED or own >= MOST_OF_ONE:
            return None
        return self._stream(key)

    async def _stream(self, key: JobKey) -> AsyncGenerator[bytes, None]:
        stream = _Stream(key)
        first = not any(other.key == key for other in self.streams)
        if not first:
            self._catch_up(stream)  # before it hears what that finds in the pipes, or it would hear it twice
        self.streams.append(stream)
        try:
            if first:
                for (job, attempt), (task, runner) in list(self.running.items()):
                    if job == key:
                        self.begin(key, attempt, task, runner)
            while True:
                stream.woken.clear()
                for line in stream.taken():
                    yield line
                if not self.holds(key) and not stream.pieces:
                    return
                try:
                    async with asyncio.timeout(BEAT):
                        await stream.woken.wait()
                except TimeoutError:
                    for (job, attempt), printing in self.heard.items():
                        if job == key:
                            self._flush(key, attempt, printing, True)
                    yield b"\n"
        finally:
            self.streams.remove(stream)
            if not any(other.key == key for other in self.streams):
                for place in [place for place in self.heard if place[0] == key]:
                    self.heard.pop(place).runner.listener = None

    def _catch_up(self, stream: _Stream) -> None:
        """One more reader of what others follow already: what is kept of the attempts at work."""
        for (job, attempt), printing in self.heard.items():
            if job == stream.key:
                for at, piece in printing.runner.pieces():
                    for part in _parts(printing.task, attempt, at, piece[: max(0, printing.at - at)]):
                        stream.add(part)


def _parts(task: str, attempt: Attempt, at: int, data: bytes) -> Iterator[Piece]:
    """Some prints in pieces: as many whole lines in each as fit, cut only where one is longer."""
    while data:
        length = min(len(data), MOST_TEXT)
        if length < len(data):
            length = data.rfind(b"\n", 0, length) + 1 or length
        yield Piece(task, attempt, at, length, data[:length].decode("utf-8", "replace"))
        at, data = at + length, data[length:]
