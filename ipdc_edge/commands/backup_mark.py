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


def lacking(home: Home, version: int) -> str:
    """What is wrong with the last backup, if the member list has this version now; empty where nothing is."""
    last = backed_up(home)
    if last is None:
        return "There is no backup of the authority; without it nobody can be admitted or expelled if this disk dies"
    if last < version:
        return f"The last backup has version {last} of the list; who came later is not in it"
    return ""


def _path(home: Home) -> str:
    return os.path.join(home.current, "last-backup")
