"""What the committed tasks of a job counted, summed as they come and go. Pure.

Owns the sums and nothing else. Counts come from workers, so whatever is none counts for nothing.
"""

from __future__ import annotations

from .values import Result, Task

MOST_SHOWN = 100  # of the user's counters
MOST_NAMES = 1000  # of either kind, for the tasks of a job may each have names of their own; later ones do not count
TOLD = ("stored_bytes", "fetched_bytes")  # by nodes that are not older than these counts


class Counters:
    """Sums over the committed tasks of one job; bytes where it says so."""

    def __init__(self) -> None:
        self.own: dict[str, int] = {}  # the runner's
        self.users: dict[str, int] = {}
        self.made = self.read = self.output = 0  # bytes: of intermediate content, of it read since, of results

    def count(self, task: Task, result: Result, sign: int) -> None:
        """A task was committed (sign 1), or what it made was lost (-1)."""
        for sums, name in ((self.own, "counters"), (self.users, "user_counters")):
            counters = result.details.get(name)
            for counter, number in counters.items() if isinstance(counters, dict) else ():
                if type(number) is int and (counter in sums or len(sums) < MOST_NAMES):
                    sums[counter] = sums.get(counter, 0) + sign * number
        if task.final:
            self.output += sign * result.size
        else:
            self.made += sign * result.size
        read = result.details.get("read")
        if task.stage and type(read) is int:
            self.read += sign * read

    def view(self) -> dict[str, object]:
        """For a job's status."""
        told: dict[str, object] = {name: self.own[name] for name in TOLD if name in self.own}
        return {**told, "counters": dict(sorted(self.users.items())[:MOST_SHOWN]), "shuffle_bytes": self.made,
                "spilled_bytes": self.own.get("spilled_bytes", 0), "output_bytes": self.output,
                "bad_records": self.own.get("bad_records", 0)}
