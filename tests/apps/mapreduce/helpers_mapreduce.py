"""What the tests of the Map-Reduce pieces share: scratch files in memory's stead, and tasks run by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from ipdc_edge.apps.mapreduce.task import TaskIo, make_task
from ipdc_edge.runner.scratch import Scratch


@contextmanager
def scratch_files(count: int = 2, limit: int = 1 << 30) -> Iterator[Scratch]:
    files = [tempfile.TemporaryFile() for _ in range(count)]
    try:
        yield Scratch([file.fileno() for file in files], limit)
    finally:
        for file in files:
            file.close()


def program(**functions: Callable[..., object]) -> Any:
    return SimpleNamespace(**{"map": None, "map_lines": None, "reduce": None, "combine": None, **functions})


def blocks_of(data: bytes, start: int, size: int) -> Callable[[], bytes]:
    """A stream's read: the file's blocks of `size` bytes from `start` on."""
    pieces = iter(range(start, len(data), size))
    return lambda: next((data[at : at + size] for at in pieces), b"")


def run_job(
    user: Any, data: bytes, *, split: int = 1000, block: int = 100, partitions: int = 2, budget: int = 1 << 20
) -> tuple[list[bytes], list[dict[str, int]]]:
    """(the parts, counters of each task): a job in one process, its runs cut into splits of `split` bytes."""
    # ruff: noqa: B023  (each task has run before its loop's variables change)
    runs: list[list[list[bytes]]] = [[] for _ in range(partitions)]
    counters = []
    with scratch_files() as scratch:
        for start in range(0, max(1, len(data)), split):
            read = blocks_of(data, start, block)
            for partition in runs:
                partition.append([])
            entry = {"name": "input.txt", "start": start, "end": min(len(data), start + split)}
            params = {
                "stage": "map",
                "inputs": [{"range": entry}],
                "outputs": {"kind": "runs", "count": partitions},
            }
            io = TaskIo(lambda _: read(), lambda m, data: runs[m][-1].append(data), lambda *_: None, scratch)
            counters.append(make_task(user, budget, params, io).run()["counters"])
            scratch.clear()
        parts = []
        for partition in runs:
            waiting = [iter(run) for run in partition]
            written: list[bytes] = []
            params = {
                "stage": "reduce",
                "inputs": [{}] * len(waiting),
                "outputs": {"kind": "files", "count": 1},
            }
            io = TaskIo(
                lambda n: next(waiting[n], b""),
                lambda _, data: written.append(data),
                lambda *_: None,
                scratch,
            )
            counters.append(make_task(user, budget, params, io).run()["counters"])
            scratch.clear()
            parts.append(b"".join(written))
    return parts, counters
