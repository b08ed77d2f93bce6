"""The block store's database as it is opened and asked: which blocks there are, where they lie, and who holds them.

Owns the schema of `index.db` and every SQL statement that changes nothing; what changes rows is `block_index`. Never
touches a block's bytes, and is not safe for two threads at a time: `BlockStore` calls it under its lock. One process
holds it at a time (SQLite's exclusive lock, which also spares the shared-memory file of WAL).

A block lies in one place: a file of its own, a range of a content file that the daemon wrote, a range of a
user's file (a reference), Kubo, or nowhere, when its bytes turned out to be damaged; then it waits to be put again.
What Kubo keeps for us by one pin is a file here like a content file.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from ipdc_edge.drivers.block_rows import (
    CONTENT_FILE,
    KUBO,
    LOST,
    OWN_FILE,
    REFERENCE,
    IndexFailed,
    IndexFull,
    Location,
    Row,
    StoreDamaged,
    StoreInUse,
)
from ipdc_edge.drivers.sqlite_disk import in_words, write_ahead

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owners(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS files(
    id INTEGER PRIMARY KEY, place INTEGER NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL,
    UNIQUE(path, place));
CREATE TABLE IF NOT EXISTS blocks(
    id INTEGER PRIMARY KEY, cid TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, place INTEGER NOT NULL,
    file INTEGER REFERENCES files, offset INTEGER NOT NULL, durable INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_by_file ON blocks(file) WHERE file IS NOT NULL;
CREATE TABLE IF NOT EXISTS holds(
    owner INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY(owner, block)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS holds_by_block ON holds(block);
CREATE TEMP TABLE freed(block INTEGER PRIMARY KEY);
CREATE TEMP TABLE touched(file INTEGER PRIMARY KEY);
"""
_VERSION = 1
FILES = f"({CONTENT_FILE}, {KUBO})"  # places in which many blocks lie in one file of ours


def told(method: Callable[..., T]) -> Callable[..., T]:
    """The method, which raises IndexFull or IndexFailed where the disk is to blame."""

    @functools.wraps(method)
    def asked(self: BlockQuestions, *words: object) -> T:
        try:
            return method(self, *words)
        except sqlite3.Error as error:
            found = in_words(error, self._path, IndexFull, IndexFailed)
            if found is None:
                raise
            raise found from error

    return asked


class BlockQuestions:
    """What the rows of blocks, files, owners and holds say."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            write_ahead(self._db, path, IndexFailed)
            self._db.execute("PRAGMA cache_size = -512")
            self._db.execute("PRAGMA temp_store = MEMORY")
            self._db.executescript(_SCHEMA)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise StoreDamaged(path=path, reason=f"it is of version {version}, this program knows {_VERSION}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise StoreInUse(path=path) from None
            raise in_words(error, path, IndexFull, IndexFailed) or StoreDamaged(path=path, reason=str(error)) from error

    @told
    def locate(self, cid: str) -> Location | None:
        """Where the block is; None when it is not here or its bytes are lost."""
        row = self._db.execute(
            "SELECT b.place, f.path, b.offset, b.size, b.durable"
            " FROM blocks b LEFT JOIN files f ON f.id = b.file"
            " WHERE b.cid = ? AND b.place <> ?",
            (cid, LOST),
        ).fetchone()
        if row is None:
            return None
        return Location(row[0], os.fsdecode(row[1] or b""), row[2], row[3], bool(row[4]))

    @told
    def sparse_files(self, most: int) -> list[str]:
        """Content files of whose bytes at most half are blocks that are still wanted."""
        return [os.fsdecode(row[0]) for row in self._db.execute(
            f"SELECT f.path FROM files f JOIN blocks b ON b.file = f.id WHERE f.place IN {FILES}"
            " GROUP BY f.id HAVING SUM(b.size) * 2 <= f.size LIMIT ?", (most,))]

    @told
    def blocks_of(self, path: str) -> list[str]:
        """The blocks in a content file, in their order."""
        return [row[0] for row in self._db.execute(
            f"SELECT b.cid FROM blocks b JOIN files f ON b.file = f.id WHERE f.path = ? AND f.place IN {FILES}"
            " ORDER BY b.offset", (os.fsencode(path),))]

    @told
    def holds(self, owner: str, cid: str) -> bool:
        """Whether this owner holds the block."""
        return self._db.execute(
            "SELECT 1 FROM holds h, owners o, blocks b WHERE h.owner = o.id AND h.block = b.id AND o.name = ?"
            " AND b.cid = ?", (owner, cid)).fetchone() is not None

    @told
    def holder(self, cid: str, prefix: str) -> str:
        """One of the block's owners whose name begins so; "" where there is none."""
        row = self._db.execute(
            "SELECT o.name FROM blocks b JOIN holds h ON h.block = b.id JOIN owners o ON o.id = h.owner"
            " WHERE b.cid = ? AND substr(o.name, 1, ?) = ?", (cid, len(prefix), prefix)).fetchone()
        return row[0] if row is not None else ""

    @told
    def has_owner(self, name: str) -> bool:
        """Whether there is such an owner, even of nothing."""
        return self._db.execute("SELECT 1 FROM owners WHERE name = ?", (name,)).fetchone() is not None

    @told
    def owners(self) -> list[str]:
        """All owners, by name."""
        return [row[0] for row in self._db.execute("SELECT name FROM owners ORDER BY name")]

    @told
    def holders(self) -> list[tuple[str | None, int]]:
        """All owners, with the bytes of the blocks that each holds; None for blocks that nobody does."""
        rows = self._db.execute(
            "SELECT o.name, COALESCE(SUM(b.size), 0) FROM owners o LEFT JOIN holds h ON h.owner = o.id"
            " LEFT JOIN blocks b ON b.id = h.block GROUP BY o.id UNION ALL SELECT NULL, SUM(size) FROM blocks b"
            " WHERE NOT EXISTS (SELECT 1 FROM holds h WHERE h.block = b.id) HAVING COUNT(*) > 0"
        )
        return [(row[0], int(row[1])) for row in rows]

    @told
    def owned_bytes(self, prefix: str) -> int:
        """The bytes of all blocks that owners hold whose names begin so."""
        row = self._db.execute(
            "SELECT COALESCE(SUM(size), 0) FROM blocks WHERE id IN (SELECT block FROM holds WHERE owner IN"
            " (SELECT id FROM owners WHERE substr(name, 1, ?) = ?))", (len(prefix), prefix)
        ).fetchone()
        return int(row[0])

    @told
    def rows(self, after: int, most: int) -> list[Row]:
        """The next blocks behind the row `after`, lost ones too, in the order in which they came."""
        found = self._db.execute(
            "SELECT b.id, b.cid, b.place, f.path, b.offset, b.size, b.durable,"
            " EXISTS (SELECT 1 FROM holds h WHERE h.block = b.id)"
            " FROM blocks b LEFT JOIN files f ON f.id = b.file AND f.place = b.place"
            " WHERE b.id > ? ORDER BY b.id LIMIT ?", (after, most))
        return [Row(number, cid, Location(place, os.fsdecode(path or b""), offset, size, bool(durable)), bool(held))
                for number, cid, place, path, offset, size, durable, held in found]

    @told
    def has_own_file(self, cid: str) -> bool:
        """Whether a file of its own is where this block lies."""
        row = self._db.execute("SELECT 1 FROM blocks WHERE cid = ? AND place = ?", (cid, OWN_FILE)).fetchone()
        return row is not None

    @told
    def has_content_file(self, path: str) -> bool:
        """Whether a content file is known."""
        row = self._db.execute("SELECT 1 FROM files WHERE path = ? AND place = ?", (os.fsencode(path), CONTENT_FILE))
        return row.fetchone() is not None

    @told
    def content_files(self, place: int = CONTENT_FILE) -> list[str]:
        """The paths of all content files, or of all pins in KUBO."""
        return [
            os.fsdecode(row[0])
            for row in self._db.execute("SELECT path FROM files WHERE place = ? ORDER BY path", (place,))
        ]

    @told
    def held_bytes(self) -> int:
        """What the store's own files and pins take: one of many blocks counts whole."""
        row = self._db.execute(
            "SELECT (SELECT COALESCE(SUM(size), 0) FROM blocks WHERE place = ?)"
            f" + (SELECT COALESCE(SUM(size), 0) FROM files WHERE place IN {FILES})",
            (OWN_FILE,),
        ).fetchone()
        return int(row[0])

    @told
    def count(self) -> dict[int, int]:
        """How many blocks lie in each place."""
        counts = dict.fromkeys((OWN_FILE, CONTENT_FILE, REFERENCE, LOST, KUBO), 0)
        counts.update(self._db.execute("SELECT place, COUNT(*) FROM blocks GROUP BY place"))
        return counts

    def close(self) -> None:
        """Write all to the database's file and give the lock back."""
        self._db.close()
