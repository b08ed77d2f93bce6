"""Reading a block piece by piece, and writing a content file of many blocks: what all places of blocks have in common.

Owns a block that is open, and what is known of one content file under way. Never knows who holds a block: that is
`blocks` and its index; where the bytes go is `block_disk` and `block_kubo`.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import FileBuilder
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_rows import File, Group
    from ipdc_edge.drivers.blocks import BlockStore

_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,127}", re.ASCII)  # it becomes the name of a directory


class DiskFull(IpdcError):
    """The disk is full: {wanted} bytes of {path} could not be written."""

    retry = True


class BlockReader:
    """An open, verified block, to be sent piece by piece without ever being held whole."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor = descriptor
        self._at = offset
        self._end = offset + size
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; empty at the end, and also when the file was cut meanwhile."""
        if self.descriptor < 0:
            return b""
        data = os.pread(self.descriptor, min(limit, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        """Give the descriptor back. May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class HeldBlock(BlockReader):
    """The same for a block that is in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, 0, len(data))
        self._data = data

    def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`."""
        data = self._data[self._at : self._at + limit]
        self._at += len(data)
        return data

    def close(self) -> None:
        """Let go of it."""
        self._data = b""


class InlinedBlock(HeldBlock):
    """One that stands in its own CID."""


class ContentWriter:
    """A content file under way: blocks are appended, and become visible all at once by `commit`, or never.

    About 200 bytes of memory for each block until then. Not for two threads at a time. A kind of it says where the
    bytes lie: `write`, `flush`, `read_back`, `settle` and `remove`.
    """

    def __init__(self, store: BlockStore, owner: str, name: str) -> None:
        self.owner = owner
        self.name = name
        self.size = 0
        self._store = store
        self._rows: list[tuple[str, int, int]] = []

    # --- where the bytes lie

    def write(self, cid: str, data: Buffer, offset: int) -> None:
        """Put a block behind the others."""
        raise NotImplementedError

    def flush(self) -> None:
        """Have what was written on the disk before there is more."""

    def read_back(self, offset: int, size: int) -> bytes:
        """The block that was written there."""
        raise NotImplementedError

    def settle(self, durable: bool) -> File:
        """All is written: where it lies, before any row says so."""
        raise NotImplementedError

    def remove(self) -> None:
        """What was written is nobody's."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is open. May be called twice."""

    # --- what comes and becomes of it

    def append(self, data: Buffer) -> str:
        """Write a raw leaf and say its CID. StoreFull or DiskFull leave the file as it was."""
        cid = raw_cid(data)
        self.append_block(cid, data)
        return cid

    def append_block(self, cid: str, data: Buffer) -> int:
        """Write a block whose CID the caller has checked; its offset in the file."""
        self._store.take_room(len(data))
        offset = self.size
        self.size += len(data)  # counted at once, so that a failure below is given back with the whole file
        self.write(cid, data, offset)
        FLASH.wrote(self.owner, len(data))
        self._rows.append((cid, len(data), offset))
        return offset

    def commit(self, durable: bool = False) -> None:
        """Make the blocks the owner's, in one transaction. With `durable` they survive a power cut."""
        self.commit_with([], durable)

    def commit_file(self, durable: bool = False) -> tuple[str, int]:
        """Commit the appended leaves as one UnixFS file, with its interior blocks, and say (root, size)."""
        if not self._rows:
            self.append(b"")
        builder = FileBuilder()
        for cid, size, _ in list(self._rows):
            for block in builder.add(cid, size):
                self.append_block(*block)
        root, total, blocks = builder.finish()
        for block in blocks:
            self.append_block(*block)
        self.commit(durable)
        return root, total

    def commit_with(self, groups: list[Group], durable: bool) -> None:
        """`commit`, and rows for blocks elsewhere in the same transaction."""
        file = self.settle(durable)
        self._store.commit_writer(self, [(file, self._rows), *groups], durable)
        self.close()

    def commit_moved(self, old: str) -> int:
        """Have the blocks, which lie in the content file `old`, lie here, durably, without `old`: what this freed."""
        freed = self._store.move_writer(self, old, self.settle(True), self._rows)
        self.close()
        return freed

    def discard(self) -> None:
        """Remove what was written. Nothing happens after `commit`."""
        self._store.abandon_writer(self)
        self.close()


def write_all(descriptor: int, data: Buffer, offset: int, path: str) -> None:
    """Write every byte at this offset, or raise DiskFull naming `path`."""
    view = memoryview(data)
    try:
        while len(view):
            written = os.pwrite(descriptor, view, offset)
            view = view[written:]
            offset += written
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(wanted=len(data), path=path) from None
        raise


def check_owner(owner: str) -> None:
    """ValueError for a name that could not be a directory: that is a bug of ours, not a peer's."""
    if not _OWNER.fullmatch(owner):
        raise ValueError(f"an owner's name becomes a directory; {owner!r} cannot")
