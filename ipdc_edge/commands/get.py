"""`ipdc-edge get`: writes what a CID names to disk: a file, a directory with all below it, a symbolic link.

Owns the way it gets there: beside its place, in a directory of its own (`unfinished`), and renamed when it is whole.
Nothing is written outside of it: names of entries are checked here too, files and directories are made new and never
opened through a link, and links are made and never followed. Two conversations at a time with the daemon, whatever the
depth.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ipdc_edge.commands.client import download, events
from ipdc_edge.commands.content import cid_of, shown_name
from ipdc_edge.commands.display import print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.unfinished import OLD, clear, undisturbed, unfinished
from ipdc_edge.errors import ControlBroken, IpdcError
from ipdc_edge.home import Home

EXAMPLES = """\
examples:
  ipdc-edge get bafybeiexample
  ipdc-edge get bafybeiexample -o photos
  ipdc-edge get --force bafkreiexample -o book.txt

What stands at PATH is replaced with --force only, and only when all is here. Every block is checked against its CID.
Links in a directory are made as they are, wherever they lead. Ended early, it leaves nothing; what one that was killed
has left beside PATH (.ipdc-get-...) goes with the next.
"""


class AlreadyThere(IpdcError):
    """{path} is there already. Name another place with -o, or replace it with --force."""

    exit_code = 2


class NotWritten(IpdcError):
    """Cannot write {path}: {reason}."""


class EntryRefused(IpdcError):
    """The directory {cid} has an entry {name} that this file system cannot take: {reason}."""


class NoContent(IpdcError):
    """{cid} ({name}) cannot be written: {reason}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Write what a CID names to disk: a file, a directory with all below it, a symbolic link."
    parser.epilog = EXAMPLES
    parser.add_argument("cid", metavar="CID", help="a CID, of version 0 or 1")
    parser.add_argument("-o", "--output", metavar="PATH", help="where to; else the CID itself, in this directory")
    parser.add_argument("--force", action="store_true", help="replace what stands there")
    parser.add_argument("--json", action="store_true", help="print CID, path, kind and size as JSON")


def run(args: argparse.Namespace) -> int:
    """0 when all of it stands at its place."""
    cid = cid_of(args.cid)
    path = os.path.abspath(args.output or cid)
    if os.path.lexists(path) and not args.force:
        raise AlreadyThere(path=path)
    for left, gone in clear(os.path.dirname(path)):
        print(f"ipdc-edge: {shown_name(left)} was left by a get that was killed; " + (
            "it is removed" if gone else f"its `{OLD}` is what stood where that should have gone, look at it"),
            file=sys.stderr)
    progress = Progress(args.json)
    try:
        with unfinished(os.path.dirname(path)) as beside:
            fetched = _Fetched(Home(os.environ), os.fsencode(beside), progress)
            kind = fetched.fetch(cid)
            with undisturbed():
                _put_in_place(beside, path, args.force)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        raise NotWritten(path=path, reason=error.strerror or str(error)) from error
    finally:
        progress.end()
    if args.json:
        print_json({"cid": cid, "path": path, "kind": kind, "size": fetched.size})
    else:
        print(f"{shown_name(path)}: {kind}" + (f", {size(fetched.size)}" if kind != "symlink" else ""))
    return 0


class _Fetched:
    """What comes to lie at `top`, which is not there yet. Paths are bytes here, as names are."""

    def __init__(self, home: Home, top: bytes, progress: Progress) -> None:
        self.size = 0
        self._home = home
        self._top = top
        self._progress = progress

    def fetch(self, cid: str) -> str:
        """All of it; what kind it is."""
        waiting: list[tuple[bytes, str]] = []
        kind = self._root(cid, waiting)
        while waiting:
            place, below = waiting.pop()
            for entry in self._listed(below):
                if isinstance(entry.get("entry"), Mapping):
                    self._entry(place, below, entry["entry"], waiting)
        return kind

    def _listed(self, cid: str) -> Iterator[Mapping[str, Any]]:
        return events(self._home, "ls", "get it again", cid=cid)

    def _root(self, cid: str, waiting: list[tuple[bytes, str]]) -> str:
        answer: Mapping[str, Any] = {}
        for answer in self._listed(cid):
            if isinstance(answer.get("entry"), Mapping):
                if not waiting:
                    os.mkdir(self._top)
                    waiting.append((self._top, cid))
                self._entry(self._top, cid, answer["entry"], waiting)
        kind = str(answer.get("kind"))
        if waiting:
            del waiting[0]  # its own entries are here
        elif kind == "directory":
            os.mkdir(self._top)
        else:
            self._make(self._top, cid, kind, answer.get("target"))
        return kind

    def _entry(self, place: bytes, directory: str, entry: Mapping[str, Any], waiting: list[tuple[bytes, str]]) -> None:
        name = str(entry.get("name")).encode("utf-8", "surrogateescape")
        cid, kind = str(entry.get("cid")), str(entry.get("kind"))
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise ControlBroken(reason=f"an entry of {directory} is named {name[:80]!r}")
        path = os.path.join(place, name)
        try:
            if kind == "directory":
                os.mkdir(path)
                waiting.append((path, cid))
            else:
                self._make(path, cid, kind, entry.get("target"))
        except FileExistsError:
            raise EntryRefused(cid=directory, name=_said(name), reason="there is one of that name already") from None
        except OSError as error:
            if path not in (error.filename, error.filename2):
                raise  # not about the name
            raise EntryRefused(cid=directory, name=_said(name), reason=error.strerror) from error

    def _make(self, path: bytes, cid: str, kind: str, target: object) -> None:
        """A file or a link, where nothing is."""
        if kind == "symlink":
            where = str(target).encode("utf-8", "surrogateescape")
            if not where or b"\0" in where:
                raise NoContent(cid=cid, name=_said(os.path.basename(path)), reason="it is a link to no path")
            os.symlink(where, path)
            return
        if kind != "file":
            reason = "no node that is reached now has it" if kind == "missing" else f"its kind is {kind[:40]}"
            raise NoContent(cid=cid, name=_said(os.path.basename(path)), reason=reason)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb", buffering=0) as file:
            for data in download(self._home, "cat", cid=cid):
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                self.size += len(data)
                self._progress.line(f"getting {size(self.size)}")


def _said(name: bytes) -> str:
    return shown_name(name.decode("utf-8", "surrogateescape"))


def _put_in_place(beside: str, path: str, force: bool) -> None:
    """Give what is whole its name. Without `force` nothing is replaced, not even what came there meanwhile."""
    directory = os.path.isdir(beside) and not os.path.islink(beside)
    if not force:
        if directory or os.path.islink(beside):
            if os.path.lexists(path):
                raise AlreadyThere(path=path)
            os.rename(beside, path)
            return
        try:
            os.link(beside, path, follow_symlinks=False)
        except FileExistsError:
            raise AlreadyThere(path=path) from None
        except OSError:  # a file system without links
            if os.path.lexists(path):
                raise AlreadyThere(path=path) from None
            os.rename(beside, path)
        return
    replaced = os.path.isdir(path) and not os.path.islink(path)
    if not replaced and not (directory and os.path.lexists(path)):
        os.rename(beside, path)
        return
    old = os.path.join(os.path.dirname(beside), OLD)
    os.rename(path, old)
    try:
        os.rename(beside, path)
    except BaseException:
        os.rename(old, path)
        raise
