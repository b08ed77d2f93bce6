"""Member lists of a malicious member: it has no processes started without bound, and keeps nobody's list out."""

from __future__ import annotations

import asyncio
import base64
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from ipdc_edge.codec import member_list
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core import effects as fx
from ipdc_edge.daemon.daemon import Daemon
from tests.daemon.test_daemon import daemon_in
from tests.waiting import eventually_async

MALLORY, HONEST = (node_id(bytes([number]) * 32) for number in (1, 2))
SOMEWHERE = "127.0.0.1:9"


def told(data: bytes, version: int, node: str = MALLORY, cid: str = "") -> fx.FetchMembers:
    packed = base64.b64encode(zlib.compress(data)).decode()
    return fx.FetchMembers(node, SOMEWHERE, cid or raw_cid(data), version, packed)


def counted(daemon: Daemon) -> list[bytes]:
    """The questions that a child would have been started for; each is answered with yes."""
    asked: list[bytes] = []

    async def child(*words: str, stdin: bytes = b"") -> dict[str, object]:
        asked.append(stdin)
        await asyncio.sleep(0)
        return {"ok": True}

    daemon.domain._child = child  # type: ignore[method-assign]
    return asked


async def settled(daemon: Daemon) -> None:
    await eventually_async(lambda: not daemon.domain._fetching, "what was told is dealt with")


def newer(daemon: Daemon, version: int) -> bytes:
    members = replace(daemon.domain.members, version=version)
    return member_list.signed(member_list.payload(members), bytes(70))


@pytest.mark.parametrize(
    "kind", ["the present list", "another version", "a bomb", "nonsense", "of another"])
def test_lies_about_lists_cost_no_process(tmp_path: Path, kind: str) -> None:
    async def main() -> int:
        daemon = daemon_in(str(tmp_path))
        asked, own = counted(daemon), daemon.domain.identity.signed
        other = replace(daemon.domain.members, authority=HONEST, version=99)
        lies = {"the present list": (own, 99, ""), "another version": (newer(daemon, 7), 99, ""),
                "a bomb": (bytes(1 << 24), 99, ""),
                "nonsense": (b"{}", 99, ""),
                "of another": (member_list.signed(member_list.payload(other), bytes(70)), 99, "")}
        for _ in range(50):
            data, version, cid = lies[kind]
            daemon.domain._disbelieved.clear()  # as if it waited each time
            daemon.domain.fetch(told(data, version, cid=cid))
            await settled(daemon)
        assert daemon.domain._disbelieved, "who lies is not believed"
        daemon.domain.fetch(told(newer(daemon, 100), 100, HONEST))
        await settled(daemon)
        assert daemon.domain.members.version == 100, "a list as it must be is taken"
        return len(asked)

    assert asyncio.run(main()) == 1


def test_a_slow_gateway_keeps_nobody_elses_list_out(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = daemon_in(str(tmp_path))
        counted(daemon)
        never: asyncio.Future[bytes] = daemon.loop.create_future()

        async def block(cid: str, providers: object) -> bytes:
            return await never

        daemon.fetcher.block = block  # type: ignore[method-assign,assignment]
        slow = fx.FetchMembers(MALLORY, SOMEWHERE, raw_cid(b"slow"), 1000, "")
        for _ in range(100):
            daemon.domain.fetch(slow)
        assert len(daemon.domain._fetching) == 1
        daemon.domain.fetch(told(newer(daemon, 50), 50, HONEST))
        await eventually_async(lambda: daemon.domain.members.version == 50, "the honest member's list is taken")
        never.cancel()
        await settled(daemon)

    asyncio.run(main())


def test_one_child_at_a_time(tmp_path: Path) -> None:
    async def main() -> int:
        daemon, most, running = daemon_in(str(tmp_path)), 0, 0

        async def child(*words: str, stdin: bytes = b"") -> dict[str, object]:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return {"ok": False, "reason": "a wrong signature"}

        daemon.domain._child = child  # type: ignore[method-assign]
        for number in range(20):
            daemon.domain.fetch(told(newer(daemon, 50), 50, node_id(bytes([number]) * 32)))
        await settled(daemon)
        return most

    assert asyncio.run(main()) == 1
