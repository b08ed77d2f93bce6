"""Which nodes a job is offered to: a score for each node from its record, with the reasons in words; and how much
memory a job gets that asks for none.

Owns the selection and nothing else; pure functions of records and the job. The ancestor chose by resource
statistics and broke ties by hash distance; so do we.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .values import JobSpec, Member, NodeRecord

MB = 1024 * 1024
HOT = 80.0  # degrees; boards throttle themselves from here on
LEAST_IDLE = 0.05  # a busy core still gets some work done
LEAST_RUNNER, MOST_RUNNER = 24 * MB, 128 * MB  # of a job that asks for none; with the most few maps spill


@dataclass(frozen=True, slots=True)
class Verdict:
    """What placement thinks of one node: a score (higher is better, 0 when unsuitable) and why."""

    node: str
    name: str
    score: float
    suitable: bool
    reasons: tuple[str, ...]


def hash_distance(node: str, job: str) -> int:
    """Distance of a node from a job on the circle of SHA-256, as IPDC breaks ties: the nearer one is taken."""
    a = int.from_bytes(hashlib.sha256(node.encode()).digest(), "big")
    b = int.from_bytes(hashlib.sha256(job.encode()).digest(), "big")
    return a ^ b


def incapable(record: NodeRecord, app: str) -> str:
    """Why a node does not offer a kind of job, as far as it says; "" where it does."""
    if app in record.capabilities:
        return ""
    reason = next((word for word in record.unable if word.startswith(f"{app}: ")), "")
    if reason:
        return f"cannot do {reason}"
    return f"cannot do {app} (can do {', '.join(w for w in record.capabilities if '=' not in w) or 'nothing'})"


def judge(
    record: NodeRecord, spec: JobSpec, holder: str, engaged: int = 0, unfit: Iterable[str] = ()
) -> Verdict:
    """Score one node for a job; `holder` is the node that holds the job's input, `engaged` how many tasks of the
    master's other jobs the node has: its vitals tell of those only later; `unfit` is what the job's architecture has
    against it."""
    vitals = record.vitals
    against = []
    if spec.nodes and record.id not in spec.nodes:
        against.append("is not among the nodes that were chosen for the job")
    if record.state != "ready":
        against.append(f"is {record.state}")
    if cannot := incapable(record, spec.app):
        against.append(cannot)
    against += unfit
    if vitals.memory_available < spec.memory:
        against.append(f"memory: {vitals.memory_available // MB} MB available, the job needs {spec.memory // MB} MB")
    if against:
        return Verdict(record.id, record.name, 0.0, False, tuple(against))
    idle = max(LEAST_IDLE, vitals.cpu_idle) * vitals.cpu_count
    score = idle * vitals.speed
    reasons = [f"{idle:.1f} idle cores at speed {vitals.speed:.2f}", f"{vitals.memory_available // MB} MB available"]
    if vitals.throttled or (vitals.temperature or 0.0) >= HOT:
        score /= 2
        reasons.append("throttled" if vitals.throttled else f"{vitals.temperature:.0f} degrees: halved")
    roomy = min(2.0, vitals.memory_available / max(1, 2 * spec.memory))
    score *= 0.5 + roomy / 4  # from 0.75 at just enough memory to 1.0 at four times as much
    if engaged:
        score /= 1 + engaged / max(1, record.slots)
        reasons.append(f"has {engaged} {'task' if engaged == 1 else 'tasks'} of other jobs of this node")
    if record.id == holder:
        score *= 1.1
        reasons.append("holds the input")
    elif share := spec.held.get(record.id):
        score *= 1 + share / 200  # up to 1.5: what it holds need not be moved
        reasons.append(f"holds {share} % of the input")
    return Verdict(record.id, record.name, round(score, 2), True, tuple(reasons))


def usual_memory(records: Iterable[NodeRecord], members: Iterable[Member]) -> int:
    """Bytes for a runner of a job that asks for none: what the node with the least of it spares. A node's runners take
    an eighth of its memory together, and half at most of what is available. The job has the same everywhere: no node
    has to refuse it, and a task that takes too much does so on every one. Members that are not there may come while the
    job runs: they count by the memory that they joined with, as for one runner."""
    shares = [min(record.vitals.memory_total // 8, record.vitals.memory_available // 2) // max(1, record.slots)
              for record in records]
    shares += [member.memory // 8 for member in members]
    return max(LEAST_RUNNER, min([MOST_RUNNER, *shares]) // MB * MB)


def rank(
    records: Iterable[NodeRecord], spec: JobSpec, job: str, holder: str, engaged: Mapping[str, int] | None = None,
    unfit: Callable[[JobSpec, NodeRecord], Iterable[str]] | None = None,
) -> list[Verdict]:
    """All nodes, the best first, unsuitable ones last; equal scores by hash distance of node and job. unfit: the job's
    `Architecture.unfit`."""
    tasks = engaged or {}
    verdicts = [judge(record, spec, holder, tasks.get(record.id, 0), unfit(spec, record) if unfit else ())
                for record in records]
    return sorted(verdicts, key=lambda v: (not v.suitable, -v.score, hash_distance(v.node, job)))
