"""Taking a file into the store: by reference where its bytes can stay where they are, else as a copy.

Owns the check that a tree which a client computed is a whole file of exactly the given size, and the tree of a copy
that came without one. Never opens a path from a client: it is handed an open descriptor, asks the kernel which file
that is, and keeps a reference only if this process can open the same device and inode by itself.

A reference's leaves are not hashed here. The client read the whole file to compute them, and every later read
checks them; a client that lies has made blocks that nobody can read. A copy's are hashed in the very memory that is
written, whatever becomes of the file meanwhile; and one is hashed while the one before it is written.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import RAW, SHA2_256, canonical, parse_cid, raw_cid, verify
from ipdc_edge.codec.unixfs import CHUNK, FILE, LINKS, MAX_BLOCK, MAX_DEPTH, FileBuilder, parse_node
from ipdc_edge.drivers.block_rows import REFERENCE, File
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ipdc_edge.codec.cid import Buffer
    from ipdc_edge.drivers.block_files import ContentWriter
    from ipdc_edge.drivers.blocks import BlockStore

    Piece = tuple[str, int, int]  # of a file: its CID or "", its size, its offset

_A_COPY = "a copy"  # how errors call a file whose root is not known yet
SMALL = 64 << 10  # bytes that are hashed sooner than a thread begins
UNWRITTEN = 8 << 20  # bytes of a copy that wait for the disk: they take a small board's memory, and free none


class BadImport(IpdcError):
    """The file cannot be added as {root}: {reason}."""


class FileImport:
    """One file on its way in: `add` its interior blocks in any order, then `finish`, or without any `copy`; `discard`
    at any time.

    What it adds survives a power cut. Memory grows by about 200 bytes an interior block (one for a gibibyte
    of file), and for a copy by as much a leaf. With a `writer` its blocks go there, and whoever owns that commits
    it durably before the file counts: many small files cost one sync.
    """

    def __init__(self, store: BlockStore, owner: str, writer: ContentWriter | None = None) -> None:
        self._store = store
        self._owner = owner
        self._writer = writer
        self._shared = writer is not None
        self.copied = 0  # bytes of the file so far
        self._stopped = False
        self._written: dict[str, None] = {}  # blocks of a copy
        self._unwritten = 0
        self._nodes: dict[str, tuple[int, int]] = {}  # offset and size in the writer's file

    def add(self, cid: str, block: bytes) -> None:
        """Take an interior block. BlockMismatch, BadNode, BadImport for one that can be none."""
        cid = canonical(cid)
        if cid in self._nodes:
            return
        verify(cid, block)
        if parse_cid(cid).hash != SHA2_256:
            raise BadImport(root=cid, reason="an inlined block is no part of a tree that this node makes")
        node = parse_node(cid, block)
        if node.kind != FILE or not node.links or node.data:
            raise BadImport(root=cid, reason="it is no interior node of a file with raw leaves")
        self._nodes[cid] = (self._content().append_block(cid, block), len(block))

    def finish(self, fd: int, root: str, copy: bool = False) -> str:
        """Check the tree against the open file and make its blocks the owner's: "reference" or "copy"."""
        root = canonical(root)
        status = _status(fd, root)
        path = None if copy else self._path_of(fd, status)
        leaves = self._leaves(root, status.st_size)
        if path is None:
            self._store.check_room(status.st_size)
            self._copy_leaves(fd, root, leaves)
            if not self._shared:
                self._content().commit(durable=True)
            return "copy"
        self._replace_kept(root, status.st_size)
        group = (File(REFERENCE, path, status.st_size), leaves)
        if self._writer is None or self._shared:
            self._store.record(self._owner, [group], durable=not self._shared)
        else:
            self._writer.commit_with([group], durable=True)
        return "reference"

    def copy(self, fd: int, chunk: int = CHUNK, links: int = LINKS) -> tuple[str, int]:
        """Copy the open file, whatever it holds, and make the blocks of its tree the owner's: (root, size)."""
        before = _status(fd, _A_COPY)
        self._store.check_room(before.st_size)
        builder = FileBuilder(links)
        leaves = (("", min(chunk, before.st_size - at), at) for at in range(0, before.st_size or 1, chunk))
        with closing(_hashed(fd, _A_COPY, leaves)) as pieces:
            for (_, wanted, _), cid, data in pieces:
                if len(data) < wanted:
                    break
                self._write(_A_COPY, cid, data)
                self.copied += len(data)
                for block in builder.add(cid, len(data)):
                    self._write(_A_COPY, *block)
        after = os.fstat(fd)
        if (builder.size, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
            raise BadImport(root=_A_COPY, reason="it changed while it was read")
        root, size, last = builder.finish()
        for block in last:
            self._write(_A_COPY, *block)
        if not self._shared:
            self._content().commit(durable=True)
        return root, size

    def may_refer(self, fd: int) -> bool:
        """Whether the file can stay where it is."""
        return self._path_of(fd, _status(fd, "a reference")) is not None

    def discard(self) -> None:
        """Remove what `finish` did not make the owner's."""
        if self._writer is not None and not self._shared:
            self._writer.discard()

    def stop(self) -> None:
        """Have a `finish` in another thread end soon, by an error: nobody waits for it."""
        self._stopped = True

    def _content(self) -> ContentWriter:
        if self._writer is None:
            self._writer = self._store.new_file(self._owner)
        return self._writer

    def _replace_kept(self, root: str, size: int) -> None:
        """Inputs of jobs that were kept go where they are blocks of this file: its bytes stand in for them, and outlast
        a power cut, as those need not."""
        if self._store.cached:
            from ipdc_edge.drivers.block_pins import forget_kept  # not in the memory of who keeps nothing

            forget_kept(self._store, (cid for cid, _, _ in self._leaves(root, size)))

    def _copy_leaves(self, fd: int, root: str, leaves: Iterator[Piece]) -> None:
        with closing(_hashed(fd, root, (leaf for leaf in leaves if leaf[0] not in self._written))) as pieces:
            for (cid, _, offset), found, data in pieces:
                if found != cid:
                    raise BadImport(
                        root=root,
                        reason=f"the file changed meanwhile, or its block at byte {offset} never was {cid}",
                    )
                self._write(root, cid, data)

    def _write(self, root: str, cid: str, data: Buffer) -> None:
        """A block of a copy, once."""
        if self._stopped:
            raise BadImport(root=root, reason="who added it has gone")
        if cid in self._written:
            return
        self._written[cid] = None
        self._content().append_block(cid, data)
        self._unwritten += len(data)
        if self._unwritten >= UNWRITTEN:
            self._content().flush()
            self._unwritten = 0

    def _leaves(self, root: str, size: int) -> Iterator[Piece]:
        """(cid, size, offset) of every leaf, or BadImport as soon as the tree turns out to be none of this
        size.

        A node that comes again is not walked again: its leaves have the same CIDs, and one place for each is
        enough. That also bounds the work by the bytes of the nodes, whatever sizes they claim.
        """
        walked: dict[str, None] = {}
        stack = [iter([(0, size, root)])]
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
                continue
            offset, length, cid = child
            parts = parse_cid(cid)
            if parts.codec == RAW and parts.hash == SHA2_256:
                if length > MAX_BLOCK:
                    raise BadImport(root=root, reason=f"a leaf of {length} bytes; a block has at most {MAX_BLOCK}")
                yield cid, length, offset
                continue
            if cid not in self._nodes:
                raise BadImport(root=root, reason=f"its interior block {cid} was not sent")
            node = parse_node(cid, self._content().read_back(*self._nodes[cid]))
            if node.size != length:
                raise BadImport(root=root, reason=f"{cid} covers {node.size} bytes where {length} are wanted")
            if len(stack) > MAX_DEPTH:
                raise BadImport(root=root, reason=f"more than {MAX_DEPTH} levels")
            if cid not in walked:
                walked[cid] = None
                stack.append(node.children(offset))
        if len(walked) != len(self._nodes):
            raise BadImport(
                root=root, reason=f"{len(self._nodes) - len(walked)} blocks were sent that are no part of it"
            )

    def _path_of(self, fd: int, status: os.stat_result) -> str | None:
        """The path under which this process can open that very file; None if there is none."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith(os.path.realpath(self._store.directory) + "/"):
            return None  # our own files come and go
        try:
            again = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            found = os.fstat(again)
        finally:
            os.close(again)
        return path if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino) else None


def _status(fd: int, root: str) -> os.stat_result:
    """Of a file that is to be added as `root`. BadImport where it is none that can be read."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadImport(root=root, reason="it is no regular file")
    try:
        os.pread(fd, 1, 0)
    except OSError as error:
        raise BadImport(root=root, reason=f"it is not open for reading ({error.strerror})") from None
    return status


def _hashed(fd: int, root: str, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, str, memoryview]]:
    """(piece, CID that its bytes have as a leaf, these bytes) of pieces of a file; what is beyond its end is missing.

    The bytes are there until the next step. Meanwhile a thread hashes the next piece: OpenSSL does that without
    Python's lock. Memory for two pieces.
    """
    buffers = [bytearray(), bytearray()]
    before = None
    with ThreadPoolExecutor(1, "hash") as hasher:
        for piece in pieces:
            if len(buffers[0]) < piece[1]:
                buffers[0] = bytearray(piece[1])
            view = memoryview(buffers[0])[: piece[1]]
            try:
                view = view[: os.preadv(fd, [view], piece[2])]  # a regular file gives all that it has at once
            except OSError as error:
                raise BadImport(root=root, reason=f"byte {piece[2]} cannot be read ({error.strerror})") from None
            hashed = hasher.submit(raw_cid, view).result if len(view) > SMALL else partial(raw_cid, view)
            if before is not None:
                yield before[0], before[1](), before[2]
            before = piece, hashed, view
            buffers.reverse()
        if before is not None:
            yield before[0], before[1](), before[2]
