"""A job's code as it travels: a bundle of named files, each a block of content. Pure.

Owns the names that may travel and the bounds of a bundle, for the command line that makes one and the nodes
that take one. It is never an archive that somebody unpacks: names are checked, and files live in memory only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import BadSpec

MOST_FILES = 256
MOST_FILE_BYTES = 16 << 20  # a native program, or data that it reads
MOST_PYTHON_BYTES = 1 << 20  # a module; what is bigger is no code that somebody wrote
MOST_BYTES = 32 << 20  # of all files together, but for a model
MOST_MODEL_BYTES = 256 << 20  # runners have it as an open file
MODEL = ".tflite"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,7}")


def most_bytes(name: str) -> int:
    """How big a file of this name may be."""
    if name.endswith(MODEL):
        return MOST_MODEL_BYTES
    return MOST_PYTHON_BYTES if name.endswith(".py") else MOST_FILE_BYTES


def bundle_items(body: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(name, CID as text, bytes) of the code files of a job's description; BadSpec for anything that may not travel."""
    code = body.get("code")
    if not isinstance(code, dict) or len(code) > MOST_FILES:
        raise BadSpec(reason=f"its code is not an object of at most {MOST_FILES} files")
    total = models = 0
    for name, item in code.items():
        if not NAME.fullmatch(name) or not isinstance(item, dict) or not isinstance(item.get("cid"), str):
            raise BadSpec(reason=f"code file {name[:100]!r}: names have letters, digits, - _ . and / only")
        size = item.get("size")
        most = most_bytes(name)
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= most:
            raise BadSpec(reason=f"code file {name!r} has {size!r} bytes; at most {most}")
        if name.endswith(MODEL):
            models += size
        else:
            total += size
    if models > MOST_MODEL_BYTES:
        raise BadSpec(reason=f"its models have {models} bytes; at most {MOST_MODEL_BYTES}")
    if total > MOST_BYTES:
        raise BadSpec(reason=f"its code has {total} bytes; at most {MOST_BYTES}")
    return [(name, item["cid"], item["size"]) for name, item in code.items()]
