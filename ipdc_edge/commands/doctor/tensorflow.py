"""Whether this node has a TensorFlow, and whether it works: a graph is built and run in a child.

Owns no knowledge of where it lies; that is drivers/tensorflow.py's. A node without one is as well as any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers.tensorflow import Absent, DoesNotWork, Found, look, prove
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings


def there(home: Home, read: Settings) -> Iterator[Check]:
    """One that was installed, but not to its end, or for a Python that is gone. One that is not there is no trouble."""
    found = look(read.tensorflow, home.tensorflow)
    if isinstance(found, Absent) and _wanted(home, read):
        yield Check("tensorflow", False, found.reason, "sudo ipdc-edge tf install --again")


def proof(home: Home, read: Settings) -> Iterator[Check]:
    """What it is, by its own words."""
    found = look(read.tensorflow, home.tensorflow)
    if not isinstance(found, Found):
        return
    status = os.stat(home.state)
    root = os.geteuid() == 0 and status.st_uid != 0  # what lies there is the daemon's user's to change
    try:
        version = prove(found, *((status.st_uid, status.st_gid) if root else (None, None)))
    except DoesNotWork as error:
        yield Check("tensorflow", False, str(error), "make it anew: sudo ipdc-edge tf install --again")
    else:
        yield Check("tensorflow", True, f"{version} in {found.place} builds a graph and runs it")


def _wanted(home: Home, read: Settings) -> bool:
    return read.tensorflow not in ("auto", "no") or read.tensorflow == "auto" and os.path.lexists(home.tensorflow)
