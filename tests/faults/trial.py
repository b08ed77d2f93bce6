"""A trial: two jobs of different masters, and faults that a seed has drawn at moments that it has drawn.

Owns the plan of faults, its execution in two lanes at once, and the judgement: every job succeeds with the quiet run's
bytes and counts, and nothing is left of it anywhere. The seed gives the same plan on any machine; a moment is a state
of a job and a short wait, so what is hit differs a little from run to run.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ipdc_edge.drivers.story import FIRST
from tests.faults.faults import FAULTS, OF_THE_GUEST, Fault, NothingToBreak, depart
from tests.faults.house import MAPS, NODES, PATIENCE, PROGRAMS, Away, House, Member, Unknown
from tests.waiting import PAUSE, eventually

LANES, DRAWN = 2, 6  # faults at once, faults in all where nobody says which
TASKS = MAPS + NODES
PROGRESS = ("committed", "collected", "published")  # facts of a story that say that the job goes on
LOSSES = ("output-lost", "part-missed")
LOG_END = 3000  # characters of a log in a failure


class NotRight(AssertionError):
    """A trial that did not end as it must."""


class WrongResult(NotRight):
    """Parts that are not the quiet run's."""


class WrongCount(NotRight):
    """Records that were lost or counted twice."""


class JobLost(NotRight):
    """A job that had been taken is not known any more, or did not succeed."""


class RanAgain(NotRight):
    """A task that was committed, and given out again although nothing that it had made was lost."""


class Strike(NamedTuple):
    """A fault of the plan: when so many tasks of a job are done, and a little later, it begins, and lasts."""

    fault: str
    victim: int
    job: int
    done: int
    wait: float
    lasts: float

    def __str__(self) -> str:
        where = "guest" if self.fault in OF_THE_GUEST else f"node{self.victim + 1}"
        return (f"{self.fault} {where} for {self.lasts:.1f} s, {self.wait:.1f} s after task {self.done} of {TASKS} of "
                f"job {self.job + 1}")


@dataclass
class Blow:
    """A strike as it happened; times are the machine's, 0 for what did not come."""

    strike: Strike
    began: float = 0.0
    ended: float = 0.0
    note: str = ""
    after_begin: list[float] = field(default_factory=list)  # seconds until each job went on
    after_end: list[float] = field(default_factory=list)  # the same, where the job was not over by then


class Plan(NamedTuple):
    """What a seed makes of a trial."""

    seed: int
    masters: tuple[int, ...]
    lanes: tuple[tuple[Strike, ...], ...]

    def __str__(self) -> str:
        masters = " and ".join(f"node{number + 1}" for number in self.masters)
        return "\n".join([f"seed {self.seed}: jobs of {masters}", *(
            f"  lane {number + 1}: {strike}" for number, lane in enumerate(self.lanes) for strike in lane)])


def draw(seed: int, kinds: tuple[str, ...] = (), long: float = 0.0) -> Plan:
    """The plan of a seed: these kinds of faults, or six of all; `long` is the share of those that outlast a lease."""
    drawn = random.Random(seed)
    kinds = kinds or tuple(drawn.choice(list(FAULTS)) for _ in range(DRAWN))
    masters = tuple(drawn.sample(range(NODES), len(PROGRAMS)))
    lanes: list[list[Strike]] = [[] for _ in range(LANES)]
    for number, kind in enumerate(drawn.sample(kinds, len(kinds))):
        lasts = drawn.uniform(30, 40) if drawn.random() < long else drawn.uniform(0.1, 6)
        lanes[number % LANES].append(Strike(kind, drawn.randrange(NODES), drawn.randrange(len(masters)),
                                            drawn.randrange(TASKS), drawn.uniform(0, 0.8), lasts))
    return Plan(seed, masters, tuple(tuple(sorted(lane, key=lambda strike: strike.done)) for lane in lanes))


class Trial:
    """One plan, played. `blows` says afterwards what was struck; `states` are the jobs as last seen."""

    def __init__(self, house: House, plan: Plan, programs: Sequence[str] = tuple(PROGRAMS)) -> None:
        self.house, self.plan, self.programs = house, plan, programs
        self.random = random.Random(plan.seed + 1)
        self.masters = [house.members[number] for number in plan.masters]
        self.jobs: list[str] = []
        self.blows: list[Blow] = []
        self.over = threading.Event()  # no more blows: something went wrong

    def play(self) -> None:
        """Everything; NotRight, with all that helps to understand it, where the end is not as it must be."""
        try:
            self._play()
        except Exception as error:
            kind = type(error) if isinstance(error, NotRight) else NotRight
            raise kind(f"{type(error).__name__}: {error}\n{self.account()}") from error
        finally:
            self.over.set()

    def _play(self) -> None:
        self.house.wait_ready()
        self.jobs = [self.house.submit(master, program) for master, program in zip(self.masters, self.programs)]
        with ThreadPoolExecutor(LANES) as lanes:
            for lane in [lanes.submit(self._lane, strikes) for strikes in self.plan.lanes]:
                lane.result()
        for number in range(len(self.jobs)):
            eventually(lambda number=number: self._view(number)[0] in ("succeeded", "failed", "cancelled"),
                       f"the end of job {number + 1}", PATIENCE)
        depart(self.house)
        for number, program in enumerate(self.programs):
            self.judge(number, program)
        self._recoveries()
        self.house.wait_clean()

    # -- the faults

    def _lane(self, strikes: tuple[Strike, ...]) -> None:
        for strike in strikes:
            blow = Blow(strike)
            self.blows.append(blow)
            try:
                self._strike(blow)
            except BaseException:
                self.over.set()
                raise

    def _strike(self, blow: Blow) -> None:
        strike = blow.strike
        victim = self.house.guest if strike.fault in OF_THE_GUEST else self.house.members[strike.victim]
        if not self._moment(strike):
            blow.note = "the job was faster"
            return
        self.over.wait(strike.wait)
        with victim.lock:
            fault: Fault = FAULTS[strike.fault](self.house, victim, self.random)
            try:
                fault.begin()
            except (NothingToBreak, Away) as error:
                blow.note = str(error)
                return
            blow.began = time.time()
            try:
                self.over.wait(strike.lasts)
            finally:
                fault.end()
                blow.ended = time.time()

    def _moment(self, strike: Strike) -> bool:
        """Waits until the moment of a strike; False where its job has ended."""
        end = time.monotonic() + PATIENCE
        while not self.over.is_set() and time.monotonic() < end:
            state, done = self._view(strike.job)
            if state == "succeeded" or state == "failed":
                return False
            if state and done >= strike.done:
                return True
            time.sleep(PAUSE)
        return False

    def _view(self, number: int) -> tuple[str, int]:
        """(state, tasks done) of a job; ("", 0) while nobody can be asked. JobLost where its master does not know it,
        WrongCount where more is done than there is."""
        try:
            view = self.masters[number].ask("status", id=self.jobs[number])
        except Unknown as error:
            raise JobLost(f"job {number + 1} had been taken: {error}") from error
        except Away:
            return "", 0
        if any(int(stage["done"]) > int(stage["total"]) for stage in view["stages"]):
            raise WrongCount(f"job {number + 1}: more is done than there is: {view['stages']}, {view['counters']}")
        return str(view["state"]), sum(int(stage["done"]) for stage in view["stages"])

    # -- the judgement

    def judge(self, number: int, program: str) -> None:
        """The job succeeded, with the quiet run's bytes and counts."""
        master, job = self.masters[number], self.jobs[number]
        view = master.ask("status", id=job)
        if view["state"] != "succeeded":
            raise JobLost(f"job {number + 1} {view['state']}: {view['error']}")
        found, quiet = self.house.result(master, job), self.house.quiet[program]
        if found.parts != quiet.parts:
            raise WrongResult(f"job {number + 1}: parts of {[len(part) for part in found.parts]} bytes are not those "
                              f"of the quiet run, {[len(part) for part in quiet.parts]}")
        if found.counters != quiet.counters:
            raise WrongCount(f"job {number + 1} counted {found.counters}, the quiet run {quiet.counters}")
        lost = sum(int(stage["total"]) - int(stage["done"]) for stage in view["stages"])
        if lost or view["maps"] != {"total": MAPS, "done": MAPS}:
            raise WrongCount(f"job {number + 1}: {view['maps']}, {view['reduces']}")
        if again := ran_again(master.ask("story", id=job)["facts"]):
            raise RanAgain(f"job {number + 1}: {', '.join(again)}")

    def _recoveries(self) -> None:
        """How long after the beginning and the end of each blow each job that it met went on."""
        for master, job in zip(self.masters, self.jobs):
            at = [float(fact["at"]) for fact in master.ask("story", id=job)["facts"] if fact["kind"] in PROGRESS]
            for blow in self.blows:
                for since, took in ((blow.began, blow.after_begin), (blow.ended, blow.after_end)):
                    later = [time for time in at if time >= since]
                    if blow.began and later:
                        took.append(min(later) - since)

    def account(self) -> str:
        """The plan, what came of it, and what the nodes say."""
        lines = [str(self.plan)]
        for blow in self.blows:
            when = f"{blow.began:.1f} to {blow.ended:.1f}" if blow.began else "never"
            lines.append(f"  {blow.strike}: {when} {blow.note}")
        lines += [self.house.stories(job, master) for job, master in zip(self.jobs, self.masters)]
        for node in (*self.house.members, self.house.guest):
            lines.append(f"-- the daemon of {node}:\n{node.daemon.log()[-LOG_END:]}")
        return "\n".join(lines)


def ran_again(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tasks of a story that were committed and then leased, with no loss of what they had made in between. Tasks of
    which a kill may have taken facts from the middle are not judged."""
    told: dict[str, list[str]] = {}
    for fact in facts:
        told.setdefault(str(fact["task"]), []).append(str(fact["kind"]))
    found = []
    for task, kinds in told.items():
        committed = False
        for kind in kinds if task and len(kinds) < FIRST else ():
            if committed and kind == "leased":
                found.append(task)
            committed = kind == "committed" or (committed and kind not in LOSSES)
    return found


def struck(blows: list[Blow], masters: list[Member]) -> dict[str, list[Blow]]:
    """The blows that happened, by fault and the victim's part in the jobs."""
    names = {int(master.name.removeprefix("node")) - 1 for master in masters}
    found: dict[str, list[Blow]] = {}
    for blow in blows:
        if blow.began:
            fault = blow.strike.fault
            whose = "newcomer" if fault in OF_THE_GUEST else "master" if blow.strike.victim in names else "worker"
            found.setdefault(f"{fault} of a {whose}", []).append(blow)
    return found
