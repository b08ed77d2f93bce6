"""The embedded block store: IPFS blocks on this node's disk, each kept for as long as somebody owns it.

Owns the directory of blocks: block files, content files (many blocks in one plain file), references into
users' files, and the quota over the first two. Never opens a path that somebody names: a reference's path is
learnt from an open descriptor and used only while it leads to the same file. Never hands out bytes that do
not have their CID's hash.

The interface is synchronous and safe for threads; big reads belong into `asyncio.to_thread`. Layout:

    index.db                    see block_index
    <last 2 of cid>/<cid>       a block in a file of its own
    files/<owner>/<name>        a content file: runs, parts, copies of inputs, interior nodes
    new/                        files on their way to a name; emptied at the start

Who an owner is stands in `block_rows`. Bytes come before their row in the index and go after it: a crash leaves
files without a row, which the next start removes. A row whose bytes a power cut took, because they were not put
durably, counts as not here as soon as somebody looks. What was unpinned goes when room is wanted: `block_pins`.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
import threading
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import BlockMismatch, canonical, inlined, verify, verify_digest
from ipdc_edge.codec.unixfs import MAX_BLOCK
from ipdc_edge.drivers.block_files import BlockReader, ContentWriter, InlinedBlock, check_owner, write_all
from ipdc_edge.drivers.block_index import BlockIndex
from ipdc_edge.drivers.block_places import Places, remove, remove_all
from ipdc_edge.drivers.block_rows import CONTENT_FILE, LOST, OWN_FILE, REFERENCE, File, Freed, Location, in_doubt
from ipdc_edge.drivers.durable import sync_directory, sync_file
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_import import FileImport
    from ipdc_edge.drivers.block_rows import Group, Row

_PIECE = 64 << 10  # bytes read at a time when a block is only hashed
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


class StoreFull(IpdcError):
    """The block store holds {held} of the {quota} bytes that it may, and {wanted} more do not fit. Raise
    store_quota in ipdc.conf, unpin what you do not need here (ipdc-edge pin --list, then gc), or let jobs end."""

    retry = True


class BlockTooBig(IpdcError):
    """The block {cid} has {size} bytes; a block has at most {limit}."""


class ReferenceChanged(IpdcError):
    """The file {path} is not what it was when it was added: its bytes from {offset} on are no longer the
    block {cid} ({reason}). Put the old file back, or add it again and submit with the new CID."""


class BlockStore:
    """Blocks by CID, under owners. `quota` bounds the bytes of our own files; references are free."""

    def __init__(self, directory: str, quota: int) -> None:
        self.directory = directory
        self.quota = quota
        self._lock = threading.RLock()
        self._names = itertools.count()
        self._writers: dict[ContentWriter, str] = {}
        self.cached: dict[str, int] = {}  # owners of inputs that were kept, and bytes: they go first, in this order
        self.places = Places(directory)
        self._index = BlockIndex(os.path.join(directory, "index.db"))
        self.places.sweep(self._index)
        self._held = self._index.held_bytes()

    def put(self, cid: str, data: Buffer, owner: str, durable: bool = False) -> None:
        """Keep a block for `owner`. With `durable` it survives a power cut once this returns.

        BlockMismatch if `data` is not `cid`, StoreFull, DiskFull, BlockTooBig.
        """
        check_owner(owner)
        cid = canonical(cid)
        if len(data) > MAX_BLOCK:
            raise BlockTooBig(cid=cid, size=len(data), limit=MAX_BLOCK)
        verify(cid, data)
        if inlined(cid) is not None:
            return
        with self._lock:
            known = self._index.locate(cid)
            if known is not None and known.place != REFERENCE and known.durable >= durable:
                self._index.hold(owner, cid, durable)
                return
            self._take_room(len(data))
        temporary = self.places.under_way(cid, next(self._names))
        try:
            self._write_file(temporary, data, owner, durable)
            with self._lock:
                self._adopt(temporary, cid, len(data), owner, durable)
        except BaseException:
            remove(temporary)
            with self._lock:
                self._held -= len(data)
            raise

    def get(self, cid: str) -> bytes | None:
        """The block, always checked against its CID; None when it is not here. ReferenceChanged names the
        user's file.

        Bytes of our own that were damaged on disk count as not here, and may be put again.
        """
        reader, location = self._open(cid)
        if reader is None:
            return None
        try:
            data = reader.read(reader.size)
        finally:
            reader.close()
        if location is None:
            return data
        try:
            verify(cid, data)
        except BlockMismatch:
            reason = "its bytes changed" if len(data) == location.size else "it became shorter"
            self._found_damaged(cid, location, reason)
            return None
        return data

    def open_block(self, cid: str) -> BlockReader | None:
        """The block, checked like in `get` but never held whole: the caller reads pieces and closes."""
        reader, location = self._open(cid)
        if reader is None or location is None:
            return reader
        digest = hashlib.sha256()
        at = location.offset
        end = at + location.size
        try:
            while at < end and (piece := os.pread(reader.descriptor, min(_PIECE, end - at), at)):
                digest.update(piece)
                at += len(piece)
        except OSError:
            reader.close()
            raise
        try:
            verify_digest(cid, digest.digest(), b"")
        except BlockMismatch:
            reader.close()
            self._found_damaged(cid, location, "its bytes changed" if at == end else "it became shorter")
            return None
        return reader

    def has(self, cid: str) -> bool:
        """Whether the index knows where the block is. Its bytes are looked at by `get` only."""
        return self.size(cid) is not None

    def size(self, cid: str) -> int | None:
        """The block's length in bytes; None when it is not here."""
        cid = canonical(cid)
        data = inlined(cid)
        if data is not None:
            return len(data)
        with self._lock:
            location = self._index.locate(cid)
        return None if location is None else location.size

    def new_file(self, owner: str) -> ContentWriter:
        """A content file to append blocks to. Its blocks are nobody's and unseen until `commit`."""
        check_owner(owner)
        name = os.path.join(owner, os.urandom(8).hex())
        with self._lock:
            writer = ContentWriter(self, owner, name)
            self._writers[writer] = owner
        return writer

    def new_import(self, owner: str, writer: ContentWriter | None = None) -> FileImport:
        """Take in a whole file that a client holds open; see `block_import`."""
        from ipdc_edge.drivers.block_import import FileImport

        check_owner(owner)
        return FileImport(self, owner, writer)

    def add_reference(
        self, fd: int, root: str, interior: Iterable[tuple[str, bytes]], owner: str, copy: bool = False
    ) -> str:
        """Take in the regular file open as `fd`, whose tree has this root and these interior blocks, durably.

        "reference" when its bytes stay where they are, "copy" when this process cannot open the file by
        itself, or `copy` asks for it. BadImport when the tree is not one of exactly this file's size.
        """
        upload = self.new_import(owner)
        try:
            for cid, block in interior:
                upload.add(cid, block)
            return upload.finish(fd, root, copy)
        finally:
            upload.discard()

    def release(self, owner: str) -> None:
        """Free all that only this owner holds, open content files too. Nothing to do for an unknown owner."""
        check_owner(owner)
        with self._lock:
            for writer in [writer for writer, holder in self._writers.items() if holder == owner]:
                writer.discard()
            self._remove(self._index.release(owner), owner)

    def hold_all(self, owner: str, cids: Iterable[str]) -> list[str]:
        """Keep those blocks for `owner` that are here, without a look at their bytes; the CIDs of the others. A power
        cut takes it back until something durable is done."""
        check_owner(owner)
        with self._lock:
            return self._index.hold_all(owner, [cid for cid in map(canonical, cids) if inlined(cid) is None])

    def holds(self, owner: str, cid: str) -> bool:
        """Whether this owner holds the block."""
        with self._lock:
            return self._index.holds(owner, canonical(cid))

    def transfer(self, old: str, new: str) -> None:
        """What `old` holds is held by `new` from now on, durably; `new` must not hold anything yet."""
        check_owner(new)
        with self._lock:
            self._index.rename_owner(old, new)
        FLASH.moved(old, new)

    def owners(self) -> list[str]:
        """Everyone who holds something, by name."""
        with self._lock:
            return self._index.owners()

    def holders(self) -> list[tuple[str | None, int]]:
        """Everyone who holds something, and the bytes of it; None for blocks that nobody holds."""
        with self._lock:
            return self._index.holders()

    def owned_bytes(self, prefix: str) -> int:
        """The bytes of the blocks that owners hold whose names begin so."""
        with self._lock:
            return self._index.owned_bytes(prefix)

    def rows(self, after: int, most: int) -> list[Row]:
        """The blocks behind the row `after`, in the order in which they came."""
        with self._lock:
            return self._index.rows(after, most)

    def has_content_file(self, name: str) -> bool:
        """Whether blocks lie in that file, or are being written to it."""
        with self._lock:
            return any(writer.name == name for writer in self._writers) or self._index.has_content_file(name)

    def has_block_file(self, cid: str) -> bool:
        """Whether that block lies in a file of its own."""
        with self._lock:
            return self._index.has_own_file(cid)

    def stat(self) -> dict[str, int]:
        """blocks (all that can be read), bytes (of our own files), references, lost (damaged), quota."""
        with self._lock:
            counts = self._index.count()
            return {
                "blocks": counts[OWN_FILE] + counts[CONTENT_FILE] + counts[REFERENCE],
                "bytes": self._held,
                "references": counts[REFERENCE],
                "lost": counts[LOST],
                "quota": self.quota,
            }

    def close(self) -> None:
        """Discard what was not committed and close the index."""
        with self._lock:
            for writer in list(self._writers):
                writer.discard()
            self._index.close()

    # --- for ContentWriter and FileImport

    def record(self, owner: str, groups: list[Group], durable: bool) -> None:
        """Write rows for blocks whose bytes lie on disk already."""
        with self._lock:
            for cid, size in self._index.record(owner, groups, durable):
                try:
                    remove(self.places.block(cid))
                except OSError:
                    continue  # the rows are recorded whatever the disk says; the next start removes it
                self._held -= size

    def commit_writer(self, writer: ContentWriter, groups: list[Group], durable: bool) -> None:
        """The same for a content file, which thereby is no longer under way. It goes if all its blocks were here."""
        with self._lock:
            if writer not in self._writers:
                raise ValueError("a content file that was discarded cannot be committed")
            try:
                self.record(writer.owner, groups, durable)
            except BaseException as error:
                if in_doubt(error):
                    del self._writers[writer]  # the file stays, and counts
                raise
            del self._writers[writer]
            self._remove_unused(writer.name)

    def move_writer(self, writer: ContentWriter, old: str, rows: list[tuple[str, int, int]]) -> int:
        """Have the blocks of the content file `old` lie in this one: the bytes that this freed."""
        with self._lock:
            if writer not in self._writers:
                raise ValueError("a content file that was discarded cannot be committed")
            try:
                self._index.move(old, File(CONTENT_FILE, writer.name, writer.size), rows)
            except BaseException as error:
                if in_doubt(error):
                    del self._writers[writer]  # the file stays, and counts
                raise
            del self._writers[writer]
            return self._remove_unused(old) + self._remove_unused(writer.name) - writer.size

    def abandon_writer(self, writer: ContentWriter) -> None:
        """Forget a content file under way and give its room back."""
        with self._lock:
            if self._writers.pop(writer, None) is not None:
                self._held -= writer.size
                remove(self.places.content(writer.name))

    def take_room(self, size: int) -> None:
        """Count `size` more bytes as held, or raise StoreFull."""
        with self._lock:
            self._take_room(size)

    def check_room(self, size: int) -> None:
        """Raise StoreFull already now if so much cannot come."""
        with self._lock:
            self._take_room(size)
            self._held -= size

    # --- inside

    def _take_room(self, size: int) -> None:
        if self._held + size > self.quota >= size:
            from ipdc_edge.drivers.block_pins import abandon, collect

            while self._held + size > self.quota and collect(self) is not None:
                pass
            abandon(self, size)
        if self._held + size > self.quota:
            raise StoreFull(held=self._held, quota=self.quota, wanted=size)
        self._held += size

    def _remove(self, freed: Freed, *owners: str) -> None:
        """Remove files whose rows are gone, and the owners' directories where that was all."""
        self._held -= freed.size
        remove_all([*map(self.places.block, freed.cids), *map(self.places.content, freed.content)])
        self.places.remove_empty([*owners, *(os.path.dirname(name) for name in freed.content)])

    def _adopt(self, temporary: str, cid: str, size: int, owner: str, durable: bool) -> None:
        """Give a written block its name and its row. Another thread may have been faster: then its bytes
        count once."""
        path = self.places.block(cid)
        subdirectory = os.path.dirname(path)
        fresh = not os.path.isdir(subdirectory)
        if fresh:
            os.makedirs(subdirectory, exist_ok=True)
        again = self._index.has_own_file(cid) or os.path.exists(path)
        os.rename(temporary, path)
        try:
            if durable:
                sync_directory(subdirectory, owner)
                if fresh:
                    sync_directory(self.directory, owner)
            self.record(owner, [(None, [(cid, size, 0)])], durable)
        except BaseException as error:
            if not again and in_doubt(error):
                self._held += size  # what the caller gives back: it stays
            elif not again:
                remove(path)
            raise
        if again:
            self._held -= size

    def _open(self, cid: str) -> tuple[BlockReader | None, Location | None]:
        """(reader, location), not verified; a reader without a location is inlined and needs no check."""
        cid = canonical(cid)
        data = inlined(cid)
        if data is not None:
            return InlinedBlock(data), None
        with self._lock:
            location = self._index.locate(cid)
        if location is None:
            return None, None
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
            # only a file that is gone says something about the block; too many open files, say, does not
            with self._lock:
                moved = self._index.locate(cid) != location
            if moved:
                return self._open(cid)
            if error.errno != errno.ENOENT and (location.place != REFERENCE or error.errno in _PASSING):
                raise
            self._found_damaged(cid, location, os.strerror(error.errno or 0))
            return None, None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self._found_damaged(cid, location, "it is no regular file")
            return None, None
        return BlockReader(descriptor, location.offset, location.size), location

    def _found_damaged(self, cid: str, location: Location, reason: str) -> None:
        """Bytes that are not their block: an error for a user's file, a lost block for one of ours."""
        cid = canonical(cid)
        if location.place == REFERENCE:
            raise ReferenceChanged(path=location.path, offset=location.offset, cid=cid, reason=reason)
        with self._lock:
            if self._index.locate(cid) == location:
                self._index.lose(cid, location)
                if location.place == OWN_FILE:
                    remove(self.places.block(cid))
                    self._held -= location.size
                else:
                    self._remove_unused(location.path)

    def _remove_unused(self, name: str) -> int:
        """Remove a content file if no block lies in it any more: nobody's release would. Its bytes, or 0."""
        size = self._index.forget_unused(name)
        if size is None:
            return 0
        remove(self.places.content(name))
        self._held -= size
        return size

    def _write_file(self, path: str, data: Buffer, owner: str, durable: bool) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            write_all(descriptor, data, 0, path)
            FLASH.wrote(owner, len(data))
            if durable:
                sync_file(descriptor, owner)
        finally:
            os.close(descriptor)
