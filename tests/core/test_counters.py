"""What tasks count, summed; whatever they call it, the sums stay small."""

from __future__ import annotations

from ipdc_edge.core.counters import MOST_NAMES, Counters
from ipdc_edge.core.values import Result, Task


def result(**counters: int) -> Result:
    return Result("node", "cid", 1, {"user_counters": counters})


def test_names_of_each_task_s_own_do_not_fill_the_memory() -> None:
    """A job of 10,000 tasks with 50 names each would have half a million."""
    task = Task("map", 0, "do-map", "buffer", 0, False)
    counters = Counters()
    counters.count(task, result(lines=3), 1)
    for number in range(2 * MOST_NAMES):
        counters.count(task, result(**{f"of task {number}": 1, "lines": 1}), 1)
    assert len(counters.users) == MOST_NAMES and counters.users["lines"] == 3 + 2 * MOST_NAMES
    lost = result(**{f"of task {2 * MOST_NAMES - 1}": 1, "lines": 1})
    counters.count(task, lost, -1)
    assert len(counters.users) == MOST_NAMES and counters.users["lines"] == 2 + 2 * MOST_NAMES
