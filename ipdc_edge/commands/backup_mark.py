"""Of which version the last backup of the domain was, noted beside the authority's key.

Owns that one small file. It is only a reminder: nothing depends on it, and it says nothing of where the backup is.
"""

from __future__ import annotations

import os

from ipdc_edge.drivers.identity import locked, write_file
from ipdc_edge.home import Home


def note_backup(home: Home, version: int) -> None:
    """Remembers that the member list of this version is in a backup."""
    with locked(home):
        write_file(_path(home), b"%d\n" % version)


def backed_up(home: Home) -> int | None:
    """The version of the last backup; None where there was none, or where the caller may not look."""
    try:
        with open(_path(home), encoding="ascii") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return None


def _path(home: Home) -> str:
    return os.path.join(home.current, "last-backup")
