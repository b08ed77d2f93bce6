"""Who this node is: an id that stays with the node's directory.

Owns `identity/node-id`. The id has the form of a libp2p peer id (base58 of a sha2-256 multihash, `Qm...`).
Until domains are closed it is the hash of random bytes; then it becomes that of the node's key, and nothing
else changes.
"""

from __future__ import annotations

import os

from ..codec.node_id import NODE_ID, node_id
from ..errors import IpdcError


class IdentityBroken(IpdcError):
    """{path} does not hold a node id. If it cannot be restored, remove it: the node then gets a new identity."""


def load_or_make(directory: str) -> str:
    """The node's id; made, durably, when the directory holds none."""
    path = os.path.join(directory, "node-id")
    try:
        with open(path, encoding="ascii") as file:
            ident = file.read(64).strip()
    except FileNotFoundError:
        ident = node_id(os.urandom(32))
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(ident + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
    except (OSError, ValueError):
        raise IdentityBroken(path=path) from None
    if not NODE_ID.fullmatch(ident):
        raise IdentityBroken(path=path)
    return ident
