"""What the commands about content have in common: how a CID is typed, and how a name of any bytes is shown."""

from __future__ import annotations

from ipdc_edge.codec.cid import canonical
from ipdc_edge.commands.display import plain


def cid_of(text: str) -> str:
    """The CID that was typed: bare, as ipfs://CID or as /ipfs/CID. BadCid."""
    return canonical(text.removeprefix("ipfs://").removeprefix("/ipfs/").rstrip("/"))


def shown_name(name: str) -> str:
    """A name on one line of a terminal: what would act on it, and bytes that are no text, as escapes."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return plain("".join(
        f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in escaped))
