"""Where this node and the portals are: addresses that change, and addresses that are only guessed.

Owns what this node says of its own address, the look at it, and the guesses (ipdc.conf, mDNS) that are tried while no
portal is reached. A guess becomes an address only when a member answers there with its certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping

from ..core import events as e
from ..core.membership import Membership
from ..drivers.addresses import own_address, who_answers
from ..drivers.identity import Identity
from ..settings import EVERYWHERE, LOOPBACK, Settings
from .background import note

LOOK = 3.0  # seconds between two looks at the own address
GUESS = (2.0, 3.0, 5.0, 10.0, 30.0)  # seconds between two rounds of guesses while no portal is reached
BROWSE = 4.0  # seconds that mDNS may take
MOST_GUESSES = 8  # in one round: anybody on the LAN can announce anything


class Whereabouts:
    """The own addresses, `mqtt` and `gateway`, each host:port, and what keeps the core's true. `emit` takes events for
    the core."""

    def __init__(self, own: Identity, settings: Settings, emit: Callable[[e.Event], None]) -> None:
        self.identity, self.settings, self.emit = own, settings, emit
        self._set(self._find(own.members.portals, own.peers) or LOOPBACK)

    def _set(self, host: str) -> None:
        self.host = host
        self.mqtt, self.gateway = f"{host}:{self.settings.mqtt_port}", f"{host}:{self.settings.gateway_port}"

    def _find(self, portals: tuple[str, ...], known: Mapping[str, tuple[str, str]]) -> str | None:
        """Where others find this node, of which some are at `known` addresses; None while there is no way to
        anywhere."""
        bound = self.settings.bind(self.identity.alone)
        if self.settings.address is not None or bound != EVERYWHERE:
            return self.settings.address or bound
        return own_address([known[node][0] for node in portals if node in known and node != self.identity.id])

    async def look(self, membership: Membership, reconnect: Callable[[], None]) -> None:
        """For ever: see whether the own address changed."""
        while True:
            await asyncio.sleep(LOOK)
            host = self._find(membership.portals, membership.addresses)
            if host is not None and host != self.host:
                note(f"this node's address is {host} now, not {self.host}")
                self._set(host)
                reconnect()
                self.emit(e.OwnAddressChanged(self.mqtt, self.gateway))

    async def guess(self, membership: Membership, context: ssl.SSLContext) -> None:
        """For ever: while no portal but this node itself is reached, try where one may be."""
        failures = 0
        while True:
            await asyncio.sleep(GUESS[min(failures, len(GUESS) - 1)])
            if membership.connected or all(node == self.identity.id for node in membership.portals):
                failures = 0
                continue
            failures += 1
            for address in await self._guesses():
                node = await asyncio.to_thread(who_answers, address, context)
                if node and node != self.identity.id:
                    self.emit(e.PeerFound(node, address))

    async def _guesses(self) -> list[str]:
        """Addresses where a portal may be."""
        guesses = [f"{host}:{port}" for host, port in self.settings.portals]
        if self.settings.bind(False) != LOOPBACK:
            from ..drivers import discovery  # rarely needed

            for found in await asyncio.to_thread(discovery.browse, BROWSE):
                if found.domain == self.identity.authority and found.node != self.identity.id:
                    guesses.append(f"{found.address}:{found.port}")
        return list(dict.fromkeys(guesses))[:MOST_GUESSES]
