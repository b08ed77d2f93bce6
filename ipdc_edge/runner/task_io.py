"""What a task may do to the world: blocks in, blocks out, words on the way, and a place for spills.

Owns nothing but the names. The runner makes one over its socket for all its tasks; `run-inline` and tests make
their own from functions. An architecture's tasks know the world by this alone.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable

    from ipdc_edge.runner.scratch import Scratch


def _ignore(*_told: object) -> None:
    """For words that nobody wants to hear."""


class TaskIo:
    """Each attribute may be called as said here; only `read` and `write` have to be given for tasks that use no
    more."""

    def __init__(
        self,
        read: Callable[[int], bytes | bytearray | None],
        write: Callable[[int, bytes], None],
        progress: Callable[[int, int], None] = _ignore,
        scratch: Scratch | None = None,
        status: Callable[[str], None] = _ignore,
        set_aside: Callable[[dict[str, object]], None] = _ignore,
        job: str = "",
        directory: str = "/",
        tunnels: int = -1,
    ) -> None:
        self.read = read  # read(stream): the next block of an input stream, at most 2 MiB; nothing at its end
        self.write = write  # write(stream, data): a block of an output stream (codec/frames.py says how long)
        self.progress = progress  # progress(records, bytes): read so far; costs little, call it often
        self.scratch: Scratch = scratch  # type: ignore[assignment]
        self.status = status  # status(text): a line for people who look at the task now
        # set_aside(record): a record that the task goes on without: "where", "input", "offset", "record", "error"
        self.set_aside = set_aside
        self.job = job  # the job's id
        self.tunnels = tunnels  # a descriptor, where tasks speak with each other; daemon/tunnels.py has its other end
        self.directory = directory  # private, writable, small: the runner's current one
