"""A domain in one process: many nodes, one event heap, a virtual clock, one seed.

Owns time, chance, the trace of what happened, and what is promised to people: a job that was accepted ends, its result
is exactly right, and then nobody holds anything of it. The nodes are the daemon's own `core.node.Node` (`node.py` has
what stands in for sockets, runners and disks), and their messages go through the real codec and a `Network` that may
lose, double, delay and cut. Content is real too: outputs are named by the CID of what they stand for, so a result is
right only if it was made from the right pieces. After every step (or every n-th) the node's `check()` runs.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ipdc_edge.apps.mapreduce.plan import MapReduce, split_size
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core.architecture import spec_of
from ipdc_edge.core.machine import require
from ipdc_edge.core.messages import Command, Received, Report
from ipdc_edge.core.values import Member, MemberList
from tests.simulation.connections import NO_ROOM
from tests.simulation.network import CALM, STORM, WORSE, Network, Weather
from tests.simulation.node import MB, SimNode

__all__ = ["CALM", "STORM", "WORSE", "SimNode", "Weather", "World"]
SPLIT = 16 * MB


class NotRight(AssertionError):
    """What people were promised did not come true."""


@dataclass
class Job:
    """A job that somebody submitted, by its number in the world."""

    number: int
    id: str
    master: SimNode
    splits: int
    workers: int
    accepted: bool = False  # whether its owner was told the id
    cancelled: bool = False


class World:
    """All nodes, the heap of what is to happen, and the trace of what has."""

    def __init__(
        self, nodes: int, seed: int, weather: Weather = CALM, failing: float = 0.0, check_every: int = 1,
        tracing: bool = True, slots: int = 2, unlike: bool = False, sample: float = 0.0, clocks: float = 0.0,
        work: float = 1.0, tell: Callable[[str], object] | None = None, boast: float = 0.0, keeps: bool = False,
    ) -> None:
        """`unlike`: whether two attempts at a task make outputs of different CIDs; `sample`: seconds between two looks
        at a node's vitals, 0 for one at its start; `clocks`: seconds that clocks differ by at most; `work`: seconds
        that a task takes, about; `keeps`: whether nodes keep the splits that they read, and say so of the next job over
        the same input; `boast`: how often a node says instead that it holds what it does not; `tracing`: whether the
        trace is kept, each line of which `tell` is told."""
        self.check_every, self.tracing, self.tell = check_every, tracing, tell
        self.random, self.failing, self.slots = Random(seed), failing, slots
        self.boast, self.keeps, self.moved = boast, keeps, 0  # splits that went to a node which had not read them
        self.unlike, self.sample, self.clocks, self.work = unlike, sample, clocks, work
        self.now, self.sequence, self.steps = 0.0, 0, 0
        self.heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.codec = MessageCodec(MapReduce.commands, MapReduce.reports)
        self.network = Network(self, weather)
        self.trace = hashlib.sha256()
        self.jobs: dict[str, Job] = {}
        self.parts: dict[str, dict[int, Any]] = {}
        self.ended: dict[str, Any] = {}
        self.excuses: dict[str, None] = {}  # errors that a job may fail with
        self.reports: dict[tuple[str, Any], str] = {}  # (job, attempt) -> task, of every report that a master heard
        self.issued: dict[tuple[str, Any], tuple[str, str]] = {}  # (job, attempt) -> (task, node)
        self.begun: dict[tuple[str, str], int] = {}  # (job, task) -> how often it was begun
        self.watching: list[Callable[[SimNode], None]] = []  # called after every step
        self.portal_count = min(3, nodes)
        self.ids = [sim_id(number) for number in range(nodes)]
        self.members = MemberList(
            "sim", sim_id(-1), 1,
            tuple(Member(self.ids[n], f"n{n}", 512 * MB, n < self.portal_count, f"{n:x}") for n in range(nodes)),
        )
        self.nodes: list[SimNode] = []
        self.by_id: dict[str, SimNode] = {}
        self.by_gateway: dict[str, SimNode] = {}
        self.by_address: dict[str, SimNode] = {}
        for number in range(nodes):
            node = SimNode(self, number)
            self.nodes.append(node)
            self.by_id[node.id] = self.by_gateway[node.gateway] = self.by_address[node.address] = node

    # -- time and chance

    def after(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now + seconds, self.sequence, call, arguments))

    def between(self, bounds: tuple[float, float]) -> float:
        low, high = bounds
        return low + (high - low) * self.random.random()

    def clock(self) -> float:
        """How far a node's clock is ahead."""
        return self.clocks * (2 * self.random.random() - 1) if self.clocks else 0.0

    def list_cid(self, members: MemberList) -> str:
        """Stands for the CID of a signed list: there is one of each version."""
        return raw_cid(b"list %d" % members.version)

    def fails(self, node: SimNode, effect: fx.StartTask) -> bool:
        """Whether this attempt's runner dies."""
        return self.failing > 0 and self.random.random() < self.failing

    # -- what is seen

    def observe(self, node: SimNode, event: e.Event, effects: list[fx.Effect]) -> None:
        """One line of the trace for each event: when, where, what, and what came of it."""
        self.steps += 1
        if self.tracing:
            line = f"{self.now:.9f} {node.number} {event!r} -> {effects!r}\n"
            self.trace.update(line.encode())
            if self.tell is not None:
                self.tell(line)
        if type(event) is e.MessageReceived and type(event.message) is Report:
            self.reports[event.message.job, event.message.attempt] = event.message.task
        for watch in self.watching:
            watch(node)

    def durable(self, node: SimNode, save: fx.Save) -> None:
        """A save reached a disk: from now on it is a promise."""
        if save.kind == "job" and save.key in self.jobs:
            self.jobs[save.key].accepted = True
        elif save.kind == "ended":
            self.ended[save.key] = save.value

    def promised(self, node: SimNode, to: str, message: Command | Received) -> None:
        """A master's word leaves its node: what it rests on must outlive a crash, and an attempt has one meaning."""
        job, attempt, rows = message.job, message.attempt, node.disk.rows
        if isinstance(message, Command):
            meant = self.issued.setdefault((job, attempt), (message.task, to))
            require(meant == (message.task, to), f"{attempt} of {job} is {meant} and then {message.task} at {to}")
            require(("job", job) in rows or ("ended", job) in rows, f"{job} is worked on before it is durable")
        elif (job, attempt) in self.reports:
            kept = ("task", f"{job}/{self.reports[job, attempt]}") in rows or ("ended", job) in rows
            require(kept, f"{job} {attempt} was received before it was durable")

    def began(self, node: SimNode, effect: fx.StartTask) -> None:
        """A runner began."""
        key = effect.key.job, effect.task
        self.begun[key] = self.begun.get(key, 0) + 1

    def published(self, job: str) -> None:
        """A result is in its place: it is right, now and whenever it is looked at."""
        self.assert_exact(job)

    # -- jobs

    def submit(self, master: SimNode, splits: int, workers: int, **more: Any) -> None:
        """A job over so many splits of 16 MB, on this node, as soon as it is up and takes it; `more` stands in its
        description."""
        if master.left:
            return
        if not master.up or master.disk.full:
            return self.after(1.0, lambda: self.submit(master, splits, workers, **more))
        size = splits * SPLIT
        text = raw_cid(b"%d" % size)
        body = {
            "version": 1, "app": "mapreduce", "workers": workers, "memory": 24 * MB, "arguments": {},
            "code": {"Map.py": {"cid": raw_cid(b"code"), "size": 4}},
            "options": {"steps": [{"map": "Map.py", "reduce": "Map.py"}]},
            "inputs": [{"name": "text", "cid": text, "size": size}], **more,
        }
        cid = raw_cid(json.dumps(body).encode())
        before = set(master.node.masters)
        master.handle(e.JobSubmitted(f"20260101-{int(self.now):06d}", spec_of(cid, body)))
        (job,) = set(master.node.masters) - before
        master.keep(cid, body, job)
        master.keep(text, "the input", job)
        self.jobs[job] = Job(len(self.jobs) + 1, job, master, splits, workers)

    def excuse(self, error: str) -> None:
        """A job may fail with this very error."""
        self.excuses[error] = None

    def numbered(self, number: int) -> Job | None:
        """The n-th job that was submitted."""
        return next((job for job in self.jobs.values() if job.number == number), None)

    def assert_exact(self, job: str) -> None:
        """The result has every split once, in order, in each part."""
        told, parts = self.jobs[job], self.parts.get(job, {})
        for index in range(told.workers):
            wanted = expected(job, told.splits, told.workers, index)
            if parts.get(index) != wanted:
                raise NotRight(f"{job}: part {index} is {parts.get(index)}, not {wanted}")
        if len(parts) != told.workers:
            raise NotRight(f"{job} has {len(parts)} parts, not {told.workers}")

    # -- running

    def run(self, until: Callable[[], bool], most_steps: int = 10_000_000) -> None:
        """Let time pass until the condition holds; an AssertionError when it does not within so many events."""
        while not until():
            if not self.heap or self.steps > most_steps:
                raise AssertionError(f"nothing more happens at {self.now:.1f} s after {self.steps} events")
            self.now, _, call, arguments = heapq.heappop(self.heap)
            call(*arguments)

    def run_to(self, moment: float) -> None:
        """Let time pass until then."""
        heap = self.heap
        while heap and heap[0][0] <= moment:
            self.now, _, call, arguments = heapq.heappop(heap)
            call(*arguments)
        self.now = moment

    def holding(self) -> list[str]:
        """Nodes that still hold something of a job as workers."""
        return [f"n{node.number}: {key.job}" for node in self.nodes if node.up for key in node.node.workers]

    def unsettled(self) -> list[str]:
        """What is not yet as it must be at the end: every job ended, and nobody holding what nobody needs."""
        found = [f"job {job.number} has not ended" for job in self.jobs.values() if self._owed(job)]
        for node in self.nodes:
            if node.up and not node.left:
                found += [f"n{node.number} {what}" for what in leftovers(node)]
        return found

    def _owed(self, job: Job) -> bool:
        return job.accepted and job.id not in self.ended and job.master.up and not job.master.left

    def assert_right(self) -> None:
        """Every job ended as it must."""
        for job in self.jobs.values():
            view = self.ended.get(job.id)
            if view is None or not job.accepted:
                continue
            if view["state"] == "succeeded":
                self.assert_exact(job.id)
            elif view["state"] != "cancelled" or not job.cancelled:
                if not self._excused(job, view):
                    raise NotRight(f"job {job.number} {view['state']}: {view['error']}")

    def _excused(self, job: Job, view: Any) -> bool:
        """Whether it had to fail: its scenario says so, or a disk was full and nobody else could do the work."""
        error = view["error"]
        if NO_ROOM not in error or error in self.excuses:
            return error in self.excuses
        if error.startswith((f"jobs/{job.id}: ", "its parameters")):
            return job.master.disk.was_full
        worked = [self.nodes[int(node["name"][1:])] for node in view["nodes"] if node["state"] in ("working", "aside")]
        return bool(worked) and all(node.disk.was_full for node in worked)


def leftovers(node: SimNode) -> list[str]:
    """What a node holds of jobs or of other nodes although nothing is left to be done."""
    network, found = node.world.network, []
    found += [f"works for {key.job}" for key in node.node.workers]
    found += [f"is master of {job}" for job in node.node.masters]
    found += [f"holds content of {', '.join(owners)}" for _, owners in node.content.values()]
    found += [f"runs {attempt}" for attempt in node.runners.running]
    found += [f"keeps {kind} {key}" for kind, key in node.disk.rows if kind not in ("peer", "ended")]
    found += ["has effects waiting"] if node.disk.batches else []
    members = node.members
    found += [f"retains {other}" for other in node.broker.records if members.member(other) is None]
    for other in node.broker.wills:
        source = node.world.by_id[other]
        if members.member(other) is None or (source.up and network.passes(other, node.id)):
            found.append(f"retains the loss of n{source.number}, which is there")
    return found


def sim_id(number: int) -> str:
    """The id of a node of the simulation."""
    return node_id(hashlib.sha256(b"node %d" % number).digest())


def expected(job: str, splits: int, workers: int, index: int) -> Any:
    """What part `index` must contain: every split once, in order."""
    size = splits * SPLIT
    step = split_size(size, workers)
    return [job, index, *([job, start, min(start + step, size)] for start in range(0, size, step))]
