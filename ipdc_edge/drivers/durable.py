"""What makes files and directories outlive a power cut, and is counted.

Owns fsync; SQLite has its own.
"""

from __future__ import annotations

import os

from ipdc_edge.drivers.flash import FLASH


def sync_file(descriptor: int, *owners: str) -> None:
    """Make an open file durable; `owners`, or jobs, are for whom."""
    os.fsync(descriptor)
    FLASH.synced(owners)


def sync_directory(path: str, *owners: str) -> None:
    """Make names in a directory durable: of new files, of renamed and of removed ones."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(descriptor, *owners)
    finally:
        os.close(descriptor)
