"""How large the inputs are that a job's description names."""

from __future__ import annotations

from typing import Any

LARGE = 8 << 20  # bytes of inputs for which it matters who has them


def size_of(item: Any) -> int:
    """Bytes of an input that a description names by its CID; 0 where it names none, whatever it says."""
    if isinstance(item, dict) and isinstance(item.get("cid"), str) and type(item.get("size")) is int:
        return max(0, item["size"])
    return 0
