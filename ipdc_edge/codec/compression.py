"""Which content is compressed, told by how it begins. Pure.

Source: RFC 1952 (gzip), bzip2's header, the XZ file format 1.2.1, RFC 8878 (Zstandard, and its skippable frames).
"""

from __future__ import annotations

STARTS: dict[str, tuple[bytes, ...]] = {
    "gz": (b"\x1f\x8b",),
    "bz2": (b"BZh",),
    "xz": (b"\xfd7zXZ\0",),
    "zst": (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))),
}
LONGEST = max(len(start) for starts in STARTS.values() for start in starts)


def compression_of(start: bytes) -> str:
    """The extension of what begins so, a key of STARTS, or "" for plain content."""
    return next((kind for kind, starts in STARTS.items() if start.startswith(starts)), "")
