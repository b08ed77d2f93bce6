"""How member lists come to a node: a member that stalls or lies keeps the list of another from nobody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipdc_edge.codec import member_list
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.effects import FetchMembers
from ipdc_edge.core.events import Event, MembersAdopted
from ipdc_edge.daemon import domain as module
from ipdc_edge.daemon.background import Background
from ipdc_edge.daemon.domain import Domain
from ipdc_edge.drivers import authority, identity
from ipdc_edge.drivers.provider import Provider
from ipdc_edge.settings import parse
from tests.drivers.nodes import admit, make_creator, make_node
from tests.waiting import eventually_async

pytestmark = pytest.mark.outside("starts the child that verifies lists")
LIAR = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"
OTHERS = [LIAR[:-2] + tail for tail in ("aa", "bb", "cc", "dd", "ee", "ff")]


class Fetcher:
    """`lists`: what is had at once, by CID; everything else never comes."""

    def __init__(self) -> None:
        self.lists: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def block(self, cid: str, providers: list[Provider]) -> bytes:
        self.asked.append(providers[0].node)
        if cid not in self.lists:
            await asyncio.sleep(3600)
        return self.lists[cid]


class Scene:
    """A member's Domain, with nothing of a daemon but what it touches."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.creator, self.home = make_creator(directory), make_node(directory, "two")
        admitted = admit(self.creator, self.home, "two")
        there = authority.make_directory(self.home, identity.load(self.creator).authority)
        for name, data in (("authority.pem", admitted.authority), ("node.pem", admitted.certificate),
                           ("members.json", admitted.signed)):
            Path(there, name).write_bytes(data)
        identity.switch(self.home, os.path.basename(there))
        self.notes: list[str] = []
        monkeypatch.setattr(module, "note", self.notes.append)
        self.fetcher = Fetcher()
        self.children = 0

    def emit(self, event: Event) -> None:
        """The core has it enforced at once."""
        if isinstance(event, MembersAdopted):
            self.domain.enforced.set()

    def newer(self, name: str) -> bytes:
        """The next list, which the authority signed."""
        return admit(self.creator, make_node(Path(self.creator.state).parent, name), name).signed

    def run(self, check: Callable[[Domain], Awaitable[None]]) -> None:
        async def main() -> None:
            background = Background()
            settings, store = parse(b"", "ipdc.conf"), SimpleNamespace(size=lambda cid: 1)
            domain = Domain(identity.load(self.home), self.home, settings, store, self.fetcher,  # type: ignore[arg-type]
                            background, self.emit, lambda nodes: None, lambda: None, False)
            self.domain = domain
            child = domain._child

            async def counted(*words: str, stdin: bytes = b"") -> dict[str, object]:
                self.children += 1
                return await child(*words, stdin=stdin)

            domain._child = counted  # type: ignore[method-assign]
            try:
                await check(domain)
            finally:
                await background.close()

        asyncio.run(main())


def told(node: str, data: bytes, packed: bool = True, version: int = 0) -> FetchMembers:
    version = version or member_list.parse(data)[0].version
    return FetchMembers(node, "127.0.0.1:1", raw_cid(data), version, member_list.pack(data) if packed else "")


def test_members_who_stall_keep_nobodys_list_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each announces a list that never comes, and does so again at once."""
    scene = Scene(tmp_path, monkeypatch)
    data = scene.newer("three")

    async def check(domain: Domain) -> None:
        for node in OTHERS:
            for n in range(10):
                domain.fetch(told(node, b"never %d" % n, packed=False, version=9000))
        await eventually_async(lambda: scene.fetcher.asked, "somebody is asked")
        domain.fetch(told(identity.own_id(scene.creator), data))
        await eventually_async(lambda: domain.members.version == 3, "the list is taken up")

    scene.run(check)
    assert len(scene.fetcher.asked) <= 4 and scene.children == 1


def test_a_list_too_long_for_a_message_is_had_from_whom_has_it_though_others_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FETCH", 0.2)
    scene = Scene(tmp_path, monkeypatch)
    data = scene.newer("three")
    scene.fetcher.lists[raw_cid(data)] = data

    async def check(domain: Domain) -> None:
        for node in OTHERS:
            domain.fetch(told(node, b"never", packed=False, version=9000))
        domain.fetch(told(identity.own_id(scene.creator), data, packed=False))
        await eventually_async(lambda: domain.members.version == 3, "the list is taken up")
        await eventually_async(lambda: len(scene.notes) == len(OTHERS), "the others are given up")
        for node in OTHERS:
            domain.fetch(told(node, b"never", packed=False, version=9000))  # too soon after the last time

    scene.run(check)
    assert len(scene.fetcher.asked) == len(OTHERS) + 1
    assert len(scene.notes) == len(OTHERS) and all("did not come" in note for note in scene.notes)


def test_what_is_no_newer_list_of_this_domain_costs_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch)
    present = identity.load(scene.home)
    foreign = identity.load(make_creator(tmp_path, "foreign")).signed
    for n, data in enumerate((b"{}", present.signed, foreign, bytes(70_000))):
        async def check(domain: Domain, data: bytes = data, n: int = n) -> None:
            scene.fetcher.lists[raw_cid(data)] = data
            domain.fetch(told(OTHERS[n], data, packed=False, version=9000))
            await eventually_async(lambda: len(scene.notes) == n + 1, "it is refused")
            assert domain.members == present.members

        scene.run(check)
    assert scene.children == 0


def test_one_liar_has_one_child_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time with another list, whose signature is false."""
    scene = Scene(tmp_path, monkeypatch)
    members = identity.load(scene.home).members
    good = scene.newer("three")

    async def check(domain: Domain) -> None:
        for n in range(20):
            forged = member_list.signed(member_list.payload(replace(members, version=9000 + n)), bytes(70))
            domain.fetch(told(LIAR, forged))
            await eventually_async(lambda: scene.notes and not domain._fetching, "it is refused")
        assert scene.children == 1 and len(scene.notes) == 1
        domain.fetch(told(identity.own_id(scene.creator), good))
        await eventually_async(lambda: domain.members.version == 3, "the list is taken up")

    scene.run(check)
