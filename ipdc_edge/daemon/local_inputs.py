"""This node's own files as input of others' jobs: compute goes to the data.

Owns which files those are: regular ones below the directories that the node's owner has named (`local_inputs` in
ipdc.conf), whatever pattern a peer sends and wherever links lead. Never tells anybody a file's content: only this
node's own runner reads it.
"""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.architecture import BadSpec
from ..errors import IpdcError

LOCAL_INPUT = "input-local:"  # begins the capability of a node that opens a directory of its own to jobs; that follows
MOST_FILES = 2000  # of one task: their names are handed to the runner in one frame
MOST_LOOKED_AT = 100_000  # names in all directories that are walked for one pattern
MOST_ANY = 3  # `**` in one pattern: each multiplies the ways in which a long name can match
PIECE = 1 << 20  # bytes read at a time


class NotOpened(IpdcError):
    """{pattern} is not below a directory that this node opens to jobs (local_inputs in its ipdc.conf: {open})"""


class TooManyFiles(IpdcError):
    """{pattern} means more than {limit} files or names to look at on this node: give a narrower one"""


class LocalChanged(IpdcError):
    """{path} changed while it was read: only {read} of {size} bytes were there"""


def opens(capabilities: Iterable[str], pattern: str) -> bool:
    """Whether a node with these opens what the pattern means."""
    named = [name.removeprefix(LOCAL_INPUT) for name in capabilities if name.startswith(LOCAL_INPUT)]
    return any(pattern.startswith(path.rstrip("/") + "/") for path in named)


class LocalInputs:
    """The files that this node opens to jobs."""

    def __init__(self, directories: Sequence[str]) -> None:
        self.directories = tuple(os.path.realpath(path) for path in directories)
        self.named = tuple(directories)

    async def expanded(self, params: dict[str, Any]) -> dict[str, Any]:
        """A task's (checked) parameters with a range of each of this node's files in the place of `local` inputs.
        NotOpened, TooManyFiles, BadSpec; OSError."""
        inputs = params.get("inputs") if isinstance(params, dict) else None
        if not isinstance(inputs, list) or not any(isinstance(item, dict) and "local" in item for item in inputs):
            return params
        patterns: list[str] = []
        for item in inputs:
            pattern = item["local"].get("pattern") if isinstance(item.get("local"), dict) else None
            if not isinstance(pattern, str):
                raise BadSpec(reason="a local input without a pattern, or one beside others")
            patterns.append(pattern)
        found = await asyncio.to_thread(self._find_all, patterns)  # at once: a master may name thousands
        return {**params, "inputs": [{"range": file} for file in found]}

    def _find_all(self, patterns: Sequence[str]) -> list[dict[str, Any]]:
        """The files of all patterns, which together are not more than those of one may be."""
        found: list[dict[str, Any]] = []
        for pattern in patterns:
            found += self.find(pattern)
            if len(found) > MOST_FILES:
                raise TooManyFiles(pattern=ascii(pattern), limit=MOST_FILES)
        return found

    def find(self, pattern: str) -> list[dict[str, Any]]:
        """The ranges of the files that a pattern means: `*`, `?`, `[...]`, and `**` for any directories
        (at its end: for all files below), in the order of their names. A file that may not be read is an error; nothing
        that matches is none."""
        top = next((path for path in self.named if pattern.startswith(path.rstrip("/") + "/")), None)
        if top is None or ".." in pattern.split("/"):
            raise NotOpened(pattern=ascii(pattern), open=" ".join(self.named) or "none")
        patterns = pattern[len(top.rstrip("/")) + 1 :].split("/")
        if patterns.count("**") > MOST_ANY:
            raise BadSpec(reason=f"the local pattern {ascii(pattern)} has ** more than {MOST_ANY} times")
        found: list[dict[str, Any]] = []
        looked = 0
        for path, fits in _walk(top, patterns):
            looked += 1
            file = self._file(path) if fits else None
            found += [] if file is None else [file]
            if looked > MOST_LOOKED_AT or len(found) > MOST_FILES:
                raise TooManyFiles(pattern=ascii(pattern), limit=MOST_FILES)
        return found

    def _file(self, path: str) -> dict[str, Any] | None:
        """The range of one file, unless it is none (any more), or a link led out of the opened directories."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None  # not even opened: some devices act on that, and a socket cannot be
            opened = _Opened(path, self.directories)
        except FileNotFoundError:  # rotated away meanwhile, or a link that leads nowhere
            return None
        with opened:
            if opened.size is None:
                return None
            split = {"path": path, "name": path, "start": 0, "end": opened.size, "size": opened.size}
            suffix = path.rpartition(".")[2].lower()
            return {**split, "compression": suffix} if suffix in ("gz", "bz2", "xz", "zst") else split

    async def read(self, item: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """The bytes of a range of `find`, in pieces. LocalChanged when there are fewer than there were."""
        with _Opened(item["path"], self.directories) as opened:
            at, end = item["start"], item["end"]
            if opened.size is None:
                raise LocalChanged(path=item["path"], read=0, size=end)
            while at < end:
                piece = await asyncio.to_thread(os.pread, opened.descriptor, min(PIECE, end - at), at)
                if not piece:
                    raise LocalChanged(path=item["path"], read=at, size=end)
                at += len(piece)
                yield piece


class _Opened:
    """A file, open; `size` is None unless it is a regular one below one of `directories`, where it really lies."""

    def __init__(self, path: str, directories: Sequence[str]) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(self.descriptor)
            real = os.readlink(f"/proc/self/fd/{self.descriptor}")
        except BaseException:
            os.close(self.descriptor)
            raise
        within = any(real.startswith(directory.rstrip("/") + "/") for directory in directories)
        self.size = status.st_size if within and stat.S_ISREG(status.st_mode) else None

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _walk(top: str, patterns: list[str]) -> Iterator[tuple[str, bool]]:
    """(path, whether it is a match and no directory) of all names in those directories that the patterns lead to, and
    in no others: what lies beside them is nobody's business, and may be unreadable, or endless. Links to directories
    are not followed."""
    waiting = [(top, _with_none({0}, patterns))]  # directories, and the patterns that the next name may be matched by
    while waiting:
        here, states = waiting.pop()
        try:
            with os.scandir(here) as entries:
                some = itertools.islice(entries, MOST_LOOKED_AT + 1)
                listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in some)
        except FileNotFoundError:
            if here == top:
                raise
            continue  # removed meanwhile
        below = []
        for name, is_directory in listed:
            after = _with_none({next_one for state in states for next_one in _step(name, patterns, state)}, patterns)
            path = os.path.join(here, name)
            yield path, not is_directory and len(patterns) in after
            if is_directory and after - {len(patterns)}:
                below.append((path, after))
        waiting += reversed(below)


def _with_none(states: set[int], patterns: list[str]) -> set[int]:
    """With the states behind each `**`, which may mean no directory at all."""
    found = set(states)
    for state in sorted(states):
        while state < len(patterns) and patterns[state] == "**":
            state += 1
            found.add(state)
    return found


def _step(name: str, patterns: list[str], state: int) -> tuple[int, ...]:
    """The state after a name; none where it does not match. What begins with a dot does so only where the pattern says
    the dot."""
    if state == len(patterns):
        return ()
    pattern = patterns[state]
    hidden = name.startswith(".") and not pattern.startswith(".")
    if pattern == "**":
        return () if hidden else (state,)
    return (state + 1,) if not hidden and fnmatch.fnmatchcase(name, pattern) else ()
