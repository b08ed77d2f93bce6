"""Whatever members say, late, doubled or forged, before and after restarts: the core never breaks its own rules.

A node with jobs of its own, and held jobs of others, is thrown random events by everybody. Most are plausible
(they name tasks, attempts and content that there are), many are echoes of what the node ordered, some are
nonsense. After each step the invariants hold, and nothing but a BadSpec for its own submitter comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

import pytest

from ipdc_edge.apps.mapreduce.plan import MapReduce
from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.admission import AUTHORITY
from ipdc_edge.core.architecture import spec_of
from ipdc_edge.core.life import FINAL
from ipdc_edge.core.membership import CONNECTIONS
from ipdc_edge.core.node import Node
from ipdc_edge.core.values import Attempt, Failure, InputRange, JobKey, Result
from tests.core.hunt import ARCHITECTURES, hunt
from tests.core.scenario import MB, VITALS, held_list, ident, job_spec, member_list, record

STEPS = 2500  # of one life; a fuzzed job rarely lives longer
NAMES = ("me", "w1", "w2", "w3", "stranger", "outsider")
MEMBERS = NAMES[:-1]
IDS = {name: ident(name) for name in NAMES}
RECORDS = {(name, state): record(name, 2, state=state) for name in NAMES for state in ("ready", "draining", "gone")}
TASKS = ("map-00000", "map-00001", "map-00002", "reduce-00000", "reduce-00001", "map-99999", "nonsense", "a", "c")
CIDS = [raw_cid(b"output %d" % n) for n in range(6)]
REPORTS = (*MapReduce.reports, "prey")
KINDS = ("user", "runner", "fetch", "fetch", "node", "hopeless", "dropped", "odd")
HELD = "20260101-000000-held"  # a job that others are masters of
SPECS = [job_spec(3, 2), job_spec(3, 2, False), job_spec(1, 1), job_spec(0, 2),
         hunt(2, "a:0", "b:0:w1", "c:0", "d:1::a", "e:1::b", "f:2:me")]
SPECS.append(spec_of(SPECS[0].cid, SPECS[0].body | {"priority": 3, "timeout": 60, "grows": True}))


class Fuzz:
    """One node, its ledger, and the memory of what it said to whom."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now, self.birth = 100.0, 7
        capabilities = (*ARCHITECTURES, *((AUTHORITY,) if self.random.random() < 0.5 else ()))
        self.own, self.members = record("me", 2, capabilities=capabilities), member_list(5, MEMBERS, ("me", "w1"))
        self.saves: list[fx.Save] = []
        self.ended: set[str] = set()
        self.orders: deque[tuple[str, m.Command]] = deque(maxlen=30)
        self.parts: deque[fx.FetchPart] = deque(maxlen=10)
        self.past: deque[e.Event] = deque(maxlen=60)  # to be doubled
        self.births = dict.fromkeys(IDS.values(), CONNECTIONS)
        self.issued: dict[tuple[str, Attempt], tuple[str, str]] = {}
        self.node = self.start([])
        self.steps: list[Callable[[], e.Event | None]] = [
            self.order_answered, self.order_answered, self.order_answered, self.part, self.report, self.failed,
            self.renew, self.renew, self.accept, self.accept, self.refuse, self.loss, self.present, self.time,
            self.time, self.time, self.from_master, self.from_master, self.from_master, self.own_work, self.own_work,
            self.peer_restarts, self.doubled, self.doubled, self.rare, self.domain,
        ]

    def ranges(self) -> tuple[InputRange, ...]:
        """What somebody says it holds of a job's inputs."""
        count = self.random.choice((0, 0, 1, 2, 200))
        starts = [self.random.randrange(-1, 5) * MB for _ in range(count)]
        return tuple(InputRange(self.random.choice((0, 0, 0, 7)), at, at + self.random.randrange(1, 4) * MB // 2)
                     for at in starts)

    # -- the node

    def start(self, saved: list[fx.Save]) -> Node:
        node = Node(self.own, held_list(self.members), self.birth, self.random,
                    ARCHITECTURES, saved=saved, now=self.now)
        node.check()
        return node

    def restart(self) -> None:
        """It comes back with what was durable; at times the last saves were not."""
        for _ in range(self.random.choice((0, 0, 1, 2))):
            if self.saves and self.saves[-1].kind != "ended":
                self.saves.pop()
        self.birth += 1
        latest = {(save.kind, save.key): save for save in self.saves if save.key.partition("/")[0] not in self.ended}
        self.node = self.start(list(latest.values()))
        self.births[IDS["me"]] += CONNECTIONS

    def run(self, event: e.Event) -> None:
        effects = self.node.handle(event, self.now)
        self.node.check()
        for effect in effects:
            if isinstance(effect, fx.Save) and effect.kind != "peer":
                self.saves.append(effect)
                job = effect.key.partition("/")[0]
                assert job not in self.ended, f"{effect.kind} of {effect.key} is saved after the job's end"
                if effect.kind == "ended":
                    self.ended.add(job)
            elif isinstance(effect, fx.Send) and isinstance(effect.message, m.Command):
                self.ordered(effect.node, effect.message)
            elif isinstance(effect, fx.FetchPart):
                self.parts.append(effect)
            elif isinstance(effect, fx.AdmitMembers):
                assert effect.members.version > self.members.version, "the list went back"
                self.members = effect.members
        least = self.now if isinstance(event, e.TimePassed) else float("-inf")
        assert self.node.next_wakeup(self.now) > least, "what was due is due still: a daemon would not rest"

    def ordered(self, node: str, order: m.Command) -> None:
        self.orders.append((node, order))
        assert order.job not in self.ended, f"{order.task} is ordered after the job's end"
        if order.attempt.birth == self.birth:  # one attempt is one try at one task by one node
            told = self.issued.setdefault((order.job, order.attempt), (node, order.task))
            assert told == (node, order.task), f"attempt {order.attempt} is {told} and {(node, order.task)}"

    # -- what may come; each gives an event, or None when there is nothing to say

    def heard(self, sender: str, message: m.Message, broker: str = e.OWN) -> e.Event:
        birth = self.births[sender] - self.random.choice((0, 0, 0, 0, 0, 1, CONNECTIONS))
        return e.MessageReceived(broker, sender, max(0, birth), message)

    def peer(self) -> str:
        return IDS[self.random.choice(NAMES)]

    def job(self) -> str:
        return self.random.choice([*self.node.masters, HELD])

    def attempt(self) -> Attempt:
        return Attempt(self.birth + self.random.choice((0, 0, 0, -1, -2, 1)), self.random.randrange(1, 9))

    def result(self, node: str) -> Result:
        details = self.random.choice(({}, {"log": CIDS[0]}, {"outputs": "odd", "counters": 3}, {"read": "odd"},
                                      {"counters": {"found": 1}}, {"counters": {"bites": 1}, "user_counters": {}}))
        return Result(node, self.random.choice(CIDS), self.random.choice((0, 10, 1 << 62)), details)

    def failure(self) -> Failure:
        details = self.random.choice((None, {}, {"output": 7, "traceback": ["odd"], "task": None}))
        return Failure(self.random.choice(KINDS), "it broke", self.random.choice(["", *CIDS]), details)

    def order_answered(self) -> e.Event | None:
        """What an honest worker says to an order, at times from the wrong mouth."""
        if not self.orders:
            return None
        sender, order = self.random.choice(self.orders)
        if self.random.random() < 0.05:
            sender = self.peer()
        kind = self.random.random()
        if kind < 0.6:
            report = m.Report(order.job, order.report, order.task, order.attempt, self.result(sender))
            return self.heard(sender, report)
        if kind < 0.8:
            return self.heard(sender, m.Renew(order.job, (m.Held(order.task, order.attempt, 5),)))
        return self.heard(sender, m.Failed(order.job, order.task, order.attempt, self.failure()))

    def report(self) -> e.Event:
        sender, channel = self.peer(), self.random.choice(REPORTS)
        result = self.result(self.random.choice((sender, sender, self.peer())))
        return self.heard(sender, m.Report(self.job(), channel, self.random.choice(TASKS), self.attempt(), result))

    def failed(self) -> e.Event:
        task = self.random.choice(TASKS)
        return self.heard(self.peer(), m.Failed(self.job(), task, self.attempt(), self.failure()))

    def renew(self) -> e.Event:
        held = [m.Held(self.random.choice(TASKS), self.attempt(), 5) for _ in range(self.random.randrange(5))]
        return self.heard(self.peer(), m.Renew(self.job(), tuple(held)))

    def accept(self) -> e.Event:
        slots, sender = self.random.choice((0, 1, 2, 1024)), self.peer()
        return self.heard(sender, m.Accept(self.job(), slots, "host:1", "host:2", self.ranges()))

    def refuse(self) -> e.Event:
        return self.heard(self.peer(), m.Refuse(self.job(), "busy"))

    def loss(self) -> e.Event:
        if self.random.random() < 0.3:
            return e.PeerUnreachable(self.peer(), "gone")
        return self.heard(self.peer(), m.Lost(), self.random.choice((e.OWN, "portal", "other")))

    def present(self) -> e.Event:
        state = self.random.choice(("ready", "ready", "draining", "gone"))
        said = RECORDS[self.random.choice(NAMES), state]
        return self.heard(said.id, m.Present(said), self.random.choice((e.OWN, "portal", "other")))

    def part(self) -> e.Event | None:
        if not self.parts:
            return None
        part = self.random.choice(self.parts)
        if self.random.random() < 0.3:
            return e.PartFetchFailed(part.job, part.task, part.cid, "gone")
        return e.PartFetched(part.job, part.task, part.cid)

    def time(self) -> e.Event:
        self.now += self.random.choice((0.0, 0.1, 1.0, 1.0, 3.0, 6.0, 6.0, 30.0))
        return e.TimePassed()

    def from_master(self) -> e.Event:
        """Of a job that this node may hold: the masters are the node itself, its workers and a stranger."""
        sender, attempt, task = self.peer(), self.attempt(), self.random.choice(TASKS)
        job = self.random.choice((HELD, HELD, self.job()))
        app, channel = self.random.choice(("mapreduce",) * 4 + ("odd",)), self.random.choice(("do-map", "odd"))
        messages: list[m.Message] = [
            m.Download(job, CIDS[0], app, self.random.choice((24 * MB, 24 * MB, 1 << 40)), "host:1", "host:2"),
            m.Command(job, "do-map", task, attempt, "buffer", {}), m.Received(job, task, attempt),
            m.Command(job, "do-map", task, attempt, "buffer", {}), m.Renewed(job, (attempt, self.attempt())),
            m.Command(job, channel, task, attempt, self.random.choice(("get-result", "odd")), {"/": CIDS[1]}),
            self.random.choice((m.Cancel(job, "no"), m.CleanUp(job), m.Renewed(job, ()))),
        ]
        return self.heard(sender, self.random.choice(messages))

    def own_work(self) -> e.Event:
        """The daemon tells what became of a held job or an attempt; of jobs freed long ago too."""
        key = self.random.choice([*self.node.workers, JobKey(self.peer(), HELD)])
        worker = self.node.workers.get(key)
        attempt = self.random.choice([*(worker.tasks if worker else ()), self.attempt()])
        events: list[e.Event] = [
            e.JobFetched(key, self.random.choice(SPECS)), e.JobFetched(key, SPECS[0]),
            e.JobFetchFailed(key, "gone"), e.TaskProgressed(key, attempt, 7),
            e.TaskFinished(key, attempt, self.result(IDS["me"])), e.TaskFailed(key, attempt, self.failure()),
        ]
        return self.random.choice(events)

    def peer_restarts(self) -> None:
        if self.random.random() < 0.3:
            self.births[self.peer()] += self.random.choice((1, CONNECTIONS))

    def doubled(self) -> e.Event | None:
        return self.random.choice(self.past) if self.past else None

    def domain(self) -> e.Event:
        """Lists, portals and addresses that come and go."""
        version = self.members.version + self.random.choice((-1, 0, 1, 1, 3))
        names = ("me", *(name for name in MEMBERS[1:] if self.random.random() < 0.95))
        events: list[e.Event] = [
            e.MembersAdopted(held_list(member_list(version, names, ("me", "w1")))),
            self.heard(self.peer(), m.Members(version, CIDS[0], "host:1", "host:2", "")),
            self.heard(self.peer(), m.Ask("host:1", "host:2")), self.heard(self.peer(), m.Leave()),
            e.PeerFound(self.peer(), "host:3"), e.PortalJoined(IDS["w1"]), e.PortalLeft(IDS["w1"]),
            e.OwnAddressChanged(f"host{version}:1", "host:2"), e.LeaveRequested(),
        ]
        return self.random.choice(events)

    def rare(self) -> e.Event | None:
        kind, job = self.random.randrange(40), self.job()
        if kind == 0:
            self.restart()
        elif kind == 1:
            return e.CancelRequested(job)
        elif kind == 2:
            return e.ResultFailed(job, "disk full")
        elif kind == 3:
            return self.random.choice((e.StopRequested(), e.WatchRequested(), e.VitalsMeasured(VITALS)))
        elif kind < 12:
            return e.ResultPublished(job)
        elif kind < 16:
            return self.random.choice((e.PortalLeft("portal"), e.RecordsListed("portal", kind % 2)))
        elif kind < 24 and sum(master.state not in FINAL for master in self.node.masters.values()) < 2:
            return e.JobSubmitted("20260101-000000", self.random.choice(SPECS))
        elif kind == 24:
            return e.DrainRequested(self.random.random() < 0.5)
        elif kind < 28:
            return e.ResumeRequested()
        return None

    def play(self) -> set[str]:
        """A life; the states that its jobs were seen in."""
        seen: set[str] = set()
        self.run(e.VitalsMeasured(VITALS))
        self.run(e.JobSubmitted("20260101-000000", self.random.choice(SPECS)))
        for _ in range(STEPS):
            event = self.random.choice(self.steps)()
            if event is None:
                continue
            self.run(event)
            if isinstance(event, e.MessageReceived):
                self.past.append(event)
            seen.update(master.state for master in self.node.masters.values())
            seen.update(task.state for master in self.node.masters.values() for task in master.tasks.states.values())
            for master in self.node.masters.values():
                seen.update(participant.state for participant in master.participants.by_node.values())
        return seen


@pytest.mark.parametrize("first", range(0, 80, 10))
def test_the_core_keeps_its_rules_whatever_is_said(first: int) -> None:
    seen: set[str] = set()
    for seed in range(first, first + 10):
        try:
            seen |= Fuzz(seed).play()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    missed = {"queued", "running", "collecting", "publishing", "succeeded", "failed", "offered", "working", "refused",
              "silent", "lost", "skipped", "committed"} - seen
    assert not missed, f"the fuzz never came to {missed}"
