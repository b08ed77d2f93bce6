"""Scenarios as text: what happens to a master's or a worker's node, and the effects that must come of it,
line by line.

A scenario is a list of steps and, indented below each, the effects it must have, in order. Names stand for
node ids; `#2` is the second attempt. `wait 5` lets so many seconds pass, waking the node whenever it asked
for it.
"""

from __future__ import annotations

import hashlib
import json
from random import Random

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.node_id import node_id
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.node import Node, spec_of
from ipdc_edge.core.values import Attempt, Failure, JobKey, JobSpec, NodeRecord, Result, Vitals

MB = 1 << 20
VITALS = Vitals(512 * MB, 400 * MB, 4, 1.0, 0.0, 1.0, 1 << 34)
QUIET = (e.WatchRecords, e.PublishRecord, e.Note)  # not part of what a scenario tells


def ident(name: str) -> str:
    """The node id that a name stands for."""
    return node_id(hashlib.sha256(name.encode()).digest())


def record(name: str, slots: int = 1, **changed: object) -> NodeRecord:
    """A capable node's record."""
    values = {"state": "ready", "capabilities": ("mapreduce",), "vitals": VITALS, **changed}
    return NodeRecord(
        ident(name), name, mqtt=f"{name}:1", gateway=f"{name}:2", version="0", slots=slots, sandbox="none", **values
    )  # type: ignore[arg-type]


def job_spec(splits: int, workers: int, reduce: bool = True) -> JobSpec:
    """A job over `splits` blocks of input, each a split."""
    size = splits * MB
    body = {
        "version": 1,
        "app": "mapreduce",
        "workers": workers,
        "memory": 24 * MB,
        "arguments": {},
        "code": {"Map.py": {"cid": raw_cid(b"code"), "size": 4}},
        "options": {"map": "Map.py", "reduce": "Map.py" if reduce else None},
        "inputs": [{"name": "text", "cid": raw_cid(b"%d" % size), "size": size}],
    }
    return spec_of(raw_cid(json.dumps(body).encode()), body)


class Play:
    """One node on the stage; everybody else is played by the scenario's lines."""

    def __init__(self) -> None:
        self.names = {ident(name): name for name in ("me", "w1", "w2", "w3", "boss", "other")}
        self.now = 100.0
        self.node = Node(record("me"), 7, Random(1), {"mapreduce": MapReduce()}, now=self.now)
        self.job = ""
        self.births: dict[str, int] = {}
        self.run(e.VitalsMeasured(VITALS))

    def run(self, event: e.Event) -> list[str]:
        effects = self.node.handle(event, self.now)
        self.node.check()
        for effect in effects:
            if isinstance(effect, e.Save) and effect.kind == "job":
                self.job = effect.key
        return [text for effect in effects if not isinstance(effect, QUIET) for text in [self.show(effect)]]

    def message(self, name: str, message: m.Message, broker: str = e.OWN) -> list[str]:
        return self.run(e.MessageReceived(broker, ident(name), self.births.get(name, 1), message))

    # -- steps

    def step(self, words: list[str]) -> list[str]:
        return getattr(self, "on_" + words[0].replace("-", "_"))(*words[1:])  # type: ignore[no-any-return]

    def on_submit(self, splits: str, workers: str, *options: str) -> list[str]:
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        return self.run(
            e.JobSubmitted("20260101-000000", job_spec(int(splits), int(workers), "map-only" not in options))
        )

    def on_meet(self, name: str, *changes: str) -> list[str]:
        changed: dict[str, object] = {}
        for change in changes:
            key, _, value = change.partition("=")
            changed[key] = value if key == "state" else Vitals(512 * MB, int(value) * MB, 4, 1.0, 0.0, 1.0, 1 << 34)
            if key == "memory":
                changed["vitals"] = changed.pop(key)
        return self.message(name, m.Present(record(name, **changed)), "portal")

    def on_step_aside(self) -> list[str]:
        """This node takes no work itself."""
        self.node.membership.set_state("draining", self.now)
        return []

    def on_accept(self, name: str, slots: str = "1") -> list[str]:
        return self.message(name, m.Accept(self.job, int(slots), f"{name}:1", f"{name}:2"))

    def on_refuse(self, name: str, *reason: str) -> list[str]:
        return self.message(name, m.Refuse(self.job, " ".join(reason)))

    def on_report(self, name: str, task: str, number: str, who: str = "") -> list[str]:
        channel = "buffer" if task.startswith("map") else "get-result"
        result = Result(ident(who or name), raw_cid(f"{task} {name}".encode()), 10, {})
        return self.message(name, m.Report(self.job, channel, task, attempt(number), result))

    def on_failed(self, name: str, task: str, number: str, kind: str, cid_of: str = "", of: str = "") -> list[str]:
        cid = raw_cid(f"{cid_of} {of}".encode()) if cid_of else ""
        return self.message(name, m.Failed(self.job, task, attempt(number), Failure(kind, "it broke", cid)))

    def on_renew(self, name: str, *held: str) -> list[str]:
        pairs = [item.split("#") for item in held]
        return self.message(name, m.Renew(self.job, tuple(m.Held(task, attempt("#" + n), 5) for task, n in pairs)))

    def on_lost(self, name: str, birth: str = "1") -> list[str]:
        return self.run(e.MessageReceived(e.OWN, ident(name), int(birth), m.Lost()))

    def on_reconnect(self, name: str) -> list[str]:
        self.births[name] = self.births.get(name, 1) + 1
        return []

    def on_restart(self, name: str) -> list[str]:
        """The node starts anew: its birth numbers rise by a start."""
        self.births[name] = self.births.get(name, 1) + CONNECTIONS
        return []

    def on_cancel_job(self) -> list[str]:
        return self.run(e.CancelRequested(self.job))

    def on_part(self, task: str, name: str) -> list[str]:
        return self.run(e.PartFetched(self.job, task, raw_cid(f"{task} {name}".encode())))

    def on_part_gone(self, task: str, name: str) -> list[str]:
        return self.run(e.PartFetchFailed(self.job, task, raw_cid(f"{task} {name}".encode()), "gone"))

    def on_published(self) -> list[str]:
        return self.run(e.ResultPublished(self.job))

    def on_wait(self, seconds: str) -> list[str]:
        end, shown = self.now + float(seconds), []
        while (due := self.node.next_wakeup(self.now)) <= end:
            self.now = max(due, self.now + 0.001)
            shown += self.run(e.TimePassed())
        self.now = end
        return shown

    # -- steps of a worker: `boss` is the master of job 20260101-000000-work

    def on_offer(self, name: str = "boss", memory: str = "24") -> list[str]:
        offer = m.Download(
            "20260101-000000-work", raw_cid(b"spec"), "mapreduce", int(memory) * MB, f"{name}:1", f"{name}:2"
        )
        return self.message(name, offer)

    def on_fetched(self, name: str = "boss") -> list[str]:
        return self.run(e.JobFetched(JobKey(ident(name), "20260101-000000-work"), job_spec(4, 2)))

    def on_fetch_fails(self) -> list[str]:
        return self.run(e.JobFetchFailed(JobKey(ident("boss"), "20260101-000000-work"), "gone"))

    def on_command(self, name: str, channel: str, task: str, number: str) -> list[str]:
        return self.message(name, m.Command("20260101-000000-work", channel, task, attempt(number), "buffer", {}))

    def on_finished(self, number: str) -> list[str]:
        key = JobKey(ident("boss"), "20260101-000000-work")
        return self.run(e.TaskFinished(key, attempt(number), Result(ident("me"), raw_cid(b"out"), 10, {})))

    def on_received(self, name: str, task: str, number: str) -> list[str]:
        return self.message(name, m.Received("20260101-000000-work", task, attempt(number)))

    def on_renewed(self, name: str, *drop: str) -> list[str]:
        return self.message(name, m.Renewed("20260101-000000-work", tuple(attempt(n) for n in drop)))

    def on_clean_up(self, name: str) -> list[str]:
        return self.message(name, m.CleanUp("20260101-000000-work"))

    # -- effects as text

    def show(self, effect: e.Effect) -> str:
        match effect:
            case e.Save(kind, key, _):
                rest = key.partition("/")[2]
                return f"save {kind}" + (f" {self.names.get(rest, rest)}" if rest else "")
            case e.Send(node, _, message):
                return f"to {self.names.get(node, '?')}: {self.tell(message)}"
            case e.StartTask(_, task, number, _):
                return f"start {task} #{number.number}"
            case e.StopTask(_, number):
                return f"stop #{number.number}"
            case e.FetchPart(_, task, index, _, _, gateway):
                return f"fetch part {index} of {task} from {gateway.partition(':')[0]}"
            case e.KeepLog(_, task, number, _, _, _):
                return f"keep log {task} #{number.number}"
            case _:
                words = "".join(" " + c.lower() if c.isupper() else c for c in type(effect).__name__)
                return words.strip()

    def tell(self, message: m.Message) -> str:
        match message:
            case m.Command(_, channel, task, number, _, params):
                runs = len(params.get("inputs", ())) if channel == "do-reduce" else 0
                return f"{channel} {task} #{number.number}" + (f" of {runs} runs" if runs else "")
            case m.Report(_, channel, task, number, _):
                return f"{channel} {task} #{number.number}"
            case m.Failed(_, task, number, failure):
                return f"failed {task} #{number.number} ({failure.kind})"
            case m.Received(_, task, number):
                return f"received {task} #{number.number}"
            case m.Renew(_, held):
                return "renew" + "".join(f" {h.task}#{h.attempt.number}" for h in held)
            case m.Renewed(_, drop):
                return "renewed" + "".join(f" drop #{a.number}" for a in drop)
            case m.Refuse(_, reason):
                return f"refuse: {reason}"
            case m.CleanUp():
                return "clean-up"
            case _:
                return type(message).__name__.lower()


def attempt(text: str) -> Attempt:
    """`#3` is the third attempt of this birth; `#old3` one of the birth before."""
    return Attempt(6, int(text[4:])) if text.startswith("#old") else Attempt(7, int(text[1:]))


def play(text: str) -> str:
    """The scenario with the effects that really came below each step."""
    stage, lines = Play(), []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line.strip() and not line.startswith("#"):
            lines += ["  " + shown for shown in stage.step(line.split())]
    return "\n".join(lines) + "\n"
