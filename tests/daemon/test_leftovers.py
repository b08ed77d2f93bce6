"""What counts as left over, and what members may say of that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge import settings as conf
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core.values import JobKey
from ipdc_edge.daemon import leftovers
from ipdc_edge.daemon.daemon import Daemon
from ipdc_edge.drivers import identity
from ipdc_edge.home import Home
from tests.drivers.nodes import make_creator

JOB = "20260101-000000-abcd"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_creator(tmp_path)


def answered(home: Home, prepare: Callable[[Daemon], None], ask: Callable[[Daemon], Any]) -> Any:
    """What a daemon without a broker says."""
    async def main() -> Any:
        daemon = Daemon(home, conf.load(home.conf), identity.load(home))
        try:
            prepare(daemon)
            return json.loads(json.dumps(await ask(daemon)))
        finally:
            daemon.store.close()
            daemon.ledger.close()

    return asyncio.run(main())


def keep(*owners: str) -> Callable[[Daemon], None]:
    def prepare(daemon: Daemon) -> None:
        for number, owner in enumerate(owners):
            data = bytes([number]) * 1000
            daemon.store.put(raw_cid(data), data, owner)
    return prepare


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "AGAIN", 0.0)
    monkeypatch.setattr(leftovers, "PAUSE", 0.0)


def test_blocks_of_jobs_that_never_were(home: Home) -> None:
    own = identity.own_id(home)
    owners = [JOB, f"{JOB}.{own}", f"{JOB}.QmOther"]
    needed = ["user", "pin.bafk", "unpinned.bafk", "adding.0", "pinning.0", "members", "submit-0123456789abcdef"]
    answer = answered(home, keep(*needed, *owners),
                      lambda daemon: daemon.leftovers().answer())
    assert answer["found"] == {"blocks": [3, 3000]} and answer["names"] == {"blocks": sorted(owners)}
    assert list(answer["unseen"]) == ["retained"], "no broker runs"


def test_blocks_of_jobs_that_run_are_needed(home: Home) -> None:
    own = identity.own_id(home)

    class Running:
        state = "running"

    class Ended:
        state = "succeeded"

    def prepare(daemon: Daemon) -> None:
        keep(JOB, f"{JOB}.{own}", "other.QmOther", "ended", "gone.QmOther")(daemon)
        daemon.node.masters = {JOB: Running(), "ended": Ended()}  # type: ignore[dict-item]
        daemon.node.workers = {JobKey("QmOther", "other"): object()}  # type: ignore[dict-item]

    answer = answered(home, prepare, lambda daemon: daemon.leftovers().answer())
    assert answer["names"] == {"blocks": ["ended", "gone.QmOther"]}
    assert len(answer["held"]) == len(answer["own"]) == 1


def test_what_is_gone_at_the_second_look_was_not_left_over(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(daemon: Daemon) -> Any:
        looking = asyncio.ensure_future(daemon.leftovers().answer())
        real = leftovers.Leftovers._look
        looks: list[None] = []

        async def look(self: leftovers.Leftovers) -> Any:
            found = await real(self)
            if not looks:
                daemon.store.release(JOB)
            looks.append(None)
            return found

        monkeypatch.setattr(leftovers.Leftovers, "_look", look)
        return looking

    assert answered(home, keep(JOB), ask)["found"] == {}


def test_members_are_told_counts_and_no_names(home: Home) -> None:
    page = json.loads(answered(home, keep(JOB), lambda daemon: daemon.leftovers().page()))
    assert page["found"] == {"blocks": [1, 1000]} and "names" not in page and page["unseen"] == {"retained": ""}
    assert JOB not in json.dumps(page)
    assert leftovers.parsed(json.dumps(page).encode()) == page


def test_who_asks_while_it_is_looked_shares_the_next_look(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = leftovers.Leftovers._answer

    async def counting(self: leftovers.Leftovers) -> Any:
        looks.append(1)
        return await real(self)

    monkeypatch.setattr(leftovers.Leftovers, "_answer", counting)

    async def ask(daemon: Daemon) -> list[Any]:
        asked = [asyncio.create_task(daemon.leftovers().answer())]
        while not looks:
            await asyncio.sleep(0)
        asked += [asyncio.create_task(daemon.leftovers().answer()) for _ in range(20)]
        return await asyncio.gather(*asked)

    assert len(answered(home, keep(), ask)) == 21 and len(looks) == 2


GOOD: dict[str, Any] = {"found": {"blocks": [1, 2]}, "unseen": {}, "held": ["0" * 16], "own": []}


def test_what_a_member_says_too_much_is_left_out() -> None:
    found, unseen = {**GOOD["found"], "gold": [1, 1]}, {"retained": "\x1b[2J", "x": "y"}
    more = {**GOOD, "found": found, "unseen": unseen, "names": {}}
    assert leftovers.parsed(json.dumps(more).encode()) == {**GOOD, "unseen": {"retained": ""}}


@pytest.mark.parametrize("answer", [
    b"", b"[]", b"nonsense", b"[" * 100_000, b"\xff", *(json.dumps({**GOOD, **wrong}).encode() for wrong in (
        {"found": []}, {"found": {"blocks": 1}}, {"found": {"blocks": [1]}}, {"found": {"blocks": [-1, 0]}},
        {"found": {"blocks": [1, 1 << 60]}}, {"found": {"blocks": [True, 0]}}, {"found": {"blocks": ["1", 0]}},
        {"unseen": []}, {"held": {}}, {"held": ["x"]}, {"own": [1]}, {"own": ["0" * 16] * 2000}, {"held": None}))])
def test_an_answer_that_is_none(answer: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        leftovers.parsed(answer)


def said(own: list[str], held: list[str]) -> dict[str, Any]:
    return {**GOOD, "own": own, "held": held}


def test_a_job_that_is_held_without_a_master() -> None:
    everybody = {"a": said(["1"], []), "b": said([], ["1", "2"])}
    assert leftovers._forgotten(everybody) == {"a": set(), "b": {"2"}}
    assert leftovers._forgotten({**everybody, "c": "no answer"}) == {}, "it may be that node's job"
