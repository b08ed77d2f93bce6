"""Scenarios as text: what happens to a master's or a worker's node, and the effects that must come of it,
line by line.

A scenario is a list of steps and, indented below each, the effects it must have, in order. Names stand for
node ids; `#2` is the second attempt. `wait 5` lets so many seconds pass, waking the node whenever it asked
for it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.admission import AUTHORITY
from ipdc_edge.core.architecture import spec_of
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import (
    Attempt,
    Failure,
    HeldList,
    InputRange,
    JobKey,
    JobSpec,
    Member,
    MemberList,
    NodeRecord,
    Result,
    Vitals,
)
from tests.core.hunt import ARCHITECTURES, hunt, ident

MB = 1 << 20
VITALS = Vitals(512 * MB, 400 * MB, 4, 1.0, 0.0, 1.0, 1 << 34)
QUIET = (fx.WatchRecords, fx.PublishRecord, fx.KeepPortals, fx.Note, fx.Tell)  # not part of what a scenario tells
NAMES = ("me", "w1", "w2", "w3", "boss", "other", "portal")


def record(name: str, slots: int = 1, **changed: object) -> NodeRecord:
    """A capable node's record."""
    values = {"state": "ready", "capabilities": ("mapreduce", "hunt"), "vitals": VITALS, **changed}
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
        "options": {"steps": [{"map": "Map.py", "reduce": "Map.py" if reduce else None}]},
        "inputs": [{"name": "text", "cid": raw_cid(b"%d" % size), "size": size}],
    }
    return spec_of(raw_cid(json.dumps(body).encode()), body)


def member_list(version: int, names: tuple[str, ...] = NAMES, portals: tuple[str, ...] = ("portal",)) -> MemberList:
    """A list of these members."""
    members = tuple(Member(ident(name), name, 512 * MB, name in portals, "1") for name in names)
    return MemberList("test", ident("authority"), version, members)


def list_cid(version: int) -> str:
    """The CID of the list of that version."""
    return raw_cid(b"list %d" % version)


def held_list(members: MemberList) -> HeldList:
    """The list as a node holds it."""
    return HeldList(members, list_cid(members.version))


class Play:
    """One node on the stage; everybody else is played by the scenario's lines."""

    def __init__(self) -> None:
        self.names = {ident(name): name for name in (*NAMES, "authority")}
        self.now = 100.0
        self.job = ""
        self.births: dict[str, int] = {}
        self.told: list[fx.Tell] = []
        self.begin(("mapreduce", "hunt"))

    def begin(self, capabilities: tuple[str, ...]) -> None:
        own = record("me", capabilities=capabilities)
        self.node = Node(own, held_list(member_list(5)), 7, Random(1), ARCHITECTURES, now=self.now)
        self.run(e.VitalsMeasured(VITALS))
        self.run(e.PortalJoined(ident("portal")))

    def run(self, event: e.Event) -> list[str]:
        effects = self.node.handle(event, self.now)
        self.node.check()
        for effect in effects:
            if isinstance(effect, fx.Save) and effect.kind == "job":
                self.job = effect.key
            elif isinstance(effect, fx.Tell):
                self.told.append(effect)
        return [self.show(effect) for effect in effects if not isinstance(effect, QUIET) and not self.of_peer(effect)]

    @staticmethod
    def of_peer(effect: fx.Effect) -> bool:
        """Addresses are remembered now and then; test_membership.py looks at that."""
        return isinstance(effect, fx.Save) and effect.kind == "peer"

    def message(self, name: str, message: m.Message, broker: str = e.OWN) -> list[str]:
        return self.run(e.MessageReceived(broker, ident(name), self.births.get(name, 1), message))

    # -- steps

    def step(self, words: list[str]) -> list[str]:
        return getattr(self, "on_" + words[0].replace("-", "_"))(*words[1:])  # type: ignore[no-any-return]

    def on_hunt(self, workers: str, *tasks: str) -> list[str]:
        """Submit a job of the test's own architecture; tasks are as in hunt.py."""
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        return self.run(e.JobSubmitted("20260101-000000", hunt(int(workers), *tasks)))

    def on_prey(self, name: str, task: str, number: str, found: str = "") -> list[str]:
        counters = {"counters": {"found": int(found == "found")}}
        result = Result(ident(name), raw_cid(f"{task} {name}".encode()), 10, counters)
        return self.message(name, m.Report(self.job, "prey", task, attempt(number), result))

    def on_submit_without_queue(self) -> list[str]:
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        spec = job_spec(1, 1, True)
        return self.run(e.JobSubmitted("20260101-000000", replace(spec, queue=False)))

    def on_submit_unasked(self, splits: str) -> list[str]:
        """A job without -k, which began when one node was there."""
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        return self.run(e.JobSubmitted("20260101-000000", replace(job_spec(int(splits), 1), grows=True)))

    def on_submit_held(self, splits: str, workers: str, name: str) -> list[str]:
        """A job of whose input a node said that it holds all."""
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        spec = replace(job_spec(int(splits), int(workers)), held={ident(name): 100})
        return self.run(e.JobSubmitted("20260101-000000", spec))

    def on_submit_within(self, seconds: str, splits: str, workers: str) -> list[str]:
        """A job that has so long."""
        self.node.membership.watch(self.now + 1000, self.now)
        self.node.membership.listed = True
        spec = replace(job_spec(int(splits), int(workers)), timeout=int(seconds))
        return self.run(e.JobSubmitted("20260101-000000", spec))

    def on_nodes(self) -> list[str]:
        """What the job's view says of the nodes that take part."""
        told = self.node.masters[self.job].view()["nodes"]
        return [f"{node['name']} is {node['state']}: {node['reason']}" for node in told]  # type: ignore[attr-defined]

    def on_error(self) -> list[str]:
        """Why the job has ended."""
        return [str(self.node.masters[self.job].view()["error"])]

    def on_story(self) -> list[str]:
        """The facts that were told since the last look; what came of the same event is indented below the first."""
        told, lines, cause = self.told, [], ""
        self.told = []
        for fact in told:
            words = ", ".join(f"{name} {word}" for name, word in fact.words.items() if word and name != "attempt")
            about = " ".join(part for part in (fact.kind, fact.task, fact.node) if part)
            lines.append(("  " if fact.cause == cause else "") + about + (f": {words}" if words else ""))
            cause = fact.cause
        return lines

    def on_waiting(self) -> list[str]:
        """What the job's view says of why anything waits."""
        return [f"waits: {line}" for line in self.node.masters[self.job].view()["waiting"]]  # type: ignore[attr-defined]

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
        return self.message(name, m.Present(record(name, **changed)), ident("portal"))

    # -- steps of the domain

    def on_authority(self) -> list[str]:
        """This node holds the authority's key."""
        self.begin(("mapreduce", "hunt", AUTHORITY))
        return []

    def on_presents(self, name: str, version: str = "5", *capabilities: str) -> list[str]:
        """A member publishes its record at our broker; it holds the list of that version."""
        return self.message(name, m.Present(record(name, members=int(version), capabilities=capabilities)))

    def on_tells(self, name: str, version: str) -> list[str]:
        return self.message(name, m.Members(int(version), list_cid(int(version)), f"{name}:1", f"{name}:2", ""))

    def on_authority_tells(self, version: str, *how: str) -> list[str]:
        """The authority itself tells of its list, which is in the message unless `unpacked`; at our own broker unless
        another is named."""
        packed = "" if "unpacked" in how else "bGlzdA=="
        brokers = [ident(name) for name in how if name != "unpacked"]
        told = m.Members(int(version), list_cid(int(version)), "w1:1", "w1:2", packed)
        return self.message("authority", told, *brokers)

    def on_authority_asks(self) -> list[str]:
        return self.message("authority", m.Ask("w1:1", "w1:2"))

    def on_authority_presents(self) -> list[str]:
        return self.message("authority", m.Present(record("authority", members=9)))

    def on_list(self, version: str, *names: str) -> list[str]:
        """A list was fetched and verified; of everybody, or of those named."""
        members = member_list(int(version), names or NAMES)
        return self.run(e.MembersAdopted(held_list(members)))

    def on_list_of_another_authority(self, version: str) -> list[str]:
        members = replace(member_list(int(version)), authority=ident("other"))
        return self.run(e.MembersAdopted(held_list(members)))

    def on_asks(self, name: str) -> list[str]:
        return self.message(name, m.Ask(f"{name}:1", f"{name}:2"))

    def on_leaves(self, name: str) -> list[str]:
        return self.message(name, m.Leave())

    def on_leave(self) -> list[str]:
        return self.run(e.LeaveRequested())

    def on_portal_left(self) -> list[str]:
        return self.run(e.PortalLeft(ident("portal")))

    def on_watch(self) -> list[str]:
        return self.run(e.WatchRequested())

    def on_moved(self, host: str) -> list[str]:
        return self.run(e.OwnAddressChanged(f"{host}:1", f"{host}:2"))

    def on_step_aside(self) -> list[str]:
        """This node takes no work itself."""
        self.node.membership.set_state("draining", self.now)
        return []

    def on_drain(self) -> list[str]:
        return self.run(e.DrainRequested())

    def on_owner_drains(self) -> list[str]:
        return self.run(e.DrainRequested(lasting=True))

    def on_owner_resumes(self) -> list[str]:
        return self.run(e.ResumeRequested())

    def on_stop(self) -> list[str]:
        return self.run(e.StopRequested())

    def on_offers(self, slots: str, *capabilities: str) -> list[str]:
        return self.run(e.SettingsChanged(capabilities, int(slots)))

    def on_accept(self, name: str, slots: str = "1", *held: str) -> list[str]:
        """It takes the job; `0-3` is what it holds of the input, in MB."""
        spans = [[int(number) * MB for number in span.split("-")] for span in held]
        ranges = tuple(InputRange(0, start, end) for start, end in spans)
        return self.message(name, m.Accept(self.job, int(slots), f"{name}:1", f"{name}:2", ranges))

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

    def on_renew_at(self, name: str, held: str, bytes_done: str) -> list[str]:
        """As renew, with one attempt that has read so much."""
        task, _, number = held.partition("#")
        return self.message(name, m.Renew(self.job, (m.Held(task, attempt("#" + number), int(bytes_done)),)))

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
            assert self.node.next_wakeup(self.now) > self.now, "what was due is due still: a daemon would not rest"
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

    def show(self, effect: fx.Effect) -> str:
        match effect:
            case fx.Save(kind, key, _):
                rest = key.partition("/")[2]
                return f"save {kind}" + (f" {self.names.get(rest, rest)}" if rest else "")
            case fx.Send(node, _, message):
                return f"to {self.names.get(node, '?')}: {self.tell(message)}"
            case fx.StartTask(_, task, number, _):
                return f"start {task} #{number.number}"
            case fx.StopTask(_, number):
                return f"stop #{number.number}"
            case fx.FetchPart(_, task, index, _, _, _, gateway):
                return f"fetch part {index} of {task} from {gateway.partition(':')[0]}"
            case fx.KeepLog(_, task, number, _, _, _, _):
                return f"keep log {task} #{number.number}"
            case fx.FetchMembers(node, _, _, version, _):
                return f"fetch list {version} from {self.names[node]}"
            case fx.AdmitMembers(members, expelled):
                gone = "".join(f" without {self.names[node]}" for node in expelled)
                return f"admit list {members.version}{gone}"
            case fx.ExpelMember(node):
                return f"expel {self.names[node]}"
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
            case m.Accept(_, slots) if slots != 1:
                return f"accept, {slots} slots"
            case m.Refuse(_, reason):
                return f"refuse: {reason}"
            case m.CleanUp():
                return "clean-up"
            case m.Members(version, _, _, _, _):
                return f"holds list {version}"
            case m.Present(said):
                return f"record at {said.mqtt}"
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
