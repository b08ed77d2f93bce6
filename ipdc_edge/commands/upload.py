"""Brings files into the node's content: computes their CIDs, hands their descriptors to the daemon.

Owns the client's half of the control operation `add`. Files are opened with the caller's rights. What is copied is read
by the daemon, which must hash what it writes; any other file here, once, in a buffer of one chunk. Interior blocks wait
in a spooled temporary file, so memory does not grow with the file. The daemon is never told a path.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from typing import IO, BinaryIO, NamedTuple

from ipdc_edge.codec import frames
from ipdc_edge.codec.cid import is_cid
from ipdc_edge.codec.control import block_payload
from ipdc_edge.codec.unixfs import CHUNK, tree_size
from ipdc_edge.commands.client import Conversation
from ipdc_edge.commands.program import unreadable
from ipdc_edge.drivers.importer import Importer
from ipdc_edge.errors import ControlBroken, IpdcError
from ipdc_edge.home import Home

SPOOL_BYTES = 1 << 20  # interior blocks kept in memory; 20 GB of input have as much


class NotAFile(IpdcError):
    """{path} is {kind}. {advice}"""

    exit_code = 2


class FileChanged(IpdcError):
    """{path} changed while it was read. Wait until nobody writes to it, or copy it first."""

    retry = True


class Added(NamedTuple):
    """A file that the daemon has: `stored` is "reference" or "copy", `tsize` the bytes of all its blocks."""

    cid: str
    size: int
    stored: str
    tsize: int


def open_file(path: str, flags: int = 0) -> BinaryIO:
    """A regular file, open for reading, with more `flags` of open(2). Raises FileUnreadable or NotAFile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)  # not to wait for a pipe's writer
    except OSError as error:
        raise unreadable(path, error) from error
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return open(fd, "rb", buffering=0)
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise NotAFile(path=path, kind="a directory", advice="Name the files in it.")
    raise NotAFile(path=path, kind="not a regular file", advice="Write what it gives into a file first.")


def add_file(
    home: Home, path: str, *, name: str, copy: bool, submission: str | None = None,
    progress: Callable[[int], None] | None = None, tree: str | None = None,
) -> Added:
    """Adds one file. `copy` forbids a reference to it. `submission` (16 hexadecimal digits) says that it
    belongs to the job that will be submitted under that name, `tree` to a directory that is being added; without, it
    is kept for the user. `progress` is called with the bytes read so far."""
    with open_file(path, os.O_NOFOLLOW if tree else 0) as file:  # a tree's links were seen before
        return add_open_file(home, file, path, name=name, copy=copy, submission=submission, progress=progress,
                             tree=tree)


def add_open_file(
    home: Home, file: BinaryIO, path: str, *, name: str, copy: bool, submission: str | None = None,
    progress: Callable[[int], None] | None = None, tree: str | None = None,
) -> Added:
    """The same for a regular file that is open, at its beginning."""
    before = os.fstat(file.fileno())
    request: dict[str, object] = {"name": name, "copy": copy, "keep": submission is None, "submission": submission}
    if tree is not None:
        request["tree"] = tree
    if copy or before.st_size > CHUNK:  # what is small is read sooner than asked for
        try:
            copied = _copied(home, file, request, progress)
        except IpdcError as error:
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise FileChanged(path=path) from error
            raise
        if copied is not None:
            return copied
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        importer = Importer(_Counted(file, progress))  # type: ignore[arg-type]
        for cid, block in importer.blocks():
            payload = block_payload(cid, block)
            spool.write(len(payload).to_bytes(4, "big") + payload)
        after = os.fstat(file.fileno())
        if (importer.size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise FileChanged(path=path)
        spool.seek(0)
        with Conversation(home, "add it again") as conversation:
            conversation.request("add", {**request, "size": importer.size, "root": importer.root}, (file.fileno(),))
            while length := int.from_bytes(spool.read(4), "big"):
                conversation.send(frames.BLOCK, spool.read(length))
            conversation.send(frames.END)
            answer = conversation.answer()
    return Added(importer.root, importer.size, str(answer.get("stored")), importer.tsize)


def _copied(
    home: Home, file: BinaryIO, request: dict[str, object], progress: Callable[[int], None] | None
) -> Added | None:
    """What the daemon made of the file; None where it can stay where it is."""
    answer: dict[str, object] = {}
    with Conversation(home, "add it again") as conversation:
        conversation.request("add", request, (file.fileno(),))
        for answer in conversation.objects():
            if progress is not None and isinstance(read := answer.get("read"), int):
                progress(read)
    cid, size = answer.get("cid"), answer.get("size")
    if cid is None:
        return None
    if not isinstance(cid, str) or not is_cid(cid) or type(size) is not int or size != os.fstat(file.fileno()).st_size:
        raise ControlBroken(reason=f"no CID and size of this file: {str(answer)[:200]!a}")
    return Added(cid, size, "copy", tree_size(size))


class _Counted:
    """A file that tells how far it was read."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self._read = 0

    def readinto(self, buffer: memoryview) -> int:
        count = int(self._file.readinto(buffer))  # type: ignore[attr-defined]
        self._read += count
        if self._progress is not None:
            self._progress(self._read)
        return count
