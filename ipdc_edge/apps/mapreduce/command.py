"""User programs in the Hadoop Streaming way: lines on standard input, lines on standard output, any language.

Owns how a program is fed and read, and how lines become pairs and back. Runs in the runner, which has one thread and
little memory: feeding and reading take turns, some hundred KB are on the way at a time, and nothing waits for a program
that waits for us. How a program is found is `command_program.py`'s affair, the process `command_child.py`'s, standard
error `command_reports.py`'s, and what the program is told `command_environment.py`'s.

A pair is a line `key TAB value LF`: the first tab divides, a line without a tab is a key with the value "". Text is
UTF-8, what is not stays as it is (surrogate escapes); a carriage return is kept. A tab in a key, or a newline in
either, is the user's own affair.
"""

from __future__ import annotations

import os
import select
from itertools import chain, repeat
from operator import itemgetter
from time import monotonic

from ipdc_edge.apps.mapreduce.command_child import Child, how_it_ended
from ipdc_edge.apps.mapreduce.command_environment import clean_environment
from ipdc_edge.apps.mapreduce.command_environment import input_environment as input_environment
from ipdc_edge.apps.mapreduce.command_environment import task_environment as task_environment
from ipdc_edge.apps.mapreduce.command_program import find_program
from ipdc_edge.apps.mapreduce.command_reports import Reports
from ipdc_edge.codec.keys import ValueNotCarried
from ipdc_edge.codec.records import value_text
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    class TaskIo(Protocol):
        """What is needed of the task's io."""

        directory: str

        def status(self, text: str) -> None: ...


CHUNK = 64 * 1024  # bytes of lines handed on at a time, about
READ = 64 * 1024  # bytes read at a time: what a pipe holds; larger pipes were no faster
MOST_LEFT = 16  # reads of what a pipe still holds when its program has ended; a program may have made it larger
MOST_LINE = 4 * 1024 * 1024  # bytes; a line is held in memory several times over until it is a pair
# Seconds after which a program's children are given up, when it has ended: of silence, and in all.
QUIET, TALK = 1.0, 60.0


class CommandFailed(IpdcError):
    """{program} {how}. {words}"""


class EndlessLine(IpdcError):
    """{program} printed more than {most} bytes without a newline: a line may have that many, and each line must end"""


def prepare(code: dict[str, bytes], directory: str) -> None:
    """Puts the job's files into the runner's directory, where programs find them by their names. What has a descriptor
    becomes a link: there may be no room, and nothing could be executed there. OSError."""
    for name, data in code.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(data, OpenFile):
            os.symlink(data.link(), path)
            continue
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755), "wb") as file:
            file.write(data)


def left_in(directory: str) -> Iterator[str]:
    """The paths of everything below a directory, what lies in a directory before the directory itself."""
    for here, directories, names in os.walk(directory, topdown=False):
        yield from (os.path.join(here, name) for name in (*names, *directories))


class Command:
    """A program for one task, started by `run`. What is wrong with the command line is told at once."""

    def __init__(
        self,
        argv: list[str],
        code: dict[str, bytes],
        environment: dict[str, str],
        io: TaskIo,
        count: Callable[[str, int], None],
    ) -> None:
        """count("group: counter", amount) takes counters. The errors of command_program.py."""
        self._name = argv[0]
        self._launch = find_program(argv, code)
        self._directory = io.directory
        self._environment = clean_environment(environment, io.directory)
        self._reports = Reports(io.status, count)
        self._child: Child | None = None

    def run(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What the program prints, in chunks of whole lines, while it is fed with chunks of whole lines.

        A last line without LF gets one, in either direction. A program that ends well before it has read everything is
        fed no more. CommandFailed, EndlessLine, ProgramNotStarted; what `chunks` raises. However this ends, the program
        has ended too, and with it what is in its process group.
        """
        try:
            self._child = child = Child(self._launch, self._environment, self._directory)
            yield from self._converse(child, iter(chunks))
            self._drain_errors(child)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the program if it is under way; twice is fine."""
        self._launch.close()
        if self._child is not None:
            self._child.end()
            self._child = None

    def _converse(self, child: Child, chunks: Iterator[bytes]) -> Iterator[bytes]:
        waiting = select.poll()
        waiting.register(child.stdin, select.POLLOUT)
        for descriptor in (child.stdout, child.stderr, child.pidfd):
            waiting.register(descriptor, select.POLLIN)
        feeder = _Feeder(child.stdin, chunks)
        lines = _Lines(self._name)
        ended = 0.0  # when the program has: from then on it is its children that print
        while child.stdout >= 0 or not ended:
            events = waiting.poll(QUIET * 1000 if ended else None)
            for descriptor, _ in events:
                if descriptor == child.stdin:
                    if not feeder.feed():
                        waiting.unregister(descriptor)
                        child.close("stdin")
                elif descriptor == child.pidfd:
                    waiting.unregister(descriptor)
                    ended = monotonic()
                    if child.stdin >= 0:
                        waiting.unregister(child.stdin)
                        child.close("stdin")
                    if child.peek():
                        self._fail(child)
                elif descriptor in (child.stdout, child.stderr):
                    name = "stdout" if descriptor == child.stdout else "stderr"
                    data = _read(descriptor, READ)
                    if data == b"":
                        waiting.unregister(descriptor)
                        child.close(name)
                    elif data:
                        (lines if name == "stdout" else self._reports).feed(data)
            if ended and child.stdout >= 0 and (not events or monotonic() >= ended + TALK):
                child.close("stdout")
                self._reports.note(
                    f"{self._name} has ended, but something that it started keeps its output open: "
                    "what that prints from now on is lost; let the program wait for its children"
                )
            if lines.whole >= CHUNK:
                yield lines.take()
        if last := lines.finish():
            yield last

    def _fail(self, child: Child) -> None:
        how = how_it_ended(child.peek())
        self._drain_errors(child)
        words = self._reports.last_words()
        said = f"Its last words on standard error:\n{words}" if words else "It said nothing on standard error."
        raise CommandFailed(program=self._name, how=how, words=said)

    def _drain_errors(self, child: Child) -> None:
        """What there is; whatever still holds the pipe open is not waited for."""
        child.kill()
        if child.stderr >= 0:
            for data in _left(child.stderr):
                self._reports.feed(data)
        self._reports.finish()


class _Feeder:
    """Lines on their way into a pipe that does not block."""

    def __init__(self, descriptor: int, chunks: Iterator[bytes]) -> None:
        self._descriptor = descriptor
        self._chunks = chunks
        self._rest = memoryview(b"")

    def feed(self) -> bool:
        """Writes once; False when there is nothing more, or nobody to read it."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            if chunk and not chunk.endswith(b"\n"):
                chunk += b"\n"
            self._rest = memoryview(chunk)
        try:
            self._rest = self._rest[os.write(self._descriptor, self._rest) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return False
        return True


class _Lines:
    """Bytes gathered until they are lines; `whole` is how many of them are."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._buffer = bytearray()
        self.whole = 0

    def feed(self, data: bytes) -> None:
        """The next bytes. EndlessLine."""
        end = data.rfind(b"\n") + 1
        if end:
            self.whole = len(self._buffer) + end
        self._buffer += data
        if len(self._buffer) - self.whole > MOST_LINE:
            raise EndlessLine(program=self._program, most=MOST_LINE)

    def take(self) -> bytes:
        """The whole lines."""
        with memoryview(self._buffer) as view, view[: self.whole] as lines:
            taken = bytes(lines)
        del self._buffer[: self.whole]
        self.whole = 0
        return taken

    def finish(self) -> bytes:
        """What is left, its last line ended."""
        if len(self._buffer) > self.whole:
            self.feed(b"\n")
        return self.take()


def _read(descriptor: int, most: int) -> bytes | None:
    """What is there; b"" at the end, None when nothing is there yet."""
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return None


def _left(descriptor: int) -> Iterator[bytes]:
    """What there is; bounded, for somebody may go on writing."""
    for _ in range(MOST_LEFT):
        data = _read(descriptor, READ)
        if not data:
            return
        yield data


# Lines and pairs

_key_and_value = itemgetter(0, 2)


def pairs(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The pairs of chunks of whole lines. The loop over lines runs in C."""
    return chain.from_iterable(map(_pairs_of_chunk, chunks))


def _pairs_of_chunk(chunk: bytes) -> Iterator[tuple[str, str]]:
    lines = chunk.decode("utf-8", "surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()
    return map(_key_and_value, map(str.partition, lines, repeat("\t")))


def text(pairs: Iterable[tuple[object, object]]) -> Iterator[bytes]:
    """Pairs as chunks of whole lines. str stands as it is, all else as JSON. ValueNotCarried for what is neither."""
    lines: list[str] = []
    gathered = 0
    for key, value in pairs:
        if type(key) is str and (type(value) is str or type(value) is int):
            line = f"{key}\t{value}\n"
        else:
            line = f"{_text(key, key)}\t{_text(value, key)}\n"
        lines.append(line)
        gathered += len(line)
        if gathered >= CHUNK:
            yield _encoded(lines)
            lines.clear()
            gathered = 0
    if lines:
        yield _encoded(lines)


def _text(thing: object, key: object) -> str:
    return str(thing) if isinstance(thing, str) else value_text(thing, key)


def _encoded(lines: list[str]) -> bytes:
    try:
        return "".join(lines).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        where = f" ({ascii(error.object[max(0, error.start - 40) : error.end])})"
        reason = "it holds a lone surrogate, which has no place in UTF-8"
        raise ValueNotCarried(role="a program's input", type="str", where=where, reason=reason) from None
