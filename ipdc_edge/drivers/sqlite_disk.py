"""What the disk does to SQLite: whose fault an error is, and whether commits are as durable as they claim.

Source: https://www.sqlite.org/rescode.html and https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import sqlite3

from ipdc_edge.errors import IpdcError

# What says nothing about the database itself, only about the disk at this moment
_FAULTS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def in_words(
    error: sqlite3.Error, path: str, full: type[IpdcError], failed: type[IpdcError]
) -> IpdcError | None:
    """`full(path)` or `failed(path, reason)` where the disk is to blame; None where it is not."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest tells which call of SQLite's it was
    if code == sqlite3.SQLITE_FULL:
        return full(path=path)
    return failed(path=path, reason=error) if code in _FAULTS else None


def write_ahead(database: sqlite3.Connection, path: str, failed: type[IpdcError]) -> None:
    """Have commits go to a log. `failed(path, reason)` where it cannot be made: SQLite then stays in its old
    mode without an error, and a power cut would cost the last commit."""
    (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise failed(path=path, reason=f"its log cannot be written, SQLite stays in mode {mode}")
