"""The block store's index as it changes: blocks come and go, and are kept for somebody.

Owns every SQL statement that writes to `index.db`; the questions and the schema are `block_questions`. Never touches a
block's bytes. It is not safe for two threads at a time: `BlockStore` calls it under its lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from ipdc_edge.drivers.block_questions import FILES, BlockQuestions, told
from ipdc_edge.drivers.block_rows import CONTENT_FILE, KUBO, LOST, OWN_FILE, REFERENCE, File, Freed
from ipdc_edge.drivers.flash import FLASH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ipdc_edge.drivers.block_rows import Group, Location

# Bytes of our own replace a reference (its file may change) and damaged ones, and durable bytes replace
# fleeting ones. A reference replaces an older reference, because its file was looked at just now, but never
# bytes of our own. When Kubo's bytes are durable is its own affair: they count as that.
_RECORD = """
INSERT INTO blocks(cid, size, place, file, offset, durable) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT(cid) DO UPDATE SET
    size = excluded.size, place = excluded.place, file = excluded.file, offset = excluded.offset,
    durable = excluded.durable
WHERE blocks.place IN (2, 3) OR (excluded.place <> 2 AND excluded.durable > blocks.durable)
"""
_HOLD = "INSERT OR IGNORE INTO holds(owner, block) SELECT ?1, id FROM blocks WHERE cid = ?2"


class BlockIndex(BlockQuestions):
    """Rows of blocks, files, owners and holds. Times are not kept: nothing here ages."""

    @told
    def hold(self, owner: str, cid: str, durable: bool) -> None:
        """Keep a block that is here for `owner` too."""
        self._begin(durable)
        try:
            self._db.execute(_HOLD, (self._owner(owner), cid))
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise

    @told
    def hold_all(self, owner: str, cids: Iterable[str]) -> list[str]:
        """Keep those of the blocks for `owner` that are here, and outlast a power cut; the others."""
        missing = []
        self._begin(durable=False)  # whoever holds many blocks ends with a durable step
        try:
            number = self._owner(owner)
            for cid in cids:
                found = self._db.execute(
                    "SELECT id FROM blocks WHERE cid = ? AND place <> ? AND (durable OR place = ?)",
                    (cid, LOST, REFERENCE)).fetchone()
                if found is None:
                    missing.append(cid)
                else:
                    self._db.execute("INSERT OR IGNORE INTO holds(owner, block) VALUES(?, ?)", (number, found[0]))
            self._commit(owner, False)
        except BaseException:
            self._roll_back()
            raise
        return missing

    @told
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
                lasts = durable or place == KUBO
                for cid, size, offset in rows:
                    if lasts and place in (CONTENT_FILE, KUBO):
                        replaced += self._db.execute(
                            "SELECT cid, size FROM blocks WHERE cid = ? AND place = ? AND NOT durable",
                            (cid, OWN_FILE),
                        )
                    self._db.execute(_RECORD, (cid, size, place, number, offset, int(lasts)))
                    self._db.execute(_HOLD, (holder, cid))
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise
        return replaced

    @told
    def lose(self, cid: str, location: Location) -> None:
        """The bytes at `location` proved damaged: forget them, keep the holds."""
        self._db.execute(
            "UPDATE blocks SET place = ?, file = NULL, offset = 0 WHERE cid = ? AND place = ? AND offset = ?",
            (LOST, cid, location.place, location.offset),
        )

    @told
    def release(self, owner: str) -> Freed:
        """Forget the owner and all that only it held; say which files may go."""
        return self._let_go(owner, -1, durable=False)

    @told
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
            freed = self._remove_freed(owner)
            self._commit(owner, durable)
        except BaseException:
            self._roll_back()
            raise
        return freed

    @told
    def rename_owner(self, old: str, new: str) -> None:
        """What `old` holds is held by `new`, who holds nothing yet. Nothing to do for an unknown owner."""
        self._begin(durable=True)
        try:
            self._db.execute("UPDATE owners SET name = ? WHERE name = ?", (new, old))
            self._commit(new, True)
        except BaseException:
            self._roll_back()
            raise

    @told
    def move(self, old: str, file: File, rows: list[tuple[str, int, int]]) -> None:
        """What lies in the content file `old` lies in another from now on, durably; who holds it stays."""
        self._begin(durable=True)
        try:
            number = self._file(file)
            for cid, _, offset in rows:
                self._db.execute(
                    "UPDATE blocks SET place = ?, file = ?, offset = ?, durable = 1 WHERE cid = ? AND file ="
                    f" (SELECT id FROM files WHERE path = ? AND place IN {FILES})",
                    (file.place, number, offset, cid, os.fsencode(old)))
            self._commit(old.partition("/")[0], True)
        except BaseException:
            self._roll_back()
            raise

    @told
    def forget_empty_files(self) -> list[str]:
        """Forget files in which no block lies any more; the content files among them may be removed."""
        self._db.execute("DELETE FROM touched")
        self._db.execute("INSERT INTO touched SELECT id FROM files")
        return [path for place, path, _ in self._forget_touched() if place == CONTENT_FILE]

    @told
    def forget_unused(self, path: str) -> File | None:
        """Forget this content file or pin if no block lies in it: which it was, or None where some does."""
        self._db.execute("DELETE FROM touched")
        self._db.execute(
            f"INSERT INTO touched SELECT id FROM files WHERE path = ? AND place IN {FILES}", (os.fsencode(path),))
        return next((File(*found) for found in self._forget_touched()), None)

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

    def _remove_freed(self, owner: str) -> Freed:
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
        # and those of which all blocks lie elsewhere by now
        run("INSERT OR IGNORE INTO touched SELECT id FROM files WHERE path > ? AND path < ?",
            (os.fsencode(owner + "/"), os.fsencode(owner + "0")))
        run("DELETE FROM blocks WHERE id IN (SELECT block FROM freed)")
        files = self._forget_touched()
        return Freed(
            [cid for cid, _ in own],
            [path for place, path, _ in files if place == CONTENT_FILE],
            sum(size for _, size in own) + sum(size for _, _, size in files),
            count,
            [path for place, path, _ in files if place == KUBO],
        )

    def _forget_touched(self) -> list[tuple[int, str, int]]:
        """(place, path, size) of the content files and pins among the touched ones that are empty."""
        empty = "id IN (SELECT file FROM touched) AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.file = files.id)"
        gone = [
            (int(place), os.fsdecode(path), int(size))
            for place, path, size in self._db.execute(
                f"SELECT place, path, size FROM files WHERE place IN {FILES} AND {empty}"
            )
        ]
        self._db.execute(f"DELETE FROM files WHERE {empty}")
        return gone
