"""What an event costs a master does not grow with the tasks that wait for those who hold their input."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from ipdc_edge.core import events as e
from ipdc_edge.core import messages as m
from ipdc_edge.core.node import Node
from tests.core.scenario import Play, ident

FEW, MANY = 100, 1000  # tasks


def holding(tasks: int, *nodes: str) -> Play:
    """A master of a job whose first worker holds the input of all tasks, and has as many in hand as it takes. The other
    nodes have not answered."""
    play = Play()
    meet = [f"meet {node}" for node in ("w1", *nodes)]
    for line in ("step-aside", *meet, f"submit {tasks} 2", f"accept w1 1 0-{tasks}", "wait 5"):
        play.step(line.split())
    return play


def steps_of(play: Play, *events: e.Event) -> list[int]:
    """How many calls and lines of Python each of these events takes the core."""
    counts: list[int] = []

    def trace(_frame: FrameType, _event: str, _: Any) -> Any:
        counts[-1] += 1
        return trace

    node: Node = play.node
    for event in events:
        counts.append(0)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            node.handle(event, play.now)
        finally:
            sys.settrace(before)
    node.check()
    return counts


def heard(play: Play) -> list[e.Event]:
    """What a master hears all the time: a worker lives, time passes."""
    (job,) = play.node.masters
    (held,) = [[m.Held(task, attempt, 0) for attempt, task in participant.held.items()]
               for participant in play.node.masters[job].participants if participant.held]
    return [e.MessageReceived(e.OWN, ident("w1"), 1, m.Renew(job, tuple(held))), e.TimePassed()]


def test_tasks_that_wait_for_who_holds_their_input_are_not_walked_at_every_event() -> None:
    few, many = holding(FEW), holding(MANY)
    assert steps_of(many, *heard(many)) == steps_of(few, *heard(few))


@pytest.mark.parametrize("leave, left", [("accept w1 0", 4), ("lost w1", 6)])  # who drains ends what it has in hand
def test_what_was_kept_for_who_drains_or_is_lost_is_given_to_whoever_has_room(leave: str, left: int) -> None:
    play = holding(6, "w2")
    for line in (leave, "wait 15"):
        play.step(line.split())
    given = play.step(["accept", "w2", "6"])
    assert sum("to w2: do-map" in line for line in given) == left, given
