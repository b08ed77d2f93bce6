"""Which node gets which role of a cluster, and why another gets none.

Owns the choice. Pure: from the nodes' records, the same plan every time. A role wants a TensorFlow, of one version for
the whole cluster (TensorFlow promises nothing between versions), memory, and a sandbox with a network of its own:
TensorFlow listens on every address and asks nobody who he is. Among those that have it, core/placement.py's score
decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ipdc_edge.apps.tensorflow.cluster import CHIEF, FIRST_PORT, MEMORY, PS, Cluster, Place, Role
from ipdc_edge.core.placement import MB, Verdict, hash_distance, judge
from ipdc_edge.core.values import JobSpec, NodeRecord
from ipdc_edge.errors import NotPlaced

CAPABILITY, ROLES = "tensorflow=", "tensorflow"  # that there is one, and that roles run with it
WITH_NETWORK = ("systemd", "bubblewrap")  # sandboxes that give a role a network of its own
MOST_PERCENT = 70  # of a node's memory for its roles; systemd's ipdc-role.slice ends them at 75
OTHER = "other"  # kinds of role, the order in which they choose: the chief, those that compute, those that keep
ORDER = {CHIEF: 0, OTHER: 1, PS: 2}


class TooFewNodes(NotPlaced):
    """The cluster takes {wanted}, and {found}:{reasons}"""


class Planned(NamedTuple):
    """A plan, and what was thought of every node: those that take part and why, and the others and why not."""

    cluster: Cluster
    verdicts: tuple[Verdict, ...]


def plan(roles: Sequence[Role], records: Iterable[NodeRecord], holder: str, memory: int = MEMORY, share: bool = False,
         version: str = "", only: Sequence[str] = ()) -> Planned:
    """Gives each role a node; TooFewNodes where there are too few, with the reasons of all.

    holder: the node that asks, which the chief prefers; memory: bytes of each role; share: whether a node may have
    several roles; version: of TensorFlow, "" for the one with which most can be had; only: ids of nodes, all where
    there are none.
    """
    known = sorted(records, key=lambda record: (record.name, record.id))
    for wanted in [version] if version else _versions(known):
        verdicts = tuple(verdict(record, holder, memory, wanted, only) for record in known)
        chosen = _assign(roles, known, verdicts, holder, memory, share)
        if chosen is not None:
            names = {record.id: record.name for record in known}
            ports = {role: FIRST_PORT + number for number, role in enumerate(roles)}
            places = tuple(Place(role, chosen[role], names[chosen[role]], ports[role]) for role in roles)
            return Planned(Cluster(places, wanted, memory), verdicts)
    best = version or next(iter(_versions(known)), "")
    verdicts = tuple(verdict(record, holder, memory, best, only) for record in known)
    raise _too_few(roles, known, verdicts, memory, share, best)


def verdict(record: NodeRecord, holder: str, memory: int, version: str, only: Sequence[str] = ()) -> Verdict:
    """What speaks for and against a node as the place of one role."""
    against = []
    if only and record.id not in only:
        against.append("is not among the nodes that were chosen")
    if record.state != "ready":
        against.append(f"is {record.state}")
    has = version_of(record)
    against += _lacks(record, version)
    if has and record.sandbox.partition(" ")[0] in WITH_NETWORK and ROLES not in record.capabilities:
        against.append("it runs no roles: its units are of an older version, or ipdc-runner-role.socket is stopped")
    if record.sandbox.partition(" ")[0] not in WITH_NETWORK:
        against.append(f"its sandbox ({record.sandbox or 'unknown'}) gives a role no network of its own, so anybody "
                       "could reach it; bubblewrap does: sudo apt install bubblewrap, and restart the node")
    if room(record) < memory:
        against.append(f"memory: {room(record) // MB} MB available, a role takes {memory // MB} MB")
    if against:
        return Verdict(record.id, record.name, 0.0, False, tuple(against))
    spec = JobSpec("", f"{CAPABILITY}{version}", 1, memory, {})
    found = judge(record, spec, "")
    reasons = (f"TensorFlow {version}", *found.reasons)
    return Verdict(record.id, record.name, found.score, found.suitable, reasons)


def room(record: NodeRecord) -> int:
    """Bytes for all its roles: what is available, and no more than they may have together."""
    vitals = record.vitals
    most = vitals.memory_total * MOST_PERCENT // 100 or vitals.memory_available
    return min(vitals.memory_available, most)


def version_of(record: NodeRecord) -> str:
    """Of its TensorFlow; "" where it has none."""
    return next((word.removeprefix(CAPABILITY) for word in record.capabilities if word.startswith(CAPABILITY)), "")


def _lacks(record: NodeRecord, version: str) -> list[str]:
    """What it lacks of a TensorFlow."""
    has = version_of(record)
    if has:
        return [] if has == version else [f"has TensorFlow {has}, and the cluster takes {version or 'another'}"]
    bits = record.architecture
    if bits and (" on " in bits or bits.startswith(("armv", "i386", "i686"))):
        return [f"has no TensorFlow: there is none for systems of 32 bits ({bits})"]
    why = next((word.partition(": ")[2] for word in record.unable if word.startswith("tensorflow: ")), "")
    return [f"has no TensorFlow{': ' + why if why else ''}"]


def _versions(records: Sequence[NodeRecord]) -> list[str]:
    """The versions that nodes have, that of the most nodes first; of two the newer."""
    counted = Counter(filter(None, map(version_of, records)))
    return sorted(counted, key=lambda version: (counted[version], _numbers(version)), reverse=True)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in version.replace("rc", ".-").split("."))


def _assign(roles: Sequence[Role], records: Sequence[NodeRecord], verdicts: Sequence[Verdict], holder: str, memory: int,
            share: bool) -> dict[Role, str] | None:
    """Role -> node. None where they do not fit."""
    able = sorted((verdict for verdict in verdicts if verdict.suitable),
                  key=lambda verdict: (-verdict.score, hash_distance(verdict.node, str(len(roles)))))
    left = {record.id: room(record) for record in records}
    had: Counter[str] = Counter()
    chosen: dict[Role, str] = {}
    for role in sorted(roles, key=lambda role: ORDER.get(role.job, ORDER[OTHER])):
        free = [v for v in able if left[v.node] >= memory and (share or not had[v.node])]
        if not free:
            return None
        # Where roles share, the next goes to who has the most of itself left.
        best = min(free, key=lambda v: (had[v.node], role.job != CHIEF or v.node != holder, -v.score))
        chosen[role] = best.node
        left[best.node] -= memory
        had[best.node] += 1
    return chosen


def _too_few(roles: Sequence[Role], records: Sequence[NodeRecord], verdicts: Sequence[Verdict], memory: int,
             share: bool, version: str) -> TooFewNodes:
    able = [verdict for verdict in verdicts if verdict.suitable]
    lines = [f"\n  {verdict.name}: {'; '.join(verdict.reasons)}" for verdict in verdicts if not verdict.suitable]
    if share:
        available = {record.id: room(record) for record in records}
        lines += [f"\n  {v.name}: has room for {available[v.node] // memory} roles of {memory // MB} MB" for v in able]
        wanted = f"room for {_many(len(roles), 'role')}"
    else:
        lines += [f"\n  {verdict.name}: can take part" for verdict in able]
        wanted = _many(len(roles), "node")
        if able:
            lines.append("\nWith --share a node may have several roles")
    found = f"{len(able)} of {len(verdicts)} can take part" + (f" with TensorFlow {version}" if version else "")
    return TooFewNodes(wanted=wanted, found=found, reasons="".join(lines))


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
