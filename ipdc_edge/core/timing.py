"""The times of the protocol, in seconds, in one place. They are handed to the node, never read from a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")  # a moment that does not come


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take."""

    renew: float = 5.0  # a worker renews its leases this often
    lease: float = 25.0  # a lease lasts this long; at least twice the keepalive (10 s) of the connections
    grace: float = 3.0  # after a connection broke: how long the leases of its worker still hold
    offer: float = 6.0  # an offer nobody answered is over
    resend: float = 2.0  # an unanswered offer or unseen command is sent again after this long
    replace: float = 5.0  # a job short of workers looks for more this often
    settle: float = 0.5  # so long a job waits for answers before its first leases, where input is at its workers
    double: float = 2.0  # a task that has run for less is not given to a second worker beside the first
    orphan: float = 120.0  # a worker that hears nothing of a job's master for so long frees the job
    clean: float = 60.0  # an ended job answers its workers with `clean-up` for so long, then with a refusal to know it

    def __post_init__(self) -> None:
        if self.lease < 2 * self.renew:
            raise ValueError("a lease must outlast two renewals")
