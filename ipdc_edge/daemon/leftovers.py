"""What is left over in the domain: this node's answer to `ipdc-edge doctor --domain`, and its question to the others.

Owns what counts as needed (it is some living job's, a member's or the user's), and the form of the answer. Loaded when
somebody asks, never by an idle daemon. Removes nothing. A node looks twice before it says that something is left over,
for much is seen while it is made or removed. Members tell each other counts and no names; which jobs a node works for
they tell by digests, so that only who has such a job recognises it. What they say is parsed with limits.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..core.master import FINAL
from ..core.values import JobKey, Member
from ..drivers import leftovers
from ..drivers.block_rows import SUBMITTED, outlives, under_way
from ..drivers.broker_client import Unkicked
from ..drivers.broker_files import RETAINED
from ..drivers.gateway import LEFTOVERS
from ..drivers.leftovers import Leftover
from ..drivers.provider import Provider, ProviderFault, ProviderPool
from ..drivers.retained import retained
from .domain import MEMBERS

if TYPE_CHECKING:
    from .daemon import Daemon

KINDS = ("blocks", "files", "parts", "scratch", "processes", "retained")
AGAIN = 2.0  # seconds between two looks: ends of jobs and tasks are over then
PAUSE = 1.0  # seconds from one answer to the next looking, however many ask
PATIENCE = 20.0  # seconds that a node has to answer; it looks twice
MOST_NODES, AT_ONCE = 1024, 8  # members that are asked, and at the same time
MOST_ANSWER = 64 << 10  # bytes
MOST_COUNT = 1 << 50  # that is believed
MOST_JOBS = 1000  # whose digests a node tells
MOST_NAMES, MOST_NAME = 20, 200  # leftovers of this node that are named, and characters of each
DIGEST = re.compile(r"[0-9a-f]{16}")

Answer = dict[str, Any]


class Leftovers:
    """What is left over on this node. All who ask while it is being looked at share the next looking."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._looking: asyncio.Task[Answer] | None = None
        self._next: asyncio.Task[Answer] | None = None  # begins when that has ended, and a while has passed

    async def page(self) -> str:
        """For other members: counts and digests."""
        answer = dict(await self.answer())
        del answer["names"]
        answer["unseen"] = dict.fromkeys(answer["unseen"], "")  # why, names this node's files
        return json.dumps(answer, separators=(",", ":"))

    async def answer(self) -> Answer:
        """{"found": {kind: [count, bytes]}, "unseen": {kind: why}, "held": digests of jobs that this node works for,
        "own": of its own, "names": {kind: [...]}}."""
        if self._next is None:
            self._next = self.daemon.background.start(self._in_turn())
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> Answer:
        if self._looking is not None:
            await asyncio.wait([self._looking])
            await asyncio.sleep(PAUSE)
        self._looking, self._next = self._next, None
        return await self._answer()

    async def _answer(self) -> Answer:
        found, unseen = await self._look()
        if found:
            await asyncio.sleep(AGAIN)
            again, unseen = await self._look()
            before = {(one.kind, one.name) for one in found}
            found = sorted(one for one in again if (one.kind, one.name) in before)
        node = self.daemon.node
        sums = {kind: [one.bytes for one in found if one.kind == kind] for kind in KINDS}
        names = {kind: [one.name[:MOST_NAME] for one in found if one.kind == kind][:MOST_NAMES] for kind in KINDS}
        return {
            "found": {kind: [len(sizes), sum(sizes)] for kind, sizes in sums.items() if sizes}, "unseen": unseen,
            "held": [_digest(key.job, key.master) for key in node.workers][:MOST_JOBS],
            "own": [_digest(job, self.daemon.id) for job in self._own()][:MOST_JOBS],
            "names": {kind: listed for kind, listed in names.items() if listed},
        }

    def _own(self) -> list[str]:
        return [job for job, master in self.daemon.node.masters.items() if master.state not in FINAL]

    async def _look(self) -> tuple[list[Leftover], dict[str, str]]:
        """One look, and what could not be looked at."""
        daemon, home, own = self.daemon, self.daemon.home, frozenset(self._own())
        workers = {**daemon.node.workers, **daemon.tasks.fetching}

        def needed(owner: str) -> bool:
            job, _, master = owner.partition(".")
            if owner == MEMBERS or owner.startswith(SUBMITTED) or outlives(owner) or under_way(owner):
                return True
            return JobKey(master, job) in workers or job in own and master in ("", daemon.id)

        looks: list[tuple[tuple[str, ...], Any]] = [
            (("blocks", "files"), lambda: leftovers.blocks(daemon.store, needed)),
            (("parts",), lambda: leftovers.parts(home.jobs, own.__contains__)),
            (("scratch",), lambda: leftovers.scratch(home.scratch)),
            (("processes",), leftovers.units if daemon.sandbox.kind.startswith("systemd")
             else lambda: leftovers.processes(home.scratch)),
            (("retained",), self._retained),
        ]
        found: list[Leftover] = []
        unseen: dict[str, str] = {}
        for kinds, look in looks:
            try:
                found += await asyncio.to_thread(lambda look=look: list(look()))
            except (OSError, Unkicked) as error:
                unseen |= dict.fromkeys(kinds, str(error)[:MOST_NAME])
        return found, unseen

    def _retained(self) -> Iterable[Leftover]:
        """What the own broker retains that is no record, nor last will, of a member at a portal."""
        daemon, members = self.daemon, self.daemon.domain.members
        top = f"ipdc/1/{members.domain}"
        here = {member.id for member in members.members} if daemon.id in members.portals else set()
        needed = {f"{top}/{node}/{channel}" for node in here for channel in RETAINED}
        for text in retained(daemon.settings.local_port, daemon.credentials(), top):
            if text not in needed:
                yield Leftover("retained", text)


def _digest(job: str, master: str) -> str:
    return hashlib.sha256(f"{job}.{master}".encode()).hexdigest()[:16]


async def domain(daemon: Daemon) -> Answer:
    """{"nodes": [{"id", "name", "self", "why": why it was not checked or "", "found", "unseen", "names", "forgotten":
    how many jobs it works for that their masters do not have}]}, of every member."""
    members = sorted(daemon.domain.members.members, key=lambda member: (member.id != daemon.id, member.name))
    told = await _ask(daemon, members[:MOST_NODES])
    forgotten = _forgotten(told)
    if any(forgotten.values()):
        await asyncio.sleep(AGAIN)  # an end that was under way is told by then
        told = await _ask(daemon, members[:MOST_NODES])
        again = _forgotten(told)
        forgotten = {node: digests & again.get(node, set()) for node, digests in forgotten.items()}
    nodes = []
    for member in members:
        answer = told.get(member.id, "there are too many members to ask all")
        known = answer if isinstance(answer, dict) else {"found": {}, "unseen": {}}
        nodes.append({"id": member.id, "name": member.name, "self": member.id == daemon.id,
                      "why": answer if isinstance(answer, str) else "", "found": known["found"],
                      "unseen": known["unseen"], "names": known.get("names", {}),
                      "forgotten": len(forgotten.get(member.id, ()))})
    return {"nodes": nodes}


def _forgotten(told: dict[str, Answer | str]) -> dict[str, set[str]]:
    """Which jobs a node works for whose master, whoever it is, does not have them. Nothing is known of that unless
    everybody has answered."""
    answers = {node: answer for node, answer in told.items() if isinstance(answer, dict)}
    if len(answers) < len(told) or any(len(answer["own"]) >= MOST_JOBS for answer in answers.values()):
        return {}
    own = {digest for answer in answers.values() for digest in answer["own"]}
    return {node: set(answer["held"]) - own for node, answer in answers.items()}


async def _ask(daemon: Daemon, members: list[Member]) -> dict[str, Answer | str]:
    """What each says, or why it does not."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(member: Member) -> Answer | str:
        if member.id == daemon.id:
            return await daemon.leftovers().answer()
        async with places:
            return await _ask_one(daemon, member)

    answers = await asyncio.gather(*map(one, members))
    return {member.id: answer for member, answer in zip(members, answers, strict=True)}


async def _ask_one(daemon: Daemon, member: Member) -> Answer | str:
    address = daemon.gateway_of(member.id)
    if not address:
        return "nobody knows where it is"
    pool = ProviderPool(Provider(member.id, address), daemon.mqtt.context, PATIENCE)
    try:
        async with asyncio.timeout(PATIENCE):
            return parsed(await pool.page(LEFTOVERS, MOST_ANSWER))
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except ProviderFault as error:
        return f"{error}: is its ipdc-edge older?" if " 404 " in f"{error} " else str(error)
    except (ValueError, RecursionError):
        return "it gave an answer that is none"


def parsed(text: bytes) -> Answer:
    """A member's answer; what it says too much is left out. ValueError, RecursionError."""
    answer = json.loads(text)
    if not isinstance(answer, dict):
        raise ValueError("no object")
    found, unseen = answer.get("found"), answer.get("unseen")
    if not isinstance(found, dict) or not isinstance(unseen, dict):
        raise ValueError("no counts")
    counts = {kind: _counts(found[kind]) for kind in KINDS if kind in found}
    return {"found": counts, "unseen": {kind: "" for kind in KINDS if kind in unseen},
            "held": _digests(answer.get("held")), "own": _digests(answer.get("own"))}


def _counts(value: object) -> list[int]:
    if not isinstance(value, list) or len(value) != 2 or not all(
            type(number) is int and 0 <= number <= MOST_COUNT for number in value):
        raise ValueError("no count")
    return value


def _digests(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MOST_JOBS or not all(
            isinstance(digest, str) and DIGEST.fullmatch(digest) for digest in value):
        raise ValueError("no digests")
    return value
