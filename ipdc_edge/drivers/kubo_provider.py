"""Kubo on this machine as one more place to get blocks from: what it has, and what its own network gives it.

Owns nothing but the questions; each block is checked against its CID like a peer's. Asked last, for content that no
node of the domain has, and only at the address of kubo_api. Its calls block, so they run in threads, two at most.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import BlockMismatch, verify
from ipdc_edge.drivers.kubo_rpc import MOST_BLOCK, KuboRefused, KuboRpc, NoKubo
from ipdc_edge.drivers.provider import KUBO, PER_PROVIDER, Provider, ProviderFault, ProviderLied

if TYPE_CHECKING:
    from collections.abc import Callable

SEARCH = 20  # seconds that Kubo may look for a block in its network
PATIENCE = 5.0  # more, without a word from Kubo itself
CONNECT = 2.0  # seconds until it accepts a connection, on loopback


def provider_of(api: tuple[str, int]) -> Provider:
    """How the fetcher knows it."""
    return Provider(KUBO, f"{api[0]}:{api[1]}")


def answers(api: tuple[str, int]) -> bool:
    """Whether anybody accepts connections there: costs next to nothing where nobody does."""
    try:
        with socket.create_connection(api, CONNECT):
            return True
    except OSError:
        return False


class KuboPool:
    """What `fetcher` asks, in place of a ProviderPool."""

    def __init__(self, provider: Provider, search: float = SEARCH) -> None:
        host, _, port = provider.address.rpartition(":")
        self.places = asyncio.Semaphore(PER_PROVIDER)
        self.users = 0
        self._search = f"{search:g}s"
        self._rpc = KuboRpc((host, int(port)), search + PATIENCE)

    @property
    def unused(self) -> bool:
        """Whether nothing is lost by forgetting it."""
        return not self.users

    async def get(self, cid: str, received: Callable[[int], None] | None = None) -> bytes:
        """One block's bytes, verified. ProviderFault for all that can go wrong."""
        return await asyncio.to_thread(self._get, cid)

    def close(self) -> None:
        """Close what is kept."""
        self._rpc.close()

    def _get(self, cid: str) -> bytes:
        try:
            data = self._rpc.call("block/get", [("arg", cid), ("timeout", self._search)], MOST_BLOCK)
            verify(cid, data)
        except (NoKubo, KuboRefused) as error:
            reason = str(error.details["reason"])
            if "deadline" in reason:
                reason = f"not found within {self._search[:-1]} s"
            raise ProviderFault(f"Kubo: {reason}") from None
        except BlockMismatch as error:
            raise ProviderLied(f"Kubo lied. {error}".rstrip(".")) from None
        return data
