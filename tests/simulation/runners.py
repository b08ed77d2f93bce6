"""The runners of a simulated node: what `daemon/tasks.py` does with an attempt.

Owns the attempts under way and what comes of them. What a task makes stands for the work: a map's is its split, a
reduce's is the list of all splits, taken from what the maps made, wherever that is; so a result is right only if every
split is in it once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core.values import Attempt, Failure, JobKey, Result
from tests.simulation.connections import NO_ROOM

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

FETCH_PAUSE = (2.0, 4.0)  # as the daemon's, and what it takes to find out: its node may be back by then
STEP = 5.0  # seconds between two words of an attempt's progress


class Runners:
    """Those of one run of a node's process."""

    def __init__(self, node: SimNode) -> None:
        self.node, self.world = node, node.world
        self.running: dict[tuple[JobKey, Attempt], None] = {}

    def stop(self, key: JobKey, attempt: Attempt) -> None:
        """Give an attempt up."""
        self.running.pop((key, attempt), None)

    def free(self, key: JobKey) -> None:
        """Give up all that is under way for a job."""
        for place in [place for place in self.running if place[0] == key]:
            del self.running[place]

    def start(self, effect: fx.StartTask) -> None:
        """Run an attempt."""
        self.running[effect.key, effect.attempt] = None
        self.world.began(self.node, effect)
        self._go_on(effect, (0.2 + self.world.random.random()) * self.world.work)

    def _go_on(self, effect: fx.StartTask, left: float) -> None:
        """Work on, for a while; `left` is seconds at a speed of 1."""
        pace = self.node.speed / self.node.slowed
        step = min(left, STEP * pace)
        self.node.later(step / pace, self._got_on, effect, left - step)

    def _got_on(self, effect: fx.StartTask, left: float) -> None:
        if left <= 0:
            self._work(effect)
        elif (effect.key, effect.attempt) in self.running:
            self.node.handle(e.TaskProgressed(effect.key, effect.attempt, 1000))
            self._go_on(effect, left)

    def _work(self, effect: fx.StartTask) -> None:
        """The output that stands for the work: a map's is its split, a reduce's is the list of all splits."""
        key, attempt, params = effect.key, effect.attempt, effect.params
        if (key, attempt) not in self.running:
            return
        if "/" in params:
            params = self.node.fetch(self.node.gateway_of(key.master), params["/"])
            if params is None:
                return self._missed(effect, effect.params["/"])
        output: Any = [key.job, params["index"]]
        for item in params["inputs"]:
            if "range" in item:
                split = item["range"]
                if self.node.fetch(self.node.gateway_of(key.master), split["cid"]) is None:
                    return self._missed(effect, split["cid"])
                output = [key.job, split["start"], split["end"]]
                kept, place = self.node.kept.setdefault(split["cid"], {}), (split["start"], split["end"])
                self.world.moved += place not in kept and key.master != self.node.id
                kept[place] = None
            else:
                run = item["run"]
                made = self.node.fetch(params["gateways"].get(run["node"], ""), run["manifest"])
                if made is None:
                    return self._missed(effect, run["manifest"])
                output.append(made["output"])
        del self.running[key, attempt]
        if self.world.fails(self.node, effect):
            return self.node.handle(e.TaskFailed(key, attempt, Failure("runner", "died")))
        if self.node.disk.full:
            return self.node.handle(e.TaskFailed(key, attempt, Failure("node", f"OSError: {NO_ROOM}")))
        made = {"output": output, "by": [self.node.number, attempt] if self.world.unlike else None}
        cid = raw_cid(json.dumps(made).encode())
        self.node.keep(cid, made, f"{key.job}.{key.master}")
        self.node.handle(e.TaskFinished(key, attempt, Result(self.node.id, cid, 1000, {})))

    def _missed(self, effect: fx.StartTask, cid: str) -> None:
        self.node.later(self.world.between(FETCH_PAUSE), self._fetch_failed, effect, cid)

    def _fetch_failed(self, effect: fx.StartTask, cid: str) -> None:
        if self.running.pop((effect.key, effect.attempt), 0) is None:
            failure = Failure("fetch", "it cannot be had", cid)
            self.node.handle(e.TaskFailed(effect.key, effect.attempt, failure))
