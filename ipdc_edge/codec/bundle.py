"""A job's code as it travels: a bundle of named files, each a block of content. Pure.

Owns the names that may travel and the bounds of a bundle, for the command line that makes one and the nodes
that take one. It is never an archive that somebody unpacks: names are checked, and files live in memory only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..core.architecture import BadSpec

MOST_FILES = 256
MOST_FILE_BYTES = 1 << 20  # a chunk, so that a code file is one block
MOST_BYTES = 8 << 20  # of all files together
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,7}")


def bundle_items(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, CID as text) of the code files of a job's description; BadSpec for anything that may not travel."""
    code = body.get("code")
    if not isinstance(code, dict) or len(code) > MOST_FILES:
        raise BadSpec(reason=f"its code is not an object of at most {MOST_FILES} files")
    total = 0
    for name, item in code.items():
        if not NAME.fullmatch(name) or not isinstance(item, dict) or not isinstance(item.get("cid"), str):
            raise BadSpec(reason=f"code file {name[:100]!r}: names have letters, digits, - _ . and / only")
        size = item.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_FILE_BYTES:
            raise BadSpec(reason=f"code file {name!r} has {size!r} bytes; at most {MOST_FILE_BYTES}")
        total += size
    if total > MOST_BYTES:
        raise BadSpec(reason=f"its code has {total} bytes; at most {MOST_BYTES}")
    return [(name, item["cid"]) for name, item in code.items()]
