"""The block store's index: which blocks there are, where their bytes lie, and for whom they are kept.

Owns `index.db` and every SQL statement of the store. Never touches a block's bytes. It is not safe for two
threads at a time: `BlockStore` calls it under its lock. One process holds it at a time (SQLite's exclusive
lock, which also spares the shared-memory file of WAL).

A block lies in one place: a file of its own, a range of a content file that the daemon wrote, a range of a
user's file (a reference), or nowhere, when its bytes turned out to be damaged; then it waits to be put again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from ipdc_edge.drivers.block_rows import (
    CONTENT_FILE,
    LOST,
    OWN_FILE,
    REFERENCE,
    File,
    Freed,
    IndexFailed,
    IndexFull,
    Location,
    Row,
    StoreDamaged,
    StoreInUse,
)
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.drivers.sqlite_disk import in_words, write_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipdc_edge.drivers.block_rows import Group

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

# Bytes of our own replace a reference (its file may change) and damaged ones, and durable bytes replace
# fleeting ones. A reference replaces an older reference, because its file was looked at just now, but never
# bytes of our own.
_RECORD = """
INSERT INTO blocks(cid, size, place, file, offset, durable) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT(cid) DO UPDATE SET
    size = excluded.size, place = excluded.place, file = excluded.file, offset = excluded.offset,
    durable = excluded.durable
WHERE blocks.place >= 2 OR (excluded.place < 2 AND excluded.durable > blocks.durable)
"""
_HOLD = "INSERT OR IGNORE INTO holds(owner, block) SELECT ?1, id FROM blocks WHERE cid = ?2"


def _told(method: Callable[..., T]) -> Callable[..., T]:
    """The method, which raises IndexFull or IndexFailed where the disk is to blame."""

    @functools.wraps(method)
    def told(self: BlockIndex, *words: object) -> T:
        try:
            return method(self, *words)
        except sqlite3.Error as error:
            found = in_words(error, self._path, IndexFull, IndexFailed)
            if found is None:
                raise
            raise found from error

    return told


class BlockIndex:
    """Rows of blocks, files, owners and holds. Times are not kept: nothing here ages."""

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

    @_told
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

    @_told
    def hold(self, owner: str, cid: str, durable: bool) -> None:
        """Keep a block that is here for `owner` too."""
        self._begin(durable)
        try:
            self._db.execute(_HOLD, (self._owner(owner), cid))
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise

    @_told
    def hold_all(self, owner: str, cids: Iterable[str]) -> list[str]:
        """Keep those of the blocks for `owner` that are here; the others."""
        missing = []
        self._begin(durable=False)  # whoever holds many blocks ends with a durable step
        try:
            number = self._owner(owner)
            for cid in cids:
                found = self._db.execute("SELECT id FROM blocks WHERE cid = ? AND place <> ?", (cid, LOST)).fetchone()
                if found is None:
                    missing.append(cid)
                else:
                    self._db.execute("INSERT OR IGNORE INTO holds(owner, block) VALUES(?, ?)", (number, found[0]))
            self._commit(owner, False)
        except BaseException:
            self._roll_back()
            raise
        return missing

    @_told
    def record(self, owner: str, groups: list[Group], durable: bool) -> list[tuple[str, int]]:
        """In one transaction, keep each group's blocks for `owner`.

        (cid, size) of blocks that thereby no longer need the file of their own.
        """
        replaced: list[tuple[str, int]] = []
        self._begin(durable)
        try:
            holder = self._owner(owner)
            for file, rows in groups:
                place = OWN_FILE if file is None else file.place
                number = None if file is None else self._file(file)
                for cid, size, offset in rows:
                    if durable and place == CONTENT_FILE:
                        replaced += self._db.execute(
                            "SELECT cid, size FROM blocks WHERE cid = ? AND place = ? AND NOT durable",
                            (cid, OWN_FILE),
                        )
                    self._db.execute(_RECORD, (cid, size, place, number, offset, int(durable)))
                    self._db.execute(_HOLD, (holder, cid))
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise
        return replaced

    @_told
    def lose(self, cid: str, location: Location) -> None:
        """The bytes at `location` proved damaged: forget them, keep the holds."""
        self._db.execute(
            "UPDATE blocks SET place = ?, file = NULL, offset = 0 WHERE cid = ? AND place = ? AND offset = ?",
            (LOST, cid, location.place, location.offset),
        )

    @_told
    def release(self, owner: str) -> Freed:
        """Forget the owner and all that only it held; say which files may go."""
        return self._let_go(owner, -1, durable=False)

    @_told
    def collect(self, prefix: str, most: int) -> Freed | None:
        """Let go of at most `most` blocks of one of the owners whose names begin so, the oldest first, durably: what
        goes next is never found again as held. None where there is no such owner."""
        row = self._db.execute(
            "SELECT name FROM owners WHERE substr(name, 1, ?) = ? ORDER BY id LIMIT 1", (len(prefix), prefix)
        ).fetchone()
        return None if row is None else self._let_go(row[0], most, durable=True)

    def _let_go(self, owner: str, most: int, durable: bool) -> Freed:
        run = self._db.execute
        row = run("SELECT id FROM owners WHERE name = ?", (owner,)).fetchone()
        if row is None:
            return Freed([], [], 0, 0)
        self._begin(durable)
        try:
            run("DELETE FROM freed")
            run("INSERT INTO freed SELECT block FROM holds WHERE owner = ? LIMIT ?", (*row, most))
            run("DELETE FROM holds WHERE owner = ? AND block IN (SELECT block FROM freed)", row)
            run("DELETE FROM freed WHERE EXISTS (SELECT 1 FROM holds h WHERE h.block = freed.block)")
            run("DELETE FROM owners WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM holds WHERE owner = ?1)", row)
            freed = self._remove_freed()
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise
        return freed

    @_told
    def rename_owner(self, old: str, new: str) -> None:
        """What `old` holds is held by `new`, who holds nothing yet. Nothing to do for an unknown owner."""
        self._begin(durable=True)
        try:
            self._db.execute("UPDATE owners SET name = ? WHERE name = ?", (new, old))
            self._commit(new, True)
        except BaseException:
            self._roll_back()
            raise

    @_told
    def sparse_files(self, most: int) -> list[str]:
        """Content files of whose bytes at most half are blocks that are still wanted."""
        return [os.fsdecode(row[0]) for row in self._db.execute(
            "SELECT f.path FROM files f JOIN blocks b ON b.file = f.id WHERE f.place = ?"
            " GROUP BY f.id HAVING SUM(b.size) * 2 <= f.size LIMIT ?", (CONTENT_FILE, most))]

    @_told
    def blocks_of(self, path: str) -> list[str]:
        """The blocks in a content file, in their order."""
        return [row[0] for row in self._db.execute(
            "SELECT b.cid FROM blocks b JOIN files f ON b.file = f.id WHERE f.path = ? AND f.place = ?"
            " ORDER BY b.offset", (os.fsencode(path), CONTENT_FILE))]

    @_told
    def move(self, old: str, file: File, rows: list[tuple[str, int, int]]) -> None:
        """What lies in the content file `old` lies in another from now on, durably; who holds it stays."""
        self._begin(durable=True)
        try:
            number = self._file(file)
            for cid, _, offset in rows:
                self._db.execute(
                    "UPDATE blocks SET file = ?, offset = ?, durable = 1 WHERE cid = ? AND file ="
                    " (SELECT id FROM files WHERE path = ? AND place = ?)",
                    (number, offset, cid, os.fsencode(old), CONTENT_FILE))
            self._commit(old.partition("/")[0], True)
        except BaseException:
            self._roll_back()
            raise

    @_told
    def forget_empty_files(self) -> list[str]:
        """Forget files in which no block lies any more; the content files among them may be removed."""
        self._db.execute("DELETE FROM touched")
        self._db.execute("INSERT INTO touched SELECT id FROM files")
        return [path for path, _ in self._forget_touched()]

    @_told
    def forget_unused(self, path: str) -> int | None:
        """Forget this content file if no block lies in it: its bytes, or None where some does."""
        self._db.execute("DELETE FROM touched")
        self._db.execute(
            "INSERT INTO touched SELECT id FROM files WHERE path = ? AND place = ?",
            (os.fsencode(path), CONTENT_FILE),
        )
        return next((size for _, size in self._forget_touched()), None)

    @_told
    def holds(self, owner: str, cid: str) -> bool:
        """Whether this owner holds the block."""
        return self._db.execute(
            "SELECT 1 FROM holds h, owners o, blocks b WHERE h.owner = o.id AND h.block = b.id AND o.name = ?"
            " AND b.cid = ?", (owner, cid)).fetchone() is not None

    @_told
    def holder(self, cid: str, prefix: str) -> str:
        """One of the block's owners whose name begins so; "" where there is none."""
        row = self._db.execute(
            "SELECT o.name FROM blocks b JOIN holds h ON h.block = b.id JOIN owners o ON o.id = h.owner"
            " WHERE b.cid = ? AND substr(o.name, 1, ?) = ?", (cid, len(prefix), prefix)).fetchone()
        return row[0] if row is not None else ""

    @_told
    def has_owner(self, name: str) -> bool:
        """Whether there is such an owner, even of nothing."""
        return self._db.execute("SELECT 1 FROM owners WHERE name = ?", (name,)).fetchone() is not None

    @_told
    def owners(self) -> list[str]:
        """All owners, by name."""
        return [row[0] for row in self._db.execute("SELECT name FROM owners ORDER BY name")]

    @_told
    def holders(self) -> list[tuple[str | None, int]]:
        """All owners, with the bytes of the blocks that each holds; None for blocks that nobody does."""
        rows = self._db.execute(
            "SELECT o.name, COALESCE(SUM(b.size), 0) FROM owners o LEFT JOIN holds h ON h.owner = o.id"
            " LEFT JOIN blocks b ON b.id = h.block GROUP BY o.id UNION ALL SELECT NULL, SUM(size) FROM blocks b"
            " WHERE NOT EXISTS (SELECT 1 FROM holds h WHERE h.block = b.id) HAVING COUNT(*) > 0"
        )
        return [(row[0], int(row[1])) for row in rows]

    @_told
    def owned_bytes(self, prefix: str) -> int:
        """The bytes of all blocks that owners hold whose names begin so."""
        row = self._db.execute(
            "SELECT COALESCE(SUM(size), 0) FROM blocks WHERE id IN (SELECT block FROM holds WHERE owner IN"
            " (SELECT id FROM owners WHERE substr(name, 1, ?) = ?))", (len(prefix), prefix)
        ).fetchone()
        return int(row[0])

    @_told
    def rows(self, after: int, most: int) -> list[Row]:
        """The next blocks behind the row `after`, lost ones too, in the order in which they came."""
        found = self._db.execute(
            "SELECT b.id, b.cid, b.place, f.path, b.offset, b.size, b.durable,"
            " EXISTS (SELECT 1 FROM holds h WHERE h.block = b.id)"
            " FROM blocks b LEFT JOIN files f ON f.id = b.file AND f.place = b.place"
            " WHERE b.id > ? ORDER BY b.id LIMIT ?", (after, most))
        return [Row(number, cid, Location(place, os.fsdecode(path or b""), offset, size, bool(durable)), bool(held))
                for number, cid, place, path, offset, size, durable, held in found]

    @_told
    def has_own_file(self, cid: str) -> bool:
        """Whether a file of its own is where this block lies."""
        row = self._db.execute("SELECT 1 FROM blocks WHERE cid = ? AND place = ?", (cid, OWN_FILE)).fetchone()
        return row is not None

    @_told
    def has_content_file(self, path: str) -> bool:
        """Whether a content file is known."""
        row = self._db.execute("SELECT 1 FROM files WHERE path = ? AND place = ?", (os.fsencode(path), CONTENT_FILE))
        return row.fetchone() is not None

    @_told
    def content_files(self) -> list[str]:
        """The paths of all content files."""
        return [
            os.fsdecode(row[0])
            for row in self._db.execute("SELECT path FROM files WHERE place = ? ORDER BY path", (CONTENT_FILE,))
        ]

    @_told
    def held_bytes(self) -> int:
        """What the store's own files take: a content file counts whole."""
        row = self._db.execute(
            "SELECT (SELECT COALESCE(SUM(size), 0) FROM blocks WHERE place = ?)"
            " + (SELECT COALESCE(SUM(size), 0) FROM files WHERE place = ?)",
            (OWN_FILE, CONTENT_FILE),
        ).fetchone()
        return int(row[0])

    @_told
    def count(self) -> dict[int, int]:
        """How many blocks lie in each place."""
        counts = dict.fromkeys((OWN_FILE, CONTENT_FILE, REFERENCE, LOST), 0)
        counts.update(self._db.execute("SELECT place, COUNT(*) FROM blocks GROUP BY place"))
        return counts

    def close(self) -> None:
        """Write all to the database's file and give the lock back."""
        self._db.close()

    def _begin(self, durable: bool) -> None:
        # FULL syncs the log at every commit, and with it all earlier ones; NORMAL may lose the last ones in a
        # power cut.
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")

    def _commit(self, owner: str, durable: bool) -> None:
        self._db.execute("COMMIT")
        if durable:
            FLASH.synced([owner])

    def _roll_back(self) -> None:
        """SQLite has done so by itself where the disk is full."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error says more
                self._db.execute("ROLLBACK")

    def _owner(self, name: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO owners(name) VALUES(?)", (name,))
        return int(self._db.execute("SELECT id FROM owners WHERE name = ?", (name,)).fetchone()[0])

    def _file(self, file: File) -> int:
        path = os.fsencode(file.path)
        self._db.execute(
            "INSERT INTO files(place, path, size) VALUES(?, ?, ?)"
            " ON CONFLICT(path, place) DO UPDATE SET size = excluded.size",
            (file.place, path, file.size),
        )
        row = self._db.execute("SELECT id FROM files WHERE path = ? AND place = ?", (path, file.place)).fetchone()
        return int(row[0])

    def _remove_freed(self) -> Freed:
        run = self._db.execute
        count = run("SELECT COUNT(*) FROM freed").fetchone()[0]
        own = run(
            "SELECT cid, size FROM blocks WHERE place = ? AND id IN (SELECT block FROM freed)", (OWN_FILE,)
        ).fetchall()
        run("DELETE FROM touched")
        run(
            "INSERT INTO touched SELECT DISTINCT file FROM blocks"
            " WHERE file IS NOT NULL AND id IN (SELECT block FROM freed)"
        )
        run("DELETE FROM blocks WHERE id IN (SELECT block FROM freed)")
        content = self._forget_touched()
        return Freed(
            [cid for cid, _ in own],
            [path for path, _ in content],
            sum(size for _, size in own) + sum(size for _, size in content),
            count,
        )

    def _forget_touched(self) -> list[tuple[str, int]]:
        """(path, size) of the content files among the touched ones that are empty."""
        empty = "id IN (SELECT file FROM touched) AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.file = files.id)"
        gone = [
            (os.fsdecode(path), int(size))
            for path, size in self._db.execute(
                f"SELECT path, size FROM files WHERE place = ? AND {empty}", (CONTENT_FILE,)
            )
        ]
        self._db.execute(f"DELETE FROM files WHERE {empty}")
        return gone
