"""Blocks in files of this node: writing them, finding them again, removing them.

Owns the bytes in the store's directory and in users' files that references name; where they lie is `block_places`.
Knows nothing of owners and quota, which `blocks` has; a part of it, whose lock it takes around a file's name and row.
Bytes come before their row in the index and go after it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import BlockMismatch, verify_digest
from ipdc_edge.drivers.block_files import BlockReader, ContentWriter, write_all
from ipdc_edge.drivers.block_places import Places, remove
from ipdc_edge.drivers.block_rows import CONTENT_FILE, REFERENCE, File, in_doubt
from ipdc_edge.drivers.durable import sync_directory, sync_file
from ipdc_edge.drivers.flash import FLASH

if TYPE_CHECKING:
    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_rows import Location
    from ipdc_edge.drivers.blocks import BlockStore

_PIECE = 64 << 10  # bytes read at a time when a block is only hashed
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


class NotThere(Exception):
    """The bytes are not where they were: the message says why."""


class OnDisk:
    """The files of one store."""

    def __init__(self, directory: str) -> None:
        self.places = Places(directory)
        self._names = itertools.count()

    def put(self, store: BlockStore, cid: str, data: Buffer, owner: str, durable: bool) -> None:
        """Write a block, for which there is room, into a file of its own, and record it. DiskFull."""
        temporary = self.places.under_way(cid, next(self._names))
        try:
            _write_file(temporary, data, owner, durable)
            with store._lock:
                self._adopt(store, temporary, cid, len(data), owner, durable)
        except BaseException:
            remove(temporary)
            raise

    def _adopt(self, store: BlockStore, temporary: str, cid: str, size: int, owner: str, durable: bool) -> None:
        """Give a written block its name and its row. Another thread may have been faster: then its bytes
        count once."""
        path = self.places.block(cid)
        subdirectory = os.path.dirname(path)
        fresh = not os.path.isdir(subdirectory)
        if fresh:
            os.makedirs(subdirectory, exist_ok=True)
        again = store.has_block_file(cid) or os.path.exists(path)
        os.rename(temporary, path)
        try:
            if durable:
                sync_directory(subdirectory, owner)
                if fresh:
                    sync_directory(self.places.directory, owner)
            store.record(owner, [(None, [(cid, size, 0)])], durable)
        except BaseException as error:
            if not again and in_doubt(error):
                store.give_room(-size)  # what the caller gives back: it stays
            elif not again:
                remove(path)
            raise
        if again:
            store.give_room(size)

    def open(self, cid: str, location: Location) -> BlockReader:
        """The block's range, not verified. NotThere, OSError: only a file that is gone says something about the block;
        too many open files, say, does not."""
        if location.place == REFERENCE:
            path = location.path
        elif location.place == CONTENT_FILE:
            path = self.places.content(location.path)
        else:
            path = self.places.block(cid)
        try:
            # a reference's path may lead to anything by now: never wait for a pipe to open
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENOENT and (location.place != REFERENCE or error.errno in _PASSING):
                raise
            raise NotThere(os.strerror(error.errno or 0)) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotThere("it is no regular file")
        return BlockReader(descriptor, location.offset, location.size)


class FileWriter(ContentWriter):
    """A content file on disk."""

    def __init__(self, store: BlockStore, owner: str, name: str) -> None:
        super().__init__(store, owner, name)
        self._path = store.places.content(name)
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, cid: str, data: Buffer, offset: int) -> None:
        """At the file's end."""
        write_all(self._descriptor, data, offset, self._path)

    def flush(self) -> None:
        """Have what was written on the disk before there is more."""
        os.fdatasync(self._descriptor)
        FLASH.synced([self.owner])

    def read_back(self, offset: int, size: int) -> bytes:
        """What was written there."""
        return os.pread(self._descriptor, size, offset)

    def settle(self, durable: bool) -> File:
        """The file and its name on the disk, where that must be."""
        if durable:
            sync_file(self._descriptor, self.owner)
            directory = os.path.dirname(self._path)
            sync_directory(directory, self.owner)
            sync_directory(os.path.dirname(directory), self.owner)
        return File(CONTENT_FILE, self.name, self.size)

    def remove(self) -> None:
        """Unlink it."""
        remove(self._path)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def check_pieces(cid: str, location: Location, reader: BlockReader) -> str:
    """Read a block piece by piece, without a change of where `reader` stands: what is wrong with it, or ""."""
    digest = hashlib.sha256()
    at = location.offset
    end = at + location.size
    while at < end and (piece := os.pread(reader.descriptor, min(_PIECE, end - at), at)):
        digest.update(piece)
        at += len(piece)
    try:
        verify_digest(cid, digest.digest(), b"")
    except BlockMismatch:
        return "its bytes changed" if at == end else "it became shorter"
    return ""


def _write_file(path: str, data: Buffer, owner: str, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        write_all(descriptor, data, 0, path)
        FLASH.wrote(owner, len(data))
        if durable:
            sync_file(descriptor, owner)
    finally:
        os.close(descriptor)
