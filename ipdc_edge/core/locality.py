"""Which of a job's tasks read input that is on a worker's disk already, so that it need not be moved again.

Owns what workers said of that, as the tasks that each holds most of. It is a preference and no duty: a worker that is
wrong fetches what it lacks. Only a task that was never leased is held by anybody; one that comes back goes to whoever
has room. Gives out no leases: `leases.py` does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from .machine import require
from .tasks import Tasks
from .values import InputRange, Task
from .waiting import FEW


class Locality:
    """Of one job: `reads` says which bytes of its inputs a task reads."""

    def __init__(self, reads: Callable[[Task], Sequence[tuple[int, int, int]]], tasks: Tasks) -> None:
        self.reads, self.tasks = reads, tasks
        self.holders: dict[str, dict[str, None]] = {}  # task -> nodes
        self.held: dict[str, dict[str, None]] = {}  # node -> tasks, in their order
        self.changes = 0  # how often it was told something else than that tasks were leased

    def told(self, node: str, ranges: Iterable[InputRange]) -> None:
        """A worker took the job, and holds this of its inputs; what it said before counts no more."""
        self.forget(node)
        found = _merged(ranges)
        if not found:
            return
        for ident, state in self.tasks.states.items():
            task = state.task
            if state.state != "waiting" or state.issued or task.node or task.beside:
                continue
            reads = self.reads(task)
            size = sum(end - start for _, start, end in reads)
            if size and 2 * sum(_covered(found.get(one[0], ()), one[1], one[2]) for one in reads) > size:
                self.held.setdefault(node, {})[ident] = None
                self.holders.setdefault(ident, {})[node] = None

    def forget(self, node: str) -> None:
        """Whatever it holds is of no use."""
        self.changes += 1
        for ident in self.held.pop(node, {}):
            del self.holders[ident][node]
            if not self.holders[ident]:
                del self.holders[ident]

    def leased(self, ident: str) -> None:
        """A task is in somebody's hands."""
        for node in self.holders.pop(ident, {}):
            del self.held[node][ident]
            if not self.held[node]:
                del self.held[node]

    def next_of(self, node: str) -> str:
        """The task to give to a worker of those it holds: of the first few the one that the fewest others hold; ""
        where there is none."""
        first = [ident for ident, _ in zip(self.held.get(node, ()), range(FEW)) if self.tasks.is_ready(ident)]
        return min(first, key=lambda ident: len(self.holders[ident]), default="")

    def waiting(self, node: str, most: int) -> float:
        """How many tasks wait for a worker; each counts for less where others hold it too. Counted up to `most`."""
        count = 0.0
        for ident in self.held.get(node, ()):
            count += 1 / len(self.holders[ident])
            if count > most:
                break
        return count

    def last_of(self, node: str) -> list[str]:
        """The tasks of a worker that it would come to last."""
        return [ident for ident, _ in zip(reversed(self.held.get(node, {})), range(FEW)) if self.tasks.is_ready(ident)]

    def check(self) -> None:
        """Both sides say the same, and of tasks only that nobody has had."""
        pairs = sorted((ident, node) for ident, nodes in self.holders.items() for node in nodes)
        require(pairs == sorted((ident, node) for node, held in self.held.items() for ident in held),
                f"held by {self.holders}, hold {self.held}")
        had = [ident for ident in self.holders if self.tasks.states[ident].issued]
        require(not had, f"{had} were leased and are held")


def _merged(ranges: Iterable[InputRange]) -> dict[int, list[tuple[int, int]]]:
    """By input, in order, none touching another."""
    found: dict[int, list[tuple[int, int]]] = {}
    for number, start, end in sorted(ranges):
        spans = found.setdefault(number, [])
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return found


def _covered(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """How many of these bytes are in spans that are in order."""
    count, at = 0, max(0, bisect_right(spans, (start, float("inf"))) - 1)
    while at < len(spans) and spans[at][0] < end:
        count += max(0, min(end, spans[at][1]) - max(start, spans[at][0]))
        at += 1
    return count
