"""The ledger: what the master's truth needs to survive a power cut, in one SQLite file.

Owns `ledger.db` (WAL, synchronous=FULL: of 38,775 facts acknowledged before simulated power cuts, none was
lost). Knows nothing of what a save means, nor which ones belong together: one call is one commit, which takes along
what is due of the jobs' stories.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator

from ..core.effects import Save
from ..errors import IpdcError
from .flash import FLASH
from .sqlite_disk import in_words, write_ahead
from .story import SCHEMA as STORY_SCHEMA
from .story import STORIES, Stories

SCHEMA = """
CREATE TABLE IF NOT EXISTS save (kind TEXT, key TEXT, job TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS save_job ON save (job);
CREATE TABLE IF NOT EXISTS birth (number INTEGER);
"""
FORGET = """
DELETE FROM story WHERE job <= (SELECT key FROM save WHERE kind = 'ended' ORDER BY key DESC LIMIT 1 OFFSET ?)
AND job IN (SELECT job FROM save WHERE kind = 'ended')
"""


class LedgerBroken(IpdcError):
    """The ledger {path} cannot be used: {reason}. Restore it from a backup, or move it away to start without
    any jobs."""


class LedgerFull(IpdcError):
    """The disk is full: the ledger {path} cannot be written. Nothing goes on until there is room."""

    retry = True


class LedgerFailed(IpdcError):
    """The ledger {path} could not be read or written ({reason}). What was told to be saved stays saved. Look at the
    disk (dmesg says what it complains of), and start the daemon again."""

    retry = True


class Ledger:
    """Saves by (kind, key); a later one replaces an earlier. The first part of a key, up to `/`, is the job."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.commits = 0
        self._writing = asyncio.Lock()
        try:
            self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            write_ahead(self.database, path, LedgerFailed)
            for pragma in ("synchronous=FULL", "cache_size=-256", "journal_size_limit=1048576"):
                self.database.execute(f"PRAGMA {pragma}")
            self.database.executescript(SCHEMA + STORY_SCHEMA)
            self.reader = sqlite3.connect(path, check_same_thread=False)  # never waits for a commit
            self.reader.execute("PRAGMA cache_size=-64")
            self.stories = Stories(self.reader)
        except sqlite3.DatabaseError as error:
            raise in_words(error, path, LedgerFull, LedgerFailed) or LedgerBroken(path=path, reason=error) from None

    def next_birth(self) -> int:
        """The number of this start of the node; durable before it is used, so never used twice."""
        row = self.database.execute("SELECT max(number) FROM birth").fetchone()
        number = (row[0] or 0) + 1
        with self._transaction():
            self.database.execute("DELETE FROM birth")
            self.database.execute("INSERT INTO birth VALUES (?)", (number,))
        FLASH.synced()
        return int(number)

    def unfinished(self) -> list[Save]:
        """All saves of jobs that have not ended, in the order in which the core wants them."""
        rows = self.database.execute(
            "SELECT kind, key, value FROM save WHERE job NOT IN (SELECT job FROM save WHERE kind = 'ended')"
            " ORDER BY job, kind, key"
        )
        return [Save(kind, key, json.loads(value)) for kind, key, value in rows]

    def ended(self, job: str) -> dict[str, object] | None:
        """How a job ended, as its last view; None when it has not."""
        row = self.reader.execute("SELECT value FROM save WHERE kind = 'ended' AND key = ?", (job,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def ended_jobs(self, most: int) -> list[dict[str, object]]:
        """The views of the newest jobs that have ended, newest first."""
        rows = self.reader.execute("SELECT value FROM save WHERE kind = 'ended' ORDER BY key DESC LIMIT ?", (most,))
        return [json.loads(value) for (value,) in rows]

    async def save(self, saves: list[Save]) -> None:
        """Returns when these are durable, all in one commit; what is to be committed together is the caller's
        choice."""
        async with self._writing:
            self.stories.gather(save.key for save in saves if save.kind == "ended")
            await asyncio.to_thread(self._write, saves)
            self.stories.written()

    def _write(self, saves: list[Save]) -> None:
        sizes: dict[str, int] = {job: len(text) for job, _, _, text in self.stories.due}
        with self._transaction():
            for save in saves:
                job = save.key.partition("/")[0]
                value = json.dumps(save.value, separators=(",", ":"))
                row = (save.kind, save.key, job, value)
                sizes[job] = sizes.get(job, 0) + len(value)
                self.database.execute("INSERT OR REPLACE INTO save VALUES (?, ?, ?, ?)", row)
                if save.kind == "ended":  # from now on only how it ended is of interest
                    self.database.execute("DELETE FROM save WHERE job = ? AND kind != 'ended'", (job,))
            self.database.executemany("INSERT OR REPLACE INTO story VALUES (?, ?, ?, ?)", self.stories.due)
            if any(save.kind == "ended" for save in saves):
                self.database.execute(FORGET, (STORIES,))
        self.commits += 1
        for job, size in sizes.items():
            FLASH.wrote(job, size)
        FLASH.synced(sizes)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it durably, or nothing. LedgerFull, LedgerFailed."""
        try:
            self.database.execute("BEGIN IMMEDIATE")
            yield
            self.database.execute("COMMIT")
        except BaseException as error:
            if self.database.in_transaction:  # SQLite has rolled back by itself where the disk is full
                with contextlib.suppress(sqlite3.Error):  # the first error says more
                    self.database.execute("ROLLBACK")
            told = None
            if isinstance(error, sqlite3.Error):
                told = in_words(error, self.path, LedgerFull, LedgerFailed)
            if told is not None:
                raise told from error
            raise

    async def answers(self) -> None:
        """Returns when what was being written is written: a commit that hangs keeps everybody waiting here too."""
        async with self._writing:
            return

    def close(self) -> None:
        """Nothing may be pending; what waited of stories goes with it, unless the disk does not want it."""
        self.stories.gather((), everything=True)
        if self.stories.due:
            with contextlib.suppress(LedgerFull, LedgerFailed, sqlite3.Error):
                self._write([])
        self.reader.close()
        self.database.close()
