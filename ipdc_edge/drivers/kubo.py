"""Hands content over to an IPFS daemon of this machine.

Owns what a CAR's import must have said. Never holds content: a CAR goes through piece by piece. Blocks, so it is for
commands. Source: https://docs.ipfs.tech/reference/kubo/rpc/ (dag/import)
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ipdc_edge.drivers.kubo_rpc import KuboRefused, KuboRpc, NoKubo, message

__all__ = ["KuboRefused", "NoKubo", "import_car"]
PATIENCE = 60.0  # seconds for each piece that goes or comes


def import_car(api: tuple[str, int], root: str, parts: Iterable[bytes]) -> None:
    """Have Kubo keep the blocks of a CAR, and pin its root. What `parts` raises goes through. NoKubo, KuboRefused."""
    rpc = KuboRpc(api, PATIENCE)
    try:
        said = rpc.upload("dag/import", [("pin-roots", "true")], "content.car", "application/vnd.ipld.car", parts)
        _check_pinned(rpc.address, root, said.decode("utf-8", "replace"))
    finally:
        rpc.close()


def _check_pinned(address: str, root: str, said: str) -> None:
    """A line for each root says whether it was pinned; errors in the middle come with status 200 too."""
    for line in said.splitlines():
        try:
            found = json.loads(line)["Root"]
            if found["Cid"]["/"] == root and not found["PinErrorMsg"]:
                return
            reason = found["PinErrorMsg"] or f"it pinned {found['Cid']['/']}"
        except (ValueError, KeyError, TypeError):
            reason = message(line.encode()) or line[:200]
        raise KuboRefused(address=address, reason=reason)
    raise KuboRefused(address=address, reason="it did not say that the root is pinned")
