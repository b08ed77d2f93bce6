"""What a peer's record says of its Kubo, and whose key of the private network counts."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge import settings as conf
from ipdc_edge.codec import swarm_key
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.core.values import NodeRecord, Vitals
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.daemon.kubo_network import KuboNetwork, Other, other_of
from ipdc_edge.daemon.store import IN_KUBO
from ipdc_edge.drivers import authority, identity
from ipdc_edge.drivers.kubo_provider import KuboPool
from ipdc_edge.drivers.provider import Provider
from ipdc_edge.home import Home
from tests.drivers.nodes import admit, make_creator, make_node

PEER = "12D3KooWHTM5Yxj5VrFx8A3XZeLhVdTRNzvyFHLSJQmjBeuNY5kd"
VITALS = Vitals(1 << 30, 1 << 29, 4, 1.0, 0.0, 1.0, 1 << 30)
RECORD = NodeRecord("QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51", "pi", "ready", "10.0.0.1:18830",
                    "10.0.0.1:18831", "1", ("mapreduce", f"kubo:{PEER}:4101"), 1, "systemd", VITALS)


@pytest.mark.parametrize("gateway, address", [
    ("10.0.0.1:18831", "/ip4/10.0.0.1/tcp/4101"), ("pi-1.local:5", "/dns4/pi-1.local/tcp/4101"),
    ("[fe80::1]:5", "/ip6/fe80::1/tcp/4101"),
])  # fmt: skip
def test_a_record_tells_where_a_kubo_is(gateway: str, address: str) -> None:
    found = other_of(replace(RECORD, gateway=gateway))
    assert found is not None and found == (PEER, f"{address}/p2p/{PEER}")


@pytest.mark.parametrize("change", [
    {"capabilities": ("mapreduce",)}, {"capabilities": (f"kubo:{PEER}:0",)}, {"capabilities": (f"kubo:{PEER}:65536",)},
    {"capabilities": (f"kubo:{PEER}:4101/ws",)}, {"capabilities": (f"kubo:{PEER}/x:4101",)},
    {"capabilities": ("kubo:x:4101",)}, {"capabilities": (f"kubo:{PEER}:4101\n",)}, {"gateway": ":5"},
    {"gateway": "a/b:5"}, {"gateway": "[x]:5"}, {"gateway": "a b:5"},
])  # fmt: skip
def test_what_is_no_address_is_none(change: dict[str, object]) -> None:
    assert other_of(replace(RECORD, **change)) is None  # type: ignore[arg-type]


@given(st.text(max_size=80), st.text(max_size=40))
def test_any_words_are_an_address_or_none(word: str, gateway: str) -> None:
    for capability in (word, f"kubo:{word}", f"kubo:{PEER}:{word}", f"kubo:{word}:4101"):
        found = other_of(replace(RECORD, capabilities=(capability,), gateway=gateway))
        if found is not None:
            form = r"/(ip4|ip6|dns4)/[0-9A-Za-z.:-]+/tcp/[0-9]{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]+"
            assert re.fullmatch(form, found.address)


# ---- the key --------------------------------------------------------------------------------------------------------

def run(home: Home, check: Callable[[Daemon], Awaitable[None]]) -> None:
    """With a daemon without a broker."""
    async def main() -> None:
        daemon = Daemon(home, conf.load(home.conf), identity.load(home))
        try:
            await check(daemon)
        finally:
            await daemon.background.close()
            daemon.store.close()
            daemon.ledger.close()

    asyncio.run(main())


def make_member(creator: Home, node: Home) -> None:
    """What a node has once it has joined."""
    admitted = admit(creator, node, "two")
    there = authority.make_directory(node, admitted.members.authority)
    for name, data in ((identity.AUTHORITY, admitted.authority), (identity.CERTIFICATE, admitted.certificate),
                       (identity.SWARM, admitted.swarm), (identity.MEMBERS, admitted.signed)):
        Path(there, name).write_bytes(data)
    identity.switch(node, os.path.basename(there))


def kept(home: Home) -> bytes:
    return identity.swarm_key(home, identity.load(home).authority)


def test_the_key_of_a_list_is_given_out_only_when_that_list_is_enforced(tmp_path: Path) -> None:
    """Until then the gateway lets in whom it expels, who would get the new key."""
    home, guest = make_creator(tmp_path), make_node(tmp_path, "two")
    admit(home, guest, "two")

    async def check(daemon: Daemon) -> None:
        before = kept(home)
        assert (await daemon.kubo().page()).encode() == before
        authority.expel(home, "two")
        assert kept(home) != before and await daemon.kubo().page() == ""
        await daemon.domain.adopt()
        assert not daemon.domain.admits(identity.own_id(guest))
        assert (await daemon.kubo().page()).encode() == kept(home)

    run(home, check)
    run(guest, nothing_to_give)


async def nothing_to_give(daemon: Daemon) -> None:
    """A node that is alone."""
    assert await daemon.kubo().page() == "" and not await daemon.kubo().renew()


def test_of_what_members_say_the_newest_key_that_the_authority_signed_counts(tmp_path: Path) -> None:
    creator, node, third = make_creator(tmp_path), make_node(tmp_path, "two"), make_node(tmp_path, "three")
    make_member(creator, node)
    first = kept(node)
    admit(creator, third, "three")
    authority.expel(creator, "three")
    newer = kept(creator)
    key = replace(swarm_key.parse(newer)[0], version=1 << 30, key=bytes(32))
    forged = swarm_key.signed(swarm_key.payload(key), swarm_key.parse(newer)[2])

    async def check(daemon: Daemon) -> None:
        network = daemon.kubo()
        said = [b"", forged]
        network._holders = lambda: [RECORD] * len(said)  # type: ignore[method-assign]

        async def ask(record: NodeRecord) -> bytes:
            return told.pop()

        network._ask = ask  # type: ignore[method-assign]
        told = list(said)
        assert await network.renew() and kept(node) == first
        said = [first, forged, newer, first, forged]
        told = list(said)
        assert await network.renew() and kept(node) == newer
        said = [first]
        told = list(said)
        assert await network.renew() and kept(node) == newer

    run(node, check)


def test_a_member_that_has_the_old_key_still_is_not_the_last_to_be_asked(tmp_path: Path) -> None:
    """It may hear of the expulsion later than this node, which would keep the old key for good."""
    creator, node, third = make_creator(tmp_path), make_node(tmp_path, "two"), make_node(tmp_path, "three")
    make_member(creator, node)
    old = kept(node)
    admit(creator, third, "three")
    authority.expel(creator, "three")
    newer = kept(creator)
    bad = swarm_key.signed(swarm_key.payload(replace(swarm_key.parse(newer)[0], key=bytes(32))),
                           swarm_key.parse(newer)[2])
    holder = replace(RECORD, capabilities=("authority",))

    async def check(daemon: Daemon) -> None:
        network = daemon.kubo()
        for record, data, final in ((RECORD, old, False), (RECORD, b"", False), (holder, b"", False),
                                    (holder, bad, False), (holder, old, True)):
            network._renewed = -1
            await asks(network, record, data)
            assert (network._renewed == daemon.domain.members.version) is final and kept(node) == old
        network._renewed = -1
        version = swarm_key.parse(newer)[0].version
        daemon.domain.held = replace(daemon.domain.held, members=replace(daemon.domain.members, version=version))
        await asks(network, RECORD, newer)  # whoever says it: it is the key of that list
        assert network._renewed == daemon.domain.members.version and kept(node) == newer

    run(node, check)


async def asks(network: KuboNetwork, record: NodeRecord, data: bytes) -> None:
    """`renew` in a domain in which this member alone is there and says this."""
    async def ask(record: NodeRecord) -> bytes:
        return data

    network._holders, network._ask = lambda: [record], ask  # type: ignore[method-assign]
    await network.renew()


def test_a_kubo_that_could_not_be_met_is_not_dialled_for_every_block(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    record = replace(RECORD, capabilities=(*RECORD.capabilities, IN_KUBO))

    async def check(daemon: Daemon) -> None:
        network, dialled = daemon.kubo(), []
        daemon.node.membership.peers[record.id] = SimpleNamespace(record=record)  # type: ignore[assignment]

        async def dial(other: Other) -> None:
            dialled.append(other.peer)
            network._tell(other.peer, "nobody there")

        network._dial = dial  # type: ignore[method-assign]
        network._swap = KuboPool(Provider("kubo", f"127.0.0.1:{free_ports(1)[0]}"), 0.1)
        for _ in range(3):
            network._dry.clear()
            assert await network.block(raw_cid(b"x"), [record.id]) is None
        assert dialled == [PEER]
        network._told.clear()  # a later round met it, or has not yet told why not
        network._dry.clear()
        assert await network.block(raw_cid(b"x"), [record.id]) is None and dialled == [PEER] * 2

    run(home, check)


def test_the_authority_of_a_domain_of_an_earlier_version_makes_one_key_when_members_ask(tmp_path: Path) -> None:
    home = make_creator(tmp_path)
    os.unlink(os.path.join(identity.domains(home), identity.load(home).authority, identity.SWARM))

    async def check(daemon: Daemon) -> None:
        children, make = [], daemon.domain.make_swarm_key

        async def counted() -> None:
            children.append(1)
            await make()

        daemon.domain.make_swarm_key = counted  # type: ignore[method-assign]
        pages = await asyncio.gather(*(daemon.kubo().page() for _ in range(5)))
        assert set(pages) == {kept(home).decode()} and pages[0] and len(children) == 1

    run(home, check)
