"""What lies about on this node although nobody needs it: in the block store, in scratch, below jobs/, as processes.

Owns the looking. Removes nothing, and never says what is needed: its caller knows the jobs. It blocks, in a thread of
its caller's. Whatever is just being made or removed may be seen here too, so one look is no proof.

Source: proc(5); cgroups(7).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ipdc_edge.drivers.block_places import BLOCK, CONTENT, UNDER_WAY, entries
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.runner import RUNNERS, Runner

RUNNER = b"\0ipdc_edge.runner\0"  # stands in a runner's command line
UNITS = tuple(f"/sys/fs/cgroup/{top}ipdc.slice/{part}.slice"
              for top in ("", "systemd/") for part in ("ipdc-runner", "ipdc-role"))
MOST_FILES = 200_000  # of the store, that are looked at


class Leftover(NamedTuple):
    """One thing; `kind` is a key of daemon.leftovers.KINDS, `bytes` 0 where nobody counts them."""

    kind: str
    name: str
    bytes: int = 0


def blocks(store: BlockStore, needed: Callable[[str], bool]) -> Iterator[Leftover]:
    """Owners in the store whom nobody knows, and files there that no row of the index names."""
    for owner, size in store.holders():
        if owner is None or not needed(owner):
            yield Leftover("blocks", owner or "nobody", size)
    known = {UNDER_WAY: lambda _: False, CONTENT: store.has_content_file, BLOCK: store.has_block_file}
    for number, (kind, name, path) in enumerate(store.places.files()):
        if number >= MOST_FILES:
            return
        if not known[kind](name):  # one that is under way goes to its name within a moment, or is forgotten
            with suppress(FileNotFoundError):
                yield Leftover("files", path, os.stat(path, follow_symlinks=False).st_size)


def scratch(directory: str) -> Iterator[Leftover]:
    """What no runner of this process has there; spills have no names."""
    held = {runner.directory for runner in _runners()}
    for entry in entries(directory):
        if entry.path not in held:
            yield Leftover("scratch", entry.path)


def parts(jobs: str, running: Callable[[str], bool]) -> Iterator[Leftover]:
    """Parts that arrived for jobs that have ended."""
    for entry in entries(jobs):
        if not running(entry.name) and os.path.isdir(os.path.join(entry.path, ".parts")):
            yield Leftover("parts", os.path.join(entry.path, ".parts"))


def processes(scratch_directory: str) -> Iterator[Leftover]:
    """Processes of runners that no runner of this process has: by their command line and parent, or because they are
    in this node's scratch directory or have a file of it open. Those that this user cannot look at are not seen."""
    ours, found, below = os.getpid(), _processes(), os.path.join(scratch_directory, "")
    runners = {runner.process for runner in _runners() if runner.process and not runner.ended}
    for pid, (parent, session, words) in found.items():
        mine = _is_below(f"/proc/{pid}/cwd", below) or RUNNER in words and (
            parent == ours or any(_is_below(f"/proc/{pid}/fd/{name}", below) for name in _names(f"/proc/{pid}/fd")))
        if mine and pid != ours and session not in runners and not runners & set(_ancestors(pid, found)):
            yield Leftover("processes", f"{pid} {words.replace(bytes(1), b' ').decode('utf-8', 'replace').strip()}")


def units(directories: Iterable[str] = UNITS) -> Iterator[Leftover]:
    """Runners that systemd holds, and no runner of this process has."""
    held = {getattr(runner, "unit", "") for runner in _runners()}
    for directory in directories:
        for entry in entries(directory):
            if entry.name.endswith(".service") and entry.name not in held:
                yield Leftover("processes", entry.name)


def _runners() -> list[Runner]:
    while True:
        try:
            return list(RUNNERS)
        except RuntimeError:  # the loop made or dropped one meanwhile
            continue


def _processes() -> dict[int, tuple[int, int, bytes]]:
    """Parent, session and command line of each that runs."""
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError, ValueError), open(f"/proc/{pid}/stat", "rb") as stat:
            state, parent, _, session = stat.read().rpartition(b")")[2].split()[:4]
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                words = line.read(4096)
            if state not in (b"Z", b"X"):
                found[pid] = int(parent), int(session), words
    return found


def _ancestors(pid: int, found: dict[int, tuple[int, int, bytes]]) -> Iterator[int]:
    """The process itself, its parent, and so on."""
    seen = set()
    while pid in found and pid not in seen:
        seen.add(pid)
        yield pid
        pid = found[pid][0]


def _is_below(link: str, directory: str) -> bool:
    with suppress(OSError):
        return os.path.join(os.readlink(link), "").startswith(directory)
    return False


def _names(directory: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(directory)
    return []
