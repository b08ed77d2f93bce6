"""This node's own Kubo among those of the domain: who has one, that they are connected, and that they have one key.

Owns what the node's record says of its Kubo, the connections from it to the others', and the way of a newer key of the
private network to this node: over the gateways, between members only, and signed by the authority, so that it does not
matter who hands it over. Loaded where a Kubo runs, or somebody asks for the key; never by an idle daemon without one.
Never decides who is a member, and never starts Kubo: ended, it is started again by its unit, with the new key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..codec import swarm_key
from ..codec.swarm_key import BadSwarmKey
from ..core.admission import AUTHORITY
from ..core.values import NodeRecord
from ..drivers import identity, kubo_node
from ..drivers.gateway import SWARM_KEY
from ..drivers.kubo_node import PEER, Running
from ..drivers.kubo_provider import KuboPool, provider_of
from ..drivers.kubo_rpc import KuboRefused, KuboRpc, NoKubo
from ..drivers.provider import Provider, ProviderFault, ProviderPool
from ..errors import IpdcError
from .background import note
from .store import IN_KUBO

if TYPE_CHECKING:
    from .daemon import Daemon

MARK = "kubo:"  # begins the capability of a node whose Kubo is in the domain's network: its peer id, and its port
CAPABILITY = re.compile(rf"{MARK}({PEER.pattern}):([0-9]{{1,5}})")
ROUND = 60.0  # seconds between two looks at whom Kubo is connected to
SEE = 300.0  # seconds between two looks at who is there
LOOK = 10.0  # seconds that the portals have to say who is there
DIAL = 10.0  # seconds for one connection of Kubo's
AT_ONCE = 2  # that are made at the same time, each in a thread
SWAP = 1.0  # seconds for a block by bitswap, before the HTTPS gateway is asked for it
DRY = 60.0  # seconds in which a node whose Kubo did not give a block in time is asked by HTTPS only
MOST_DRY = 1024  # nodes of which that is remembered
MOST_ASKED = 8  # members that are asked for a newer key
PATIENCE = 5.0  # seconds that each of them has


class Other(NamedTuple):
    """Another node's Kubo."""

    peer: str
    address: str  # a multiaddress


class KuboNetwork:
    """One daemon's Kubo. `look` is called every few seconds."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.found: Running | None = None
        self._rpc = KuboRpc(daemon.settings.kubo_api, DIAL)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._making = asyncio.Lock()
        self._round_at = self._see_at = self._renew_at = 0.0
        self._renewed = -1  # version of the member list with which the key was asked for last
        self._busy = False
        self._met: dict[str, None] = {}  # peers that Kubo was connected to when it was asked last
        self._dry: dict[str, float] = {}  # nodes that did not give a block in time, and until when they are not asked
        self._swap = KuboPool(provider_of(daemon.settings.kubo_api), SWAP)
        self._told: dict[str, str] = {}  # whom Kubo did not meet, and why: once in the journal

    def capability(self) -> tuple[str, ...]:
        """What stands in this node's record."""
        return (f"{MARK}{self.found.peer}:{self.found.port}",) if self.found is not None else ()

    def look(self) -> None:
        """Sees whether Kubo runs, and begins what is due."""
        daemon, now = self.daemon, self.daemon.loop.time()
        found = None if daemon.domain.identity.alone else kubo_node.running(daemon.home)
        if found != self.found:
            if (found and found[1:]) != (self.found and self.found[1:]):
                note(f"Kubo runs: {found.peer}" if found is not None else "Kubo runs no more")
            self.found, self._round_at, self._see_at = found, 0.0, 0.0
            in_kubo = found is not None and daemon.store.keeps_in == "kubo"
            daemon.fetcher.bitswap = self.block if in_kubo else None
            daemon.offer.kubo = self.capability()
            daemon.offer.tell()
        if found is None or self._busy:
            return
        renew = daemon.domain.members.version != self._renewed and now >= self._renew_at
        if renew or now >= self._round_at:
            self._busy = True
            daemon.background.start(self._work(renew))

    async def _work(self, renew: bool) -> None:
        loop = self.daemon.loop
        try:
            if loop.time() >= self._see_at:
                await self._see()
            if renew:
                self._renew_at = loop.time() + ROUND
                await self.renew()
            await self._connect(self.others())
        finally:
            self._round_at = loop.time() + ROUND
            self._busy = False

    # -- who is there

    async def _see(self) -> None:
        """An idle node does not watch who is there; with a Kubo it looks now and then."""
        self._see_at = self.daemon.loop.time() + SEE
        try:
            async with asyncio.timeout(LOOK):
                await self.daemon.look()
        except TimeoutError:
            pass  # those that are known are enough for now

    def others(self) -> list[Other]:
        """The Kubo nodes of other members, as far as their records are known."""
        daemon = self.daemon
        peers = [peer.record for node, peer in daemon.node.membership.peers.items()
                 if peer.alive() and daemon.domain.admits(node)]
        return [other for other in map(other_of, peers) if other is not None]

    async def meet(self) -> None:
        """Returns when this node's Kubo, if it has one, was connected to all others that can be met."""
        if self.found is not None:
            await self._see()
            await self._connect(self.others())

    async def _connect(self, others: Iterable[Other]) -> None:
        others = list(others)
        if not others:
            return
        try:
            self._met = dict.fromkeys(await asyncio.to_thread(self._rpc.peers))
        except (NoKubo, KuboRefused) as error:
            return self._tell("", f"this node's Kubo does not answer: {error}")
        self._told = {peer: why for peer, why in self._told.items() if any(peer == other.peer for other in others)}
        await asyncio.gather(*(self._dial(other) for other in others if other.peer not in self._met))

    async def block(self, cid: str, nodes: Sequence[str]) -> bytes | None:
        """A verified block by bitswap, where one of these nodes too has its blocks in a Kubo of the domain's network,
        which this node's Kubo meets first. None where that is not so, or it takes too long: what a node keeps by
        reference, say, is not in its Kubo."""
        now, members = self.daemon.loop.time(), self.daemon.node.membership.peers
        usable: list[tuple[str, Other]] = []
        for node in dict.fromkeys(nodes):
            record = members[node].record if node in members else None
            if record is not None and IN_KUBO in record.capabilities and now >= self._dry.get(node, 0.0):
                other = other_of(record)
                # one that could not be met in the last round is not waited for with every block
                if other is not None and (other.peer in self._met or other.peer not in self._told):
                    usable.append((node, other))
        if not usable:
            return None
        await asyncio.gather(*(self._dial(other) for _, other in usable if other.peer not in self._met))
        try:
            async with self._swap.places:
                return await self._swap.get(cid)
        except ProviderFault:
            if len(self._dry) >= MOST_DRY:
                self._dry.clear()
            self._dry.update((node, now + DRY) for node, _ in usable)
            return None

    async def _dial(self, other: Other) -> None:
        async with self._places:
            try:
                await asyncio.to_thread(self._rpc.connect, other.address)
                self._told.pop(other.peer, None)
                self._met[other.peer] = None
            except (NoKubo, KuboRefused) as error:
                self._tell(other.peer, f"this node's Kubo does not meet {other.address}: {error.details['reason']}")

    def _tell(self, peer: str, why: str) -> None:
        if self._told.get(peer) != why:
            self._told[peer] = why
            note("".join(c if c.isprintable() else "?" for c in why)[:500])

    # -- the key of the network

    async def page(self) -> str:
        """The signed key, for other members, as the gateway gives it out; "" while there is none to give. One that was
        made with a newer list than the one that is enforced here would still reach who is expelled by that."""
        home, domain = self.daemon.home, self.daemon.domain
        data = await asyncio.to_thread(identity.swarm_key, home, domain.identity.authority)
        if not data and domain.identity.has_authority and not domain.identity.alone:
            await self._make()
            data = await asyncio.to_thread(identity.swarm_key, home, domain.identity.authority)
        if not data or not domain.enforced.is_set() or swarm_key.parse(data)[0].version > domain.members.version:
            return ""
        return data.decode("ascii")

    async def _make(self) -> None:
        """The key of a domain of an earlier version. Who asks meanwhile waits, for one child and not for one each."""
        async with self._making:
            domain = self.daemon.domain
            if not await asyncio.to_thread(identity.swarm_key, self.daemon.home, domain.identity.authority):
                try:
                    await domain.make_swarm_key()
                except (IpdcError, OSError) as error:
                    note(f"the key of the private network cannot be made: {error}")

    async def renewed(self) -> bool:
        """`renew`, when it was seen who is there."""
        await self._see()
        return await self.renew()

    async def renew(self) -> bool:
        """Asks other members for a newer key, and takes up the newest one: whether there is one here now. A Kubo that
        runs with an older one is ended."""
        home, domain = self.daemon.home, self.daemon.domain
        own, version = domain.identity, domain.members.version
        if own.alone:
            return False
        known = await asyncio.to_thread(identity.swarm_key, home, own.authority)
        newest = known
        records = self._holders()
        told = await asyncio.gather(*(self._ask(record) for record in records))
        final = own.has_authority and not own.restored
        for record, data in zip(records, told, strict=True):
            if not data:
                continue
            if not newest or swarm_key.parse(data)[0].version > swarm_key.parse(newest)[0].version:
                try:
                    await domain.verify_swarm_key(data)
                    newest = data
                except IpdcError as error:
                    note(f"a key of the private network is not taken: {error}")
                    continue
            final = final or AUTHORITY in record.capabilities
        if newest and newest != known:
            await asyncio.to_thread(identity.store_swarm_key, home, newest)
            note("there is a new key of the private network")
        # another member may not have heard of the newest one either, so what it says ends the asking only where the key
        # is of this very list
        if final or newest and swarm_key.parse(newest)[0].version == version:
            self._renewed = version
        if self.found is not None and not await asyncio.to_thread(kubo_node.has_newest_key, home, own):
            note("Kubo begins anew, with the domain's present key")
            await asyncio.to_thread(kubo_node.restart, home)
        return bool(newest)

    def _holders(self) -> list[NodeRecord]:
        """Whom to ask: the authority's node first."""
        daemon = self.daemon
        peers = [peer.record for node, peer in daemon.node.membership.peers.items()
                 if peer.alive() and daemon.domain.admits(node)]
        return sorted(peers, key=lambda record: AUTHORITY not in record.capabilities)[:MOST_ASKED]

    async def _ask(self, record: NodeRecord) -> bytes:
        """A member's key, bounded and checked but not verified; b"" where it gives none."""
        pool = ProviderPool(Provider(record.id, record.gateway), self.daemon.mqtt.context, PATIENCE)
        try:
            async with asyncio.timeout(PATIENCE):
                data = await pool.page(SWARM_KEY, swarm_key.MOST_BYTES)
            if data and swarm_key.parse(data)[0].authority == self.daemon.domain.identity.authority:
                return data
        except (TimeoutError, ProviderFault, BadSwarmKey):
            pass  # it is of an older version, or gone; what it says goes into no log: it may be a key
        finally:
            pool.close()
        return b""


def other_of(record: NodeRecord) -> Other | None:
    """The Kubo that a node's record tells of. It is at the host of its gateway; what is no host, port or id is none."""
    for word in record.capabilities:
        if (found := CAPABILITY.fullmatch(word)) and 0 < int(found[2]) < 65536:
            host = record.gateway.rpartition(":")[0]
            kind = "ip4" if re.fullmatch(r"[0-9.]+", host) else "ip6" if host.startswith("[") else "dns4"
            if re.fullmatch(r"[0-9A-Za-z.-]+|\[[0-9A-Fa-f:]+\]", host):
                return Other(found[1], f"/{kind}/{host.strip('[]')}/tcp/{found[2]}/p2p/{found[1]}")
    return None
