"""A domain in one process: many nodes, one event heap, a virtual clock, one seed.

Owns what stands in for sockets, brokers, runners and disks; the nodes themselves are the daemon's own
`core.node.Node`, and their messages go through the real codec. A network is a `Weather`: a named object that
says what is dropped, doubled and delayed; since every copy draws its own delay, messages overtake each other.
Content is real too: outputs are named by the CID of what they stand for, so a result is right only if it was
made from the right pieces. After every step (or every n-th) the node's `check()` runs.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from ipdc_edge.apps.mapreduce.plan import MapReduce, split_size
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.messages import MessageCodec
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core import events as e
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.messages import Lost, Present
from ipdc_edge.core.node import Node, spec_of
from ipdc_edge.core.values import Attempt, Failure, JobKey, NodeRecord, Result, Vitals

MB = 1024 * 1024


@dataclass(frozen=True)
class Weather:
    """What the network does to messages: shares from 0 to 1, delays in seconds."""

    drop: float = 0.0
    double: float = 0.0
    delay: tuple[float, float] = (0.001, 0.02)


CALM = Weather()
STORM = Weather(drop=0.05, double=0.05, delay=(0.001, 1.5))


class SimNode:
    """One node of the world: its core, what it saved, its content, and what its broker retains if it is a portal."""

    def __init__(self, world: World, number: int, speed: float) -> None:
        self.world, self.number, self.speed = world, number, speed
        self.id, self.address, self.gateway = (
            node_id(hashlib.sha256(b"node %d" % number).digest()),
            f"sim:{number}",
            f"gate:{number}",
        )
        self.saved: list[e.Save] = []
        self.births = 0
        self.watching = False
        self.retained: dict[str, tuple[int, NodeRecord]] = {}
        self.content: dict[str, tuple[JobKey | None, Any]] = {}
        self.up = False
        self.start()

    def start(self) -> None:
        """Boot from what was saved last."""
        self.births += CONNECTIONS
        self.up, self.watching = True, False
        random = self.world.random
        vitals = Vitals(512 * MB, int((100 + 300 * random.random()) * MB), 4, random.random(), 0.5, self.speed, 10**9)
        record = NodeRecord(
            self.id, f"n{self.number}", "ready", self.address, self.gateway, "0", ("mapreduce",), 2, "none", vitals
        )
        self.node = Node(
            record,
            self.births // CONNECTIONS,
            Random(random.random()),
            {"mapreduce": MapReduce()},
            saved=self.saved,
            now=self.world.now,
        )
        self.wake = float("inf")
        self.handle(e.VitalsMeasured(vitals))

    def crash(self) -> None:
        """Lose all that was not saved; the brokers tell of it by the last will."""
        self.up = False
        self.content = {cid: item for cid, item in self.content.items() if item[0] is None}
        birth = self.births
        for other in self.world.nodes:
            if other is not self:
                self.world.after(0.05, self.world.deliver, other, e.OWN, self.id, birth, Lost())

    def handle(self, event: e.Event) -> None:
        """Through the one door, then carry the effects out."""
        if not self.up:
            return
        world = self.world
        effects = self.node.handle(event, world.now)
        world.observe(self, event, effects)
        if world.steps % world.check_every == 0:
            self.node.check()
        for effect in effects:
            getattr(self, "do_" + type(effect).__name__)(effect)
        due = self.node.next_wakeup(world.now)
        if due < self.wake:
            self.wake = due
            world.after(max(0.001, due - world.now), self.woken)

    def woken(self) -> None:
        self.wake = float("inf")
        self.handle(e.TimePassed())

    # -- effects

    def do_Save(self, effect: e.Save) -> None:
        self.saved.append(effect)

    def do_Send(self, effect: e.Send) -> None:
        encoded = self.world.codec.encode(effect.message, self.births)
        for cid, block in encoded.blocks:
            self.content[cid] = (None, json.loads(block))
        self.world.carry(self, effect.address, encoded.channel, encoded.payload)

    def do_PublishRecord(self, effect: e.PublishRecord) -> None:
        for portal in self.world.portals():
            self.world.after(0.01, self.world.retain, portal, self, self.births, effect.record)

    def do_WatchRecords(self, effect: e.WatchRecords) -> None:
        self.watching = effect.wanted
        if effect.wanted:
            portals = self.world.portals()
            for portal in portals:
                for birth, record in list(portal.retained.values()):
                    self.world.after(0.01, self.world.deliver, self, portal.address, record.id, birth, Present(record))
                outstanding = portals[-1] is not portal
                self.world.after(0.02, self.handle, e.RecordsListed(portal.address, int(outstanding)))

    def do_FetchJob(self, effect: e.FetchJob) -> None:
        body = self.world.fetch(effect.gateway, effect.cid)
        if body is None:
            self.later(0.1, e.JobFetchFailed(effect.key, "not there"))
        else:
            self.later(0.02, e.JobFetched(effect.key, spec_of(effect.cid, body)))

    def do_StartTask(self, effect: e.StartTask) -> None:
        params: Any = effect.params
        if "/" in params:
            params = self.world.fetch(self.world.by_id[effect.key.master].gateway, params["/"])
        seconds = (0.2 + self.world.random.random()) / self.speed
        if params is None:
            self.later(seconds, e.TaskFailed(effect.key, effect.attempt, Failure("node", "no params")))
        else:
            self.later(seconds / 2, e.TaskProgressed(effect.key, effect.attempt, 1000))
            self.world.after(seconds, self.work, effect.key, effect.attempt, params)

    def work(self, key: JobKey, attempt: Attempt, params: Any) -> None:
        """Make the output that stands for the work: a map's is its split, a reduce's is the list of all splits."""
        if not self.up:
            return
        if params["stage"] == "map":
            split = params["inputs"][0]["range"]
            output: Any = [key.job, split["start"], split["end"]]
        else:
            output = [key.job, params["index"]]
            for item in params["inputs"]:
                run = item["run"]
                content = self.world.fetch(params["gateways"].get(run["node"], ""), run["manifest"])
                if content is None:
                    return self.handle(e.TaskFailed(key, attempt, Failure("fetch", "run is gone", run["manifest"])))
                output.append(content)
        if self.world.fails(self):
            return self.handle(e.TaskFailed(key, attempt, Failure("runner", "died")))
        cid = raw_cid(json.dumps(output).encode())
        self.content[cid] = (key, output)
        self.handle(e.TaskFinished(key, attempt, Result(self.id, cid, 1000, {})))

    def do_StopTask(self, effect: e.StopTask) -> None:
        """The work under way ends by itself; the core must ignore what comes of it."""

    def do_FreeJob(self, effect: e.FreeJob) -> None:
        self.content = {cid: item for cid, item in self.content.items() if item[0] != effect.key}

    def do_FetchPart(self, effect: e.FetchPart) -> None:
        content = self.world.fetch(effect.gateway, effect.cid)
        if content is None:
            self.later(0.1, e.PartFetchFailed(effect.job, effect.task, effect.cid, "gone"))
        else:
            self.world.parts.setdefault(effect.job, {})[effect.index] = content
            self.later(0.05, e.PartFetched(effect.job, effect.task, effect.cid))

    def do_PublishResult(self, effect: e.PublishResult) -> None:
        self.later(0.05, e.ResultPublished(effect.job))

    def do_DiscardResult(self, effect: e.DiscardResult) -> None:
        self.world.parts.pop(effect.job, None)

    def do_KeepLog(self, effect: e.KeepLog) -> None: ...
    def do_ReleaseJob(self, effect: e.ReleaseJob) -> None: ...
    def do_Note(self, effect: e.Note) -> None: ...

    def later(self, seconds: float, event: e.Event) -> None:
        births = self.births
        self.world.after(seconds, lambda: self.handle(event) if self.births == births else None)


class World:
    """All nodes, the heap of what is to happen, and the trace of what has."""

    def __init__(
        self,
        nodes: int,
        seed: int,
        weather: Weather = CALM,
        failing: float = 0.0,
        check_every: int = 1,
    ) -> None:
        self.check_every = check_every
        self.random, self.weather, self.failing = Random(seed), weather, failing
        self.now, self.sequence, self.steps = 0.0, 0, 0
        self.heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.codec = MessageCodec(MapReduce.commands, MapReduce.reports)
        self.trace = hashlib.sha256()
        self.parts: dict[str, dict[int, Any]] = {}
        self.ended: dict[str, Any] = {}
        self.nodes: list[SimNode] = []
        for number in range(nodes):
            self.nodes.append(SimNode(self, number, 0.25 + self.random.random()))
        self.by_id = {node.id: node for node in self.nodes}
        self.by_gateway = {node.gateway: node for node in self.nodes}
        self.by_address = {node.address: node for node in self.nodes}

    def portals(self) -> list[SimNode]:
        return self.nodes[:3]

    def after(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.now + seconds, self.sequence, call, arguments))

    def observe(self, node: SimNode, event: e.Event, effects: list[e.Effect]) -> None:
        """One line of the trace for each event: when, where, what, and what came of it."""
        self.steps += 1
        self.trace.update(f"{self.now:.9f} {node.number} {event!r} -> {effects!r}\n".encode())
        for effect in effects:
            if isinstance(effect, e.Save) and effect.kind == "ended":
                self.ended[effect.key] = effect.value

    def carry(self, sender: SimNode, address: str, channel: str, payload: bytes) -> None:
        """One message through the weather."""
        receiver, weather = self.by_address[address], self.weather
        copies = 0 if self.random.random() < weather.drop else 1 + (self.random.random() < weather.double)
        for _ in range(copies):
            low, high = weather.delay
            birth, message = self.codec.decode(channel, payload)
            self.after(
                low + (high - low) * self.random.random(), self.deliver, receiver, e.OWN, sender.id, birth, message
            )

    def deliver(self, receiver: SimNode, broker: str, sender: str, birth: int, message: Any) -> None:
        receiver.handle(e.MessageReceived(broker, sender, birth, message))

    def retain(self, portal: SimNode, sender: SimNode, birth: int, record: NodeRecord) -> None:
        portal.retained[sender.id] = (birth, record)
        for node in self.nodes:
            if node.watching and node.up:
                self.deliver(node, portal.address, sender.id, birth, Present(record))

    def fetch(self, gateway: str, cid: str) -> Any:
        """Content of a node's gateway, None when the node is down or does not hold it."""
        node = self.by_gateway.get(gateway)
        return node.content[cid][1] if node is not None and node.up and cid in node.content else None

    def fails(self, node: SimNode) -> bool:
        return self.random.random() < self.failing

    def submit(self, master: SimNode, splits: int, workers: int) -> None:
        """A job over so many splits, on this node."""
        size = splits * 16 * MB
        body = {
            "version": 1,
            "app": "mapreduce",
            "workers": workers,
            "memory": 24 * MB,
            "arguments": {},
            "code": {"Map.py": {"cid": raw_cid(b"code"), "size": 4}},
            "options": {"map": "Map.py", "reduce": "Map.py"},
            "inputs": [{"name": "text", "cid": raw_cid(b"%d" % size), "size": size}],
        }
        cid = raw_cid(json.dumps(body).encode())
        master.content[cid] = (None, body)
        master.handle(e.JobSubmitted(f"20260101-{int(self.now):06d}", replace(spec_of(cid, body))))

    def run(self, until: Callable[[], bool], most_steps: int = 10_000_000) -> None:
        """Let time pass until the condition holds; an AssertionError when it does not within so many events."""
        while not until():
            if not self.heap or self.steps > most_steps:
                raise AssertionError(f"nothing more happens at {self.now:.1f} s after {self.steps} events")
            self.now, _, call, arguments = heapq.heappop(self.heap)
            call(*arguments)

    def holding(self) -> list[str]:
        """Nodes that still hold something of a job as workers."""
        return [f"n{node.number}: {key.job}" for node in self.nodes if node.up for key in node.node.workers]


def expected(job: str, splits: int, workers: int, index: int) -> Any:
    """What part `index` must contain: every split once, in order."""
    size = splits * 16 * MB
    step = split_size(size, workers)
    return [job, index, *([job, start, min(start + step, size)] for start in range(0, size, step))]
