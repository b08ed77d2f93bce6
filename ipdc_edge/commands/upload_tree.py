"""Brings directories into the node's content, as `ipfs add -r` does: files, directories, and symlinks as symlinks.

Owns the walk, with the caller's rights: depth first, one directory's entries at a time. It is walked twice, first
without reading any file, so that what cannot be added is told before much was read. Hidden entries below the top are
left out. Links are never followed. What memory it takes grows with the directories it is in, about 200 bytes an entry.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ipdc_edge.codec import frames
from ipdc_edge.codec.control import block_payload
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.unixfs import symlink_block
from ipdc_edge.commands.client import Conversation
from ipdc_edge.commands.program import unreadable
from ipdc_edge.commands.upload import NotAFile, add_file
from ipdc_edge.errors import ControlBroken
from ipdc_edge.home import Home

_OTHERS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


class AddedTree(NamedTuple):
    """A directory or symlink that the daemon has: the bytes of all files in it; `stored` is "reference", "copy", or
    "mixed" where some files had to be copied."""

    cid: str
    size: int
    stored: str
    files: int
    copied: int


@dataclass
class _Level:
    """A directory on the way down; `entries` are those that are here already."""

    path: str
    name: str
    left: Iterator[str]
    entries: DirectoryBuilder = field(default_factory=DirectoryBuilder)


def add_tree(home: Home, path: str, *, copy: bool, progress: Callable[[int, int], None] | None = None) -> AddedTree:
    """Adds a directory or a symlink. `progress` is called with the bytes read so far and those of all files."""
    total = measure(path)
    with Conversation(home, "add it again") as conversation:
        conversation.request("add_tree", {})
        said = conversation.objects()
        tree = str(next(said, {}).get("tree"))
        walk = _Walk(home, conversation, tree, copy, lambda read: progress(read, total) if progress else None)
        root = walk.add(path)
        conversation.send(frames.END)
        answer = next(said, {})
    if answer.get("cid") != root:
        raise ControlBroken(reason=f"the daemon has {str(answer.get('cid'))[:80]!a} in the place of {root}")
    stored = "copy" if walk.copied == walk.files else "mixed" if walk.copied else "reference"
    return AddedTree(root, walk.size, stored, walk.files, walk.copied)


def measure(path: str) -> int:
    """The bytes of all files below, from a walk that reads none. FileUnreadable, NotAFile for what cannot be added."""
    total, waiting = 0, []

    def see(place: str) -> None:
        nonlocal total
        found = status(place)
        kind = _kind(place, found)
        if kind == stat.S_IFREG:
            total += found.st_size
        elif kind == stat.S_IFDIR:
            waiting.append(place)

    see(path)
    while waiting:
        place = waiting.pop()
        for name in _names(place):
            see(os.path.join(place, name))
    return total


class _Walk:
    """Adds what is below one path, bottom up."""

    def __init__(
        self, home: Home, conversation: Conversation, tree: str, copy: bool, progress: Callable[[int], None]
    ) -> None:
        self.size = self.files = self.copied = 0
        self._home = home
        self._conversation = conversation
        self._tree = tree
        self._copy = copy
        self._progress = progress

    def add(self, path: str) -> str:
        """The root's CID."""
        if _kind(path, status(path)) != stat.S_IFDIR:
            return self._leaf(path)[0]
        stack = [_Level(path, "", iter(_names(path)))]
        while True:
            level = stack[-1]
            name = next(level.left, None)
            if name is not None:
                below = os.path.join(level.path, name)
                if _kind(below, status(below)) == stat.S_IFDIR:
                    stack.append(_Level(below, name, iter(_names(below))))
                else:
                    level.entries.add(_unixfs_name(name), *self._leaf(below))
                continue
            stack.pop()
            cid, tsize = self._directory(level)
            if not stack:
                return cid
            stack[-1].entries.add(_unixfs_name(level.name), cid, tsize)

    def _leaf(self, path: str) -> tuple[str, int]:
        """(CID, tsize) of a file or symlink."""
        try:
            target = os.readlink(os.fsencode(path))
        except OSError:  # it is a file
            added = add_file(self._home, path, name=os.path.basename(path), copy=self._copy, tree=self._tree,
                             progress=lambda read: self._progress(self.size + read))
            self.size += added.size
            self.files += 1
            self.copied += added.stored == "copy"
            return added.cid, added.tsize
        cid, block = symlink_block(target)
        self._send(cid, block)
        return cid, len(block)

    def _directory(self, level: _Level) -> tuple[str, int]:
        """(CID, tsize)."""
        for cid, block in level.entries.blocks():
            self._send(cid, block)
        return level.entries.cid, level.entries.tsize

    def _send(self, cid: str, block: bytes) -> None:
        self._conversation.send(frames.BLOCK, block_payload(cid, block))


def status(path: str) -> os.stat_result:
    """What stands at the very path, not where a link leads. FileUnreadable."""
    try:
        return os.lstat(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _kind(path: str, found: os.stat_result) -> int:
    """S_IFREG, S_IFDIR or S_IFLNK. NotAFile for all else."""
    kind = stat.S_IFMT(found.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise NotAFile(path=path, kind=_OTHERS.get(kind, "no file"), advice="Content is files, directories and links.")
    return kind


def _names(path: str) -> list[str]:
    """What lies in a directory and is not hidden. FileUnreadable."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise unreadable(path, error) from error


def _unixfs_name(name: str) -> str:
    """A name as the codec has it: its bytes, whatever the locale's own encoding is."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")
