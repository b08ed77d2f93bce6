"""`ipdc-edge add`: puts files and directories into this node's content and prints their CIDs.

Owns which PATH is what, and the wording. Reading and hashing are upload.py's and upload_tree.py's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import sys
import tempfile
import time

from ipdc_edge import settings
from ipdc_edge.commands.client import download
from ipdc_edge.commands.display import print_json, size
from ipdc_edge.commands.progress import Progress
from ipdc_edge.commands.upload import add_file, add_open_file
from ipdc_edge.commands.upload_tree import add_tree, status
from ipdc_edge.home import Home

SPOOLED = "/var/tmp"  # where standard input waits until it is whole: it may be more than memory
EXAMPLES = """\
examples:
  ipdc-edge add book.txt
  ipdc-edge add photos/ notes.txt
  zcat log.gz | ipdc-edge add -
  ipfs cat $(ipdc-edge add --to-kubo book.txt)
  CID=$(ipdc-edge add book.txt); ipdc-edge submit Map.py Reduce.py --input $CID

The CIDs are those of IPFS under its profile unixfs-v1-2025, as `ipfs add -r` prints them. Of a directory all is
added but what is hidden in it (names that begin with a dot). Symbolic links stay links; so does a PATH that is
one, unless --dereference-args. Files that the daemon may read itself are not copied: they are served from where
they lie, and refused by their hash once they are changed. --copy keeps the content even then. What was added is
pinned until `ipdc-edge unpin CID`.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Put files and directories into this node's content and print their CIDs, a line each."
    parser.epilog = EXAMPLES
    parser.add_argument("path", metavar="PATH", nargs="+", help="a file, a directory, or - for standard input")
    parser.add_argument("--copy", action="store_true", help="copy files, also where a reference would do")
    parser.add_argument("--dereference-args", action="store_true",
                        help="where a PATH is a symbolic link, add what it leads to")
    parser.add_argument("--to-kubo", action="store_true",
                        help="hand it to the Kubo of this machine too (kubo_api in ipdc.conf), which pins it")
    parser.add_argument("--json", action="store_true",
                        help="print name, CID, size and how it is stored as JSON: a list of several PATHs")


def run(args: argparse.Namespace) -> int:
    """0 when the daemon has all of it."""
    added = []
    for path in args.path:
        progress = Progress(args.json)
        try:
            found = _add(path, args, _Shown(progress))
            if args.to_kubo:
                to_kubo(Home(os.environ), str(found["cid"]))
        finally:
            progress.end()
        added.append(found)
        if args.json:
            continue
        print(found["cid"], flush=True)
        if found["copied"] and not args.copy and path != "-":
            print(f"ipdc-edge: {_copied(found)}, because the daemon may not read it itself", file=sys.stderr)
    if args.json:
        shown = [{key: found[key] for key in ("name", "cid", "size", "stored")} for found in added]
        print_json(shown[0] if len(shown) == 1 else shown)
    return 0


def _add(path: str, args: argparse.Namespace, shown: _Shown) -> dict[str, object]:
    home = Home(os.environ)
    if path == "-":
        with tempfile.TemporaryFile(dir=SPOOLED) as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool, 1 << 20)
            spool.seek(0)
            added = add_open_file(home, spool, "standard input", name="-", copy=True, progress=shown.file)
        return {"name": "-", "cid": added.cid, "size": added.size, "stored": "copy", "files": 1, "copied": 1}
    name = os.path.basename(os.path.abspath(path))
    if args.dereference_args:
        path = os.path.realpath(path)
    kind = stat.S_IFMT(status(path.rstrip("/") or "/").st_mode)
    if kind in (stat.S_IFDIR, stat.S_IFLNK):
        tree = add_tree(home, path.rstrip("/") or "/", copy=args.copy, progress=shown.tree)
        return {**tree._asdict(), "name": name}
    added = add_file(home, path, name=name, copy=args.copy, progress=shown.file)
    return {"name": name, "cid": added.cid, "size": added.size, "stored": added.stored, "files": 1,
            "copied": int(added.stored == "copy")}


def to_kubo(home: Home, cid: str) -> None:
    """Hand what the daemon has of a CID to Kubo."""
    from ipdc_edge.drivers.kubo import import_car

    import_car(settings.load(home.conf).kubo_api, cid, download(home, "car", cid=cid))


def _copied(found: dict[str, object]) -> str:
    if found["files"] == 1:
        return "the file was copied"
    return f"{found['copied']} of {found['files']} files were copied"


class _Shown:
    """How far it was read, at a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._at = 0.0

    def file(self, read: int) -> None:
        self._show(f"reading {size(read)}")

    def tree(self, read: int, total: int) -> None:
        self._show(f"reading {size(read)} of {size(total)}")

    def _show(self, text: str) -> None:
        if time.monotonic() - self._at > 0.1:
            self._at = time.monotonic()
            self._progress.line(text)
