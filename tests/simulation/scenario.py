"""Scenarios of the simulation as text: nodes, jobs, faults and what must come of them.

Owns the form and the running of one. Lines, in any order; `#` begins a comment:

    nodes 6                              how many, and so on for the other `options`
    at 3 submit n0 splits 24 workers 3   jobs are numbered in the order in which they are submitted
    at 9 for 20 cut n1 n2 | n0           a fault of faults.py; with `for` it heals after so many seconds
    when job 1 collecting for 5 crash n0 as soon as the job is there: queued, offered, maps, reduces, collecting,
                                         publishing or ended
    expect job 1 succeeded               or failed, cancelled; without a line every job has to succeed, but for those
                                         that are cancelled or whose master is gone for good

A seed is a scenario too (`seeds.py` writes it), so a seed that fails can be kept as a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ipdc_edge.core.values import JobKey
from tests.simulation.faults import BadLine, Fault, read
from tests.simulation.network import Weather
from tests.simulation.node import SimNode
from tests.simulation.world import Job, NotRight, World

PATIENCE = 600.0  # seconds after the last fault in which everything must have come to rest
FREED = 100.0  # seconds in which a worker has to learn that a job has ended: less than until it gives up by itself
LOOK = 5.0  # seconds between two looks whether it has
MOST_STEPS = 60_000  # hundreds are usual, a few thousand the most


@dataclass
class Step:
    """One line: when, what, for how long (None: for good)."""

    fault: Fault | Submit
    at: float = 0.0
    job: int = 0  # with a phase: when this job is there
    phase: str = ""
    lasts: float | None = None

    def __str__(self) -> str:
        when = f"when job {self.job} {self.phase}" if self.phase else f"at {self.at:g}"
        return when + (f" for {self.lasts:g}" if self.lasts is not None else "") + f" {self.fault}"


@dataclass
class Submit:
    """A job over so many splits is submitted on a node."""

    node: int
    splits: int
    workers: int

    def __str__(self) -> str:
        return f"submit n{self.node} splits {self.splits} workers {self.workers}"

    def begin(self, world: World) -> None:
        world.submit(world.nodes[self.node], self.splits, self.workers)


@dataclass
class Scenario:
    """What a text says."""

    options: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    expected: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name} {value:g}" for name, value in self.options.items()]
        lines += [str(step) for step in self.steps]
        lines += [f"expect job {job} {state}" for job, state in self.expected.items()]
        return "\n".join(lines) + "\n"


OPTIONS = {"nodes": 6.0, "seed": 1.0, "slots": 2.0, "drop": 0.0, "double": 0.0, "delay": 0.02, "failing": 0.0,
           "unlike": 1.0, "sample": 20.0, "clocks": 5.0, "work": 1.0}


def parse(text: str) -> Scenario:
    """Read a scenario; BadLine names what nobody understands."""
    scenario = Scenario()
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0] in OPTIONS:
                scenario.options[words[0]] = float(words[1])
            elif words[0] == "expect":
                scenario.expected[int(words[2])] = words[3]
            else:
                scenario.steps.append(_step(words))
        except (IndexError, ValueError) as error:
            raise BadLine(f"{line!r}: {error}") from None
    return scenario


def _step(words: list[str]) -> Step:
    step = Step(fault=Fault())
    if words[0] == "at":
        step.at, rest = float(words[1]), words[2:]
    elif words[0] == "when":
        step.job, step.phase, rest = int(words[2]), words[3], words[4:]
        if step.phase not in PHASES:
            raise BadLine(f"no phase '{step.phase}' (there are {', '.join(PHASES)})")
    else:
        raise BadLine(f"it begins with '{words[0]}', not with at, when, expect or one of {', '.join(OPTIONS)}")
    if rest[0] == "for":
        step.lasts, rest = float(rest[1]), rest[2:]
    if rest[0] == "submit":
        step.fault = Submit(int(rest[1][1:]), int(rest[3]), int(rest[5]))
    else:
        step.fault = read(rest)
    return step


# -- phases

def _phase(state: str) -> Callable[[Job], bool]:
    def there(job: Job) -> bool:
        master = job.master.node.masters.get(job.id)
        return master is not None and master.state == state

    return there


def _offered(job: Job) -> bool:
    master = job.master.node.masters.get(job.id)
    return master is not None and any(part.state == "offered" for part in master.participants)


def _at_work(stages: Callable[[int], bool]) -> Callable[[Job], bool]:
    def there(job: Job) -> bool:
        master = job.master.node.masters.get(job.id)
        stage = None if master is None or master.state != "running" else master.tasks.stage()
        return stage is not None and stages(stage) and any(
            task.leases and task.task.stage == stage for task in master.tasks.states.values())

    return there


def _ended(job: Job) -> bool:
    return job.id in job.master.world.ended


PHASES: dict[str, Callable[[Job], bool]] = {
    "queued": _phase("queued"), "offered": _offered, "maps": _at_work(lambda stage: stage == 0),
    "reduces": _at_work(lambda stage: stage > 0), "collecting": _phase("collecting"),
    "publishing": _phase("publishing"), "ended": _ended,
}


# -- running one

class Run:
    """A scenario on its way. `world` shows what has become of it."""

    def __init__(
        self, scenario: Scenario, tracing: bool = False, tell: Callable[[str], object] | None = None
    ) -> None:
        options = {**OPTIONS, **scenario.options}
        weather = Weather(options["drop"], options["double"], (0.001, options["delay"]))
        self.scenario = scenario
        self.world = World(
            int(options["nodes"]), int(options["seed"]), weather, options["failing"], tracing=tracing, tell=tell,
            slots=int(options["slots"]), unlike=bool(options["unlike"]), sample=options["sample"],
            clocks=options["clocks"], work=options["work"],
        )
        self.quiet = 0.0  # when the last fault is over
        self.late: dict[tuple[str, JobKey], float] = {}  # who works for a job that has ended, and since when
        self.waiting = [step for step in scenario.steps if step.phase]
        for step in scenario.steps:
            if not step.phase:
                self.world.after(step.at, self._begin, step)
        if self.waiting:
            self.world.watching.append(self._look)

    def _look(self, node: SimNode) -> None:
        for step in list(self.waiting):
            job = self.world.numbered(step.job)
            if job is not None and job.master is node and PHASES[step.phase](job):
                self.waiting.remove(step)
                self.world.after(0.0, self._begin, step)

    def _begin(self, step: Step) -> None:
        self._busy_until(self.world.now)
        step.fault.begin(self.world)
        if isinstance(step.fault, Fault) and step.fault.word == "swizzle":
            self._busy_until(self.world.now + float(step.fault.words[0]))
        if step.lasts is not None and isinstance(step.fault, Fault):
            self._busy_until(self.world.now + step.lasts)
            self.world.after(step.lasts, step.fault.end, self.world)

    def _busy_until(self, moment: float) -> None:
        self.quiet = max(self.quiet, moment)

    def run(self) -> World:
        """To the end. NotRight (an AssertionError), BrokenInvariant or ImpossibleTransition when anything is not as it
        must be."""
        world = self.world
        last = max((step.at for step in self.scenario.steps if not step.phase), default=0.0)
        while True:
            world.run_to(world.now + LOOK)
            self._look_for_late()
            left = world.unsettled() if world.now > max(last, self.quiet) else ["it has only begun"]
            if not left:
                break
            if world.now > max(last, self.quiet) + PATIENCE:
                raise NotRight(f"{PATIENCE:g} s after the last fault: {'; '.join(left[:8])}")
            if world.steps > MOST_STEPS:
                raise NotRight(f"no rest after {world.steps} events: {'; '.join(left[:8])}")
        self._compare()
        return world

    def _look_for_late(self) -> None:
        """Nobody works long for a job that has ended, as long as its master is there to say so."""
        now = max(self.quiet, self.world.now)

        def hears(node: SimNode, master: str) -> bool:
            passes = self.world.network.passes
            return self.world.by_id[master].up and passes(node.id, master) and passes(master, node.id)

        late = {(node.id, key): self.late.get((node.id, key), now)
                for node in self.world.nodes if node.up and not node.left
                for key in node.node.workers if key.job in self.world.ended and hears(node, key.master)}
        self.late = {place: since if since >= self.quiet else self.quiet for place, since in late.items()}
        for (node, key), since in self.late.items():
            if now - since > FREED:
                raise NotRight(f"n{self.world.by_id[node].number} still works for {key.job}, which ended long ago")

    def _compare(self) -> None:
        world = self.world
        for number, state in self.scenario.expected.items():
            job = world.numbered(number)
            view = world.ended.get(job.id) if job is not None else None
            if view is None or view["state"] != state:
                raise NotRight(f"job {number} should have {state}, and is {view and (view['state'], view['error'])}")
            if state == "failed":
                world.excuse(view["error"])
        world.assert_right()


def play(text: str, tracing: bool = False) -> World:
    """Run a scenario's text to its end."""
    return Run(parse(text), tracing).run()
