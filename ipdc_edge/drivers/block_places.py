"""Where the block store's own files lie, and how they go.

Owns the layout of its directory: blocks under way in `new/`, blocks in files of their own in `<end of the CID>/<CID>`,
content files in `files/<owner>/<name>`. What the files mean is the index's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipdc_edge.drivers.block_index import BlockIndex

UNDER_WAY, BLOCK, CONTENT = range(3)  # what a file there is


class Places:
    """The directory of one store; made where it is missing."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        for name in ("files", "new"):
            os.makedirs(os.path.join(directory, name), exist_ok=True)

    def under_way(self, cid: str, number: int) -> str:
        """Of a block that is being written; `number` tells several apart."""
        return os.path.join(self.directory, "new", f"{cid}.{number}")

    def block(self, cid: str) -> str:
        """Of a block in a file of its own."""
        return os.path.join(self.directory, cid[-2:], cid)

    def content(self, name: str) -> str:
        """Of a content file; its name is `owner/name`."""
        return os.path.join(self.directory, "files", name)

    def files(self) -> Iterator[tuple[int, str, str]]:
        """Every file in the store: what it is, its name (a CID, or a content file's), its path."""
        for entry in entries(self.directory):
            if entry.name == "new":
                yield from ((UNDER_WAY, below.name, below.path) for below in entries(entry.path))
            elif entry.name == "files":
                for owner in entries(entry.path):
                    yield from ((CONTENT, os.path.join(owner.name, below.name), below.path)
                                for below in entries(owner.path))
            elif len(entry.name) == 2 and entry.is_dir(follow_symlinks=False):
                yield from ((BLOCK, below.name, below.path) for below in entries(entry.path))

    def remove_empty(self, owners: list[str]) -> None:
        """The directories of these owners, where nothing is in them."""
        for owner in dict.fromkeys(owners):
            try:
                os.rmdir(os.path.join(self.directory, "files", owner))
            except OSError as error:
                # another owner holds a block in one of its files, a file is under way, or there never was one
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise

    def sweep(self, index: BlockIndex) -> None:
        """Remove what an unclean end left behind: files that no row names."""
        remove_all([self.content(name) for name in index.forget_empty_files()])
        known = {CONTENT: dict.fromkeys(index.content_files()).__contains__, BLOCK: index.has_own_file}
        for kind, name, path in self.files():
            if kind == UNDER_WAY or not known[kind](name):
                remove(path)
        self.remove_empty(os.listdir(os.path.join(self.directory, "files")))


def remove(path: str) -> None:
    """Unlink a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_all(paths: list[str]) -> None:
    """All that can be removed, and then the first OSError: the next start removes the rest."""
    refused: list[OSError] = []
    for path in paths:
        try:
            remove(path)
        except OSError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def entries(directory: str) -> list[os.DirEntry[str]]:
    """What lies in a directory; nothing where it is gone meanwhile or was none."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as found:
        return list(found)
    return []
