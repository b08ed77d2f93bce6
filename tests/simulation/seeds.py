"""What a seed is: a scenario, written by chance.

Owns the mix: mostly small domains with a job or two, some larger ones; one to six faults in the first minute, which
heal or do not. Only `Random.random` is used, whose numbers are the same in every version of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from tests.simulation.faults import read
from tests.simulation.scenario import Scenario, Step, Submit

Choice = TypeVar("Choice")
PHASES = ("queued", "offered", "maps", "reduces", "collecting", "publishing", "ended")
LASTING = ("expel", "drain", "leave")  # do not heal
KINDS = tuple("""crash crash crash kill kill stop broker cut cut one-way one-way split swizzle portals site slow full
    jump drop double delay reorder expel expel leave drain cancel""".split())
WEATHERS = ((0.0, 0.0, 0.02), (0.05, 0.05, 1.5), (0.3, 0.3, 4.0))


class Dice:
    """Chance, by `random()` alone."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def number(self, low: int, high: int) -> int:
        """A whole number, both bounds included."""
        return low + int((high - low + 1) * self.random())

    def seconds(self, low: float, high: float) -> float:
        return round(low + (high - low) * self.random(), 1)

    def one(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(len(choices) * self.random())]

    def some(self, choices: Sequence[Choice], count: int) -> list[Choice]:
        """So many different ones, in random order."""
        left = list(choices)
        return [left.pop(int(len(left) * self.random())) for _ in range(min(count, len(left)))]


def scenario_of(seed: int) -> Scenario:
    """The scenario that this seed stands for."""
    dice = Dice(seed)
    size = dice.random()
    nodes = dice.number(3, 6) if size < 0.75 else dice.number(7, 12) if size < 0.97 else dice.number(20, 40)
    drop, double, delay = WEATHERS[0 if (sky := dice.random()) < 0.4 else 1 if sky < 0.8 else 2]
    scenario = Scenario({
        "nodes": nodes, "seed": seed, "slots": dice.number(1, 2), "drop": drop, "double": double, "delay": delay,
        "failing": 0.02 if dice.random() < 0.3 else 0.0, "unlike": float(dice.random() < 0.7),
        "work": dice.one((1, 1, 3, 8)),
    })
    jobs = dice.number(1, 2) if nodes < 7 else dice.number(1, 3)
    for _ in range(jobs):
        submit = Submit(dice.number(0, nodes - 1), dice.number(1, 12), dice.number(1, min(4, nodes)))
        scenario.steps.append(Step(submit, dice.seconds(2.0, 12.0)))
    wounds = 1 if nodes < 5 else 2  # that do not heal: some nodes have to be left who can do the work
    for _ in range(dice.number(1, 6)):
        step, heals = _fault(dice, nodes, jobs, wounds > 0)
        wounds -= not heals
        scenario.steps.append(step)
    return scenario


def _fault(dice: Dice, nodes: int, jobs: int, for_good: bool) -> tuple[Step, bool]:
    """A fault, and whether it heals; with `for_good` it need not."""
    names = [f"n{number}" for number in range(nodes)]
    kinds = KINDS if for_good else tuple(kind for kind in KINDS if kind not in LASTING)
    kind = dice.one(kinds)
    victim, lasts = dice.one(names), dice.seconds(0.5, 30.0)
    heals = kind not in LASTING and not (
        for_good and kind in ("crash", "kill", "stop", "cut") and dice.random() < 0.2)
    step = Step(read(_words(dice, kind, names, victim, jobs).split()))
    if heals and kind not in ("swizzle", "jump", "cancel"):
        step.lasts = lasts
    if dice.random() < 0.4 and kind not in LASTING:
        step.job, step.phase = dice.number(1, jobs), dice.one(PHASES)
    else:
        step.at = dice.seconds(1.0, 40.0)
    return step, heals


def _words(dice: Dice, kind: str, names: list[str], victim: str, jobs: int) -> str:
    """A fault's line."""
    others = [name for name in names if name != victim]
    some = " ".join(dice.some(others, dice.number(1, len(others))))
    match kind:
        case "one-way":
            return f"cut {victim} > {some}" if dice.random() < 0.5 else f"cut {some} > {victim}"
        case "split":
            left = dice.some(names, dice.number(1, len(names) - 1))
            return f"cut {' '.join(left)} | {' '.join(name for name in names if name not in left)}"
        case "swizzle":
            return f"swizzle {dice.seconds(5.0, 40.0):g} {victim} {some}"
        case "slow":
            return f"slow {dice.one((3, 10, 30))} {victim}"
        case "jump":
            return f"jump {dice.one((-20, -5, -1, 1, 5, 30, 200, 100_000))} {victim}"
        case "expel":
            return f"expel {dice.one(names[1:])}"
        case "leave":
            return f"leave {dice.one(names[1:])}"
        case "portals":
            return "crash " + " ".join(names[: min(3, len(names))])
        case "site":
            return "crash " + " ".join(names)
        case "cancel":
            return f"cancel {dice.number(1, jobs)}"
        case "delay" | "reorder":
            return f"{kind} {dice.seconds(0.5, 8.0):g} {victim}"
        case "drop" | "double":
            return f"{kind} {dice.seconds(0.1, 0.9):g} {victim}"
        case _:
            return f"{kind} {victim}"
