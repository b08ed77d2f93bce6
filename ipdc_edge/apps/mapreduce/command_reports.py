"""What a program says on standard error: reports in the Hadoop way are taken out, the rest goes to the job's log.

Owns lines `reporter:counter:<group>,<counter>,<amount>` and `reporter:status:<text>`, and the last words that a
failure shows. Never holds more than a few KB, whatever a program prints. What is no report goes on as it came, at
once, so that a partial line is seen too; only what may become a report waits for its end.
"""

from __future__ import annotations

import os
from select import POLLOUT, poll

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = b"reporter:"
MOST_REPORT = 8 * 1024  # bytes of a report's line; a longer one is an ordinary line
MOST_WORDS = 1200  # bytes of the last words
LAST_LINES = 10
LOG = 2  # the runner's own standard error


class Reports:
    """The standard error of one program."""

    def __init__(self, status: Callable[[str], None], count: Callable[[str, int], None]) -> None:
        self._status = status
        self._count = count
        self._held = b""  # the beginning of a line that may become a report
        self._within = False  # an ordinary line that has begun
        self._last = b""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        data = self._held + data
        self._held = b""
        if self._within:
            end = data.find(b"\n") + 1 or len(data)
            self._pass_on(data[:end])
            data = data[end:]
        end = data.rfind(b"\n") + 1
        tail = data[end:]
        if len(tail) <= MOST_REPORT and (tail.startswith(PREFIX) or PREFIX.startswith(tail)):
            self._held = tail
            data = data[:end]
        if PREFIX in data:
            data = b"".join([line for line in _split(data) if self._is_ordinary(line)])
        self._pass_on(data)

    def finish(self) -> None:
        """The end: a report without a newline counts as well."""
        held, self._held = self._held, b""
        if held and self._is_ordinary(held):
            self._pass_on(held)

    def last_words(self) -> str:
        """The last ordinary lines."""
        text = self._last.decode("utf-8", "replace").strip()
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def note(self, text: str) -> None:
        """A line of our own in the job's log."""
        line = f"ipdc-edge: {text}\n".encode("utf-8", "replace")
        self._pass_on(b"\n" + line if self._within else line)

    def _is_ordinary(self, line: bytes) -> bool:
        """Whether a line is none of the reports; one that is, is told."""
        if not line.startswith(PREFIX) or len(line) > MOST_REPORT:
            return True
        kind, _, rest = line[len(PREFIX) :].decode("utf-8", "replace").strip().partition(":")
        if kind == "status":
            self._status(rest)
            return False
        parts = rest.split(",")
        if kind != "counter" or len(parts) != 3:
            return True
        amount = parts[2].strip()
        digits = amount[1:] if amount[:1] in ("+", "-") else amount
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            return True
        self._count(f"{parts[0]}: {parts[1]}", int(amount))
        return False

    def _pass_on(self, data: bytes) -> None:
        if not data:
            return
        self._within = not data.endswith(b"\n")
        self._last = (self._last + data[-MOST_WORDS:])[-MOST_WORDS:]
        self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(LOG, view) :]
            except BlockingIOError:
                waiting = poll()
                waiting.register(LOG, POLLOUT)
                waiting.poll()
            except OSError:
                return  # nobody reads the log any more; that is not the program's failure


def _split(data: bytes) -> list[bytes]:
    """Lines, each with its LF; bytes.splitlines ends them at CR too."""
    *lines, last = data.split(b"\n")
    return [*[line + b"\n" for line in lines], last]
