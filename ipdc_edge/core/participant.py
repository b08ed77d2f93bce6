"""One node that a job was offered to, as the job's master sees it.

Owns the participant machine and what the node holds of the job. Never decides; `master.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .machine import Transitions, follow
from .values import Attempt

PARTICIPANT: Transitions = {
    ("offered", "accept"): "working",
    ("offered", "refuse"): "refused",
    ("offered", "expire"): "silent",
    ("silent", "accept"): "working",  # late, and welcome
    ("silent", "offer"): "offered",
    ("silent", "refuse"): "refused",
    ("refused", "offer"): "offered",
    ("working", "lose"): "lost",
    ("working", "refuse"): "refused",  # restarted: it does not know the job any more
    ("lost", "accept"): "working",
    ("lost", "renew"): "working",  # it is back with what it held
    ("lost", "offer"): "offered",
    ("lost", "refuse"): "refused",
}


@dataclass(slots=True)
class Participant:
    """A node and its part in one job. `deadline` is when its offer or its leases run out."""

    node: str
    name: str
    state: str = "offered"
    deadline: float = 0.0
    sent: float = 0.0  # when the offer was last sent
    retry: float = 0.0  # not to be offered the job again before
    slots: int = 1
    held: dict[Attempt, str] = field(default_factory=dict)  # open attempts -> task
    tasks_done: int = 0
    reason: str = ""  # of a refusal

    def step(self, word: str, job: str) -> None:
        """Follow the table."""
        self.state = follow("participant", PARTICIPANT, self.state, word, f"{self.node} of {job}")

    def active(self) -> bool:
        """Whether it counts against the number of workers that the job wants."""
        return self.state in ("offered", "working")
