"""How the jobs of one master share the nodes: which of those without any worker is next, and who is busy with others.

Owns the order and keeps nothing. Offers are made by `master.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .life import FINAL
from .master import Master


def queued(masters: Mapping[str, Master]) -> list[Master]:
    """The jobs without any worker, those of the highest priority first, then as they came."""
    waiting = [master for master in masters.values() if master.state == "queued"]
    return sorted(waiting, key=lambda master: -master.spec.priority)


def freed(masters: Mapping[str, Master]) -> int:
    """How many jobs have ended since this was asked last, so that their workers have room."""
    ended = [master for master in masters.values() if master.state in FINAL and not master.noticed]
    for master in ended:
        master.noticed = True
    return len(ended)


def engaged_beside(masters: Mapping[str, Master], job: str) -> Callable[[int], dict[str, int]]:
    """A function that tells how many tasks of the other jobs the nodes have, or that they may have as many as are asked
    for where they take part or are offered to. `masters` is looked at when it is called."""
    def engaged(least: int) -> dict[str, int]:
        tasks: dict[str, int] = {}
        others = [found for other, found in masters.items() if other != job]
        for master in others:
            for participant in master.participants if master.state in ("queued", "running") else ():
                if participant.active():
                    tasks[participant.node] = tasks.get(participant.node, 0) + max(least, len(participant.held))
        return tasks

    return engaged
