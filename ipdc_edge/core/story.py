"""What a job's master tells of the job: small facts, from which `ipdc-edge story` makes sentences.

Owns what stands in a fact, and why a task is given to a node: the first time, again after something went wrong, or
doubled. Keeps only those reasons; facts leave as effects, with the id of their cause. Says nothing in prose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .effects import Tell
from .values import Attempt

MOST_TEXT = 300  # characters of what somebody else said


class Story:
    """One job's. `append` takes the effects."""

    def __init__(self, job: str, append: Callable[[Tell], None]) -> None:
        self.job, self.append = job, append
        self.why: dict[str, tuple[str, str]] = {}  # tasks that were begun in vain -> what happened last, and where

    def tell(self, kind: str, task: str = "", node: str = "", **words: object) -> None:
        """One fact; `node` is a name."""
        said = {name: word[:MOST_TEXT] if isinstance(word, str) else word for name, word in words.items()}
        self.append(Tell(self.job, kind, task, node, said))

    def leased(self, task: str, node: str, attempt: Attempt, beside: str, again: bool) -> None:
        """A task was given to a node; `beside` another one that is late with it, or `again`."""
        why, after = ("late", beside) if beside else self.why.pop(task, ("again" if again else "first", ""))
        self.tell("leased", task, node, why=why, after=after, attempt=list(attempt))

    def returned(self, task: str, node: str, why: str, **words: object) -> None:
        """An attempt is over without a result, by no failure of its own."""
        self.why[task] = why, node
        self.tell("returned", task, node, why=why, **words)

    def renewed(self, node: str, before: Mapping[Attempt, str], held: Mapping[Attempt, str]) -> None:
        """A renewal changed what a node holds: what it was given back, and what was taken from it."""
        for attempt, task in held.items():
            if attempt not in before:
                self.tell("kept", task, node, attempt=list(attempt))
        for attempt, task in before.items():
            if attempt not in held and task not in held.values():
                self.returned(task, node, "input")

    def failed(self, task: str, node: str, attempt: Attempt, kind: str, message: str, missed: str) -> None:
        """An attempt came to nothing; `missed` is the node whose content it could not get."""
        self.why[task] = "missed" if kind == "fetch" else "failed", node
        self.tell("failed", task, node, type=kind, message=message, missed=missed, attempt=list(attempt))

    def output_lost(self, task: str, node: str, why: str) -> None:
        """What a task made at a node can be had no more."""
        self.why[task] = "output", node
        self.tell("output-lost", task, node, why=why)
