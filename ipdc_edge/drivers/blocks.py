"""The block store: IPFS blocks that this node keeps, each for as long as somebody owns it.

Owns the order in which bytes and rows come and go; who holds what, and the quota, is `block_owners`. Where they lie
is no affair of its users: in files of this node (`block_disk`: blocks of their own, content files of many, references
into users' files) or in this machine's Kubo (`block_kubo`), and a store may have some in each. Never opens a path that
somebody names: a reference's path is learnt from an open descriptor and used only while it leads to the same file.
Never hands out bytes that do not have their CID's hash.

The interface is synchronous and safe for threads; big reads belong into `asyncio.to_thread`, and with Kubo everything
that reads or writes bytes (`block_reading`). Layout of its directory:

    index.db                    see block_index
    <last 2 of cid>/<cid>       a block in a file of its own
    files/<owner>/<name>        a content file: runs, parts, copies of inputs, interior nodes
    new/                        files on their way to a name; emptied at the start
    kubo.id                     under which name this store's pins are in Kubo, where it has any
    kubo.peer                   which Kubo that is

Who an owner is stands in `block_rows`. Bytes come before their row in the index and go after it: a crash leaves
files without a row, which the next start removes. A row whose bytes a power cut took, because they were not put
durably, counts as not here as soon as somebody looks. What was unpinned goes when room is wanted: `block_pins`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import BlockMismatch, canonical, inlined, verify
from ipdc_edge.codec.unixfs import MAX_BLOCK
from ipdc_edge.drivers.block_disk import FileWriter, NotThere, OnDisk, check_pieces
from ipdc_edge.drivers.block_files import BlockReader, ContentWriter, HeldBlock, InlinedBlock, check_owner
from ipdc_edge.drivers.block_owners import OwnedBlocks
from ipdc_edge.drivers.block_owners import StoreFull as StoreFull
from ipdc_edge.drivers.block_places import remove, remove_all
from ipdc_edge.drivers.block_rows import CONTENT_FILE, KUBO, OWN_FILE, REFERENCE, File, Freed, Location, in_doubt
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_import import FileImport
    from ipdc_edge.drivers.block_kubo import InKubo
    from ipdc_edge.drivers.block_places import Places
    from ipdc_edge.drivers.block_rows import Group


class BlockTooBig(IpdcError):
    """The block {cid} has {size} bytes; a block has at most {limit}."""


class ReferenceChanged(IpdcError):
    """The file {path} is not what it was when it was added: its bytes from {offset} on are no longer the
    block {cid} ({reason}). Put the old file back, or add it again and submit with the new CID."""


class BlockStore(OwnedBlocks):
    """Blocks by CID, under owners. `quota` bounds the bytes of our own files and pins; references are free.

    `kubo` is where new blocks go, or with `kubo_reads` only where some that came earlier lie. Whatever reads or writes
    bytes may then raise KuboFailed, after some seconds; the rest never waits for Kubo.
    """

    def __init__(self, directory: str, quota: int, kubo: InKubo | None = None, kubo_reads: bool = False) -> None:
        self.disk = OnDisk(directory)
        super().__init__(directory, quota)
        self.kubo = kubo
        self._into_kubo = None if kubo_reads else kubo
        self.places.sweep(self._index)
        self._held = self._index.held_bytes()
        if kubo is not None:
            kubo.known(self._index.content_files(KUBO))

    @property
    def places(self) -> Places:
        """Where the store's own files lie."""
        return self.disk.places

    @property
    def keeps_in(self) -> str:
        """Where new blocks go: "embedded" or "kubo", as the setting says it."""
        return "embedded" if self._into_kubo is None else "kubo"

    def put(self, cid: str, data: Buffer, owner: str, durable: bool = False, on_disk: bool = False) -> None:
        """Keep a block for `owner`. With `durable` it survives a power cut once this returns; with `on_disk` it lies in
        a file of this node whatever the store, which takes no time.

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
            if on_disk or self._into_kubo is None:
                self._take_room(len(data))
        if not on_disk and self._into_kubo is not None:
            writer = self.new_file(owner)
            try:
                writer.append_block(cid, data)
                return writer.commit(durable)
            finally:
                writer.discard()
        try:
            self.disk.put(self, cid, data, owner, durable)
        except BaseException:
            self.give_room(len(data))
            raise

    def get(self, cid: str) -> bytes | None:
        """The block, always checked against its CID; None when it is not here. ReferenceChanged names the
        user's file.

        Bytes of our own that were damaged on disk count as not here, and may be put again.
        """
        reader, location = self._open(cid)
        if reader is None:
            return None
        if location is not None and location.place == KUBO:
            location = None  # it was checked
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
        if reader is None or location is None or location.place == KUBO:
            return reader
        try:
            reason = check_pieces(cid, location, reader)
        except OSError:
            reader.close()
            raise
        if reason:
            reader.close()
            self._found_damaged(cid, location, reason)
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

    def new_file(self, owner: str, on_disk: bool = False) -> ContentWriter:
        """A content file to append blocks to. Its blocks are nobody's and unseen until `commit`. With `on_disk` they
        lie in a file of this node whatever the store."""
        check_owner(owner)
        name = os.path.join(owner, os.urandom(8).hex())
        with self._lock:
            kind = FileWriter if on_disk or self._into_kubo is None else self._into_kubo.writer
            writer: ContentWriter = kind(self, owner, name)
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

    def has_content_file(self, name: str) -> bool:
        """Whether blocks lie in that file, or are being written to it."""
        with self._lock:
            return any(writer.name == name for writer in self._writers) or self._index.has_content_file(name)

    def pins_in_kubo(self) -> list[str]:
        """The names of what Kubo shall keep."""
        with self._lock:
            return self._index.content_files(KUBO)

    def has_block_file(self, cid: str) -> bool:
        """Whether that block lies in a file of its own."""
        with self._lock:
            return self._index.has_own_file(cid)

    def close(self) -> None:
        """Discard what was not committed and close the index."""
        with self._lock:
            for writer in list(self._writers):
                writer.discard()
            self._index.close()
        if self.kubo is not None:
            self.kubo.close()

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
            self._check_writer(writer)
            try:
                self.record(writer.owner, groups, durable)
            except BaseException as error:
                if in_doubt(error):
                    del self._writers[writer]  # the file stays, and counts
                raise
            del self._writers[writer]
            self._remove_unused(writer.name)

    def move_writer(self, writer: ContentWriter, old: str, file: File, rows: list[tuple[str, int, int]]) -> int:
        """Have the blocks of the content file `old` lie in this one, which is `file`: the bytes that this freed."""
        with self._lock:
            self._check_writer(writer)
            try:
                self._index.move(old, file, rows)
            except BaseException as error:
                if in_doubt(error):
                    del self._writers[writer]  # the file stays, and counts
                raise
            del self._writers[writer]
            return self._remove_unused(old) + self._remove_unused(writer.name) - writer.size

    def _check_writer(self, writer: ContentWriter) -> None:
        """ValueError for one that was discarded, maybe while it was settled: so what came of that goes now."""
        if writer not in self._writers:
            writer.remove()
            raise ValueError("a content file that was discarded cannot be committed")

    def abandon_writer(self, writer: ContentWriter) -> None:
        """Forget a content file under way and give its room back."""
        with self._lock:
            if self._writers.pop(writer, None) is not None:
                self._held -= writer.size
                writer.remove()

    # --- inside

    def _remove(self, freed: Freed, *owners: str) -> None:
        """Remove files whose rows are gone, and the owners' directories where that was all."""
        self._held -= freed.size
        if self.kubo is not None:
            self.kubo.unpin(freed.pins)
        remove_all([*map(self.places.block, freed.cids), *map(self.places.content, freed.content)])
        self.places.remove_empty([*owners, *(os.path.dirname(name) for name in freed.content)])

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
        try:
            if location.place == KUBO:
                return self._from_kubo(cid, location), location
            return self.disk.open(cid, location), location
        except (NotThere, OSError) as error:
            with self._lock:
                moved = self._index.locate(cid) != location
            if moved:
                return self._open(cid)
            if isinstance(error, OSError):
                raise
            self._found_damaged(cid, location, str(error))
            return None, None

    def _from_kubo(self, cid: str, location: Location) -> BlockReader:
        """The block, checked. NotThere, KuboFailed."""
        if self.kubo is None:
            raise NotThere("it was in a Kubo that this store has no more")
        data = self.kubo.get(cid)
        if data is None:
            raise NotThere("Kubo has it no more")
        try:
            verify(cid, data)
        except BlockMismatch:
            self.kubo.damaged(cid, location.path)
            raise NotThere("its bytes changed in Kubo") from None
        return HeldBlock(data)

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
        file = self._index.forget_unused(name)
        if file is None:
            return 0
        if file.place == KUBO and self.kubo is not None:
            self.kubo.unpin([name])
        elif file.place == CONTENT_FILE:
            remove(self.places.content(name))
        self._held -= file.size
        return file.size
