"""What the tests of user programs share: a runner's directory, and a program run over lines."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ipdc_edge.apps.mapreduce.command import Command, prepare
from ipdc_edge.runner.task_io import TaskIo


class Programs:
    """Runs programs in one directory, and keeps what they report."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counters: Counter[str] = Counter()
        self.statuses: list[str] = []
        self.io = TaskIo(lambda _: b"", lambda *_: None, status=self.statuses.append, directory=str(directory))

    def command(self, *argv: str, environment: dict[str, str] | None = None, **files: bytes) -> Command:
        """A command over shipped files; mapper_py is the file mapper.py, bin__tool is bin/tool."""
        code = {name.replace("__", "/").replace("_", "."): data for name, data in files.items()}
        prepare(code, str(self.directory))
        return Command(list(argv), code, environment or {}, self.io, self._count)

    def run(self, *argv: str, lines: Iterable[bytes] = (), **more: object) -> bytes:
        """All that a program prints."""
        return b"".join(self.command(*argv, **more).run(lines))  # type: ignore[arg-type]

    def shell(self, script: str, lines: Iterable[bytes] = ()) -> bytes:
        return self.run("sh", "-c", script, lines=lines)

    def _count(self, name: str, amount: int) -> None:
        self.counters[name] += amount


def endless() -> Iterator[bytes]:
    """Input that nobody can have read to its end."""
    while True:
        yield b"line\n" * 10_000


def has_gone(pid: int) -> bool:
    """Whether a process that is no child of ours has ended, waited for at most ten seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)
