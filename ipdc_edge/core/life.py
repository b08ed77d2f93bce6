"""A job's life as its master sees it: its state, since when, how it ended, and by when it has to.

Owns the job machine and its times, in seconds of the master's clock (0 for what has not come). Decides nothing; when a
job goes on or ends, `master.py` says.
"""

from __future__ import annotations

from .machine import Transitions, follow
from .timing import NEVER
from .values import JobSpec

JOB: Transitions = {
    ("queued", "start"): "running",  # the first worker accepted
    ("running", "collect"): "collecting",  # every task is committed; parts are on their way
    ("collecting", "lose"): "running",  # a part could not be had: its task waits again
    ("collecting", "publish"): "publishing",
    ("publishing", "finish"): "succeeded",
    ("queued", "fail"): "failed",
    ("running", "fail"): "failed",
    ("collecting", "fail"): "failed",
    ("publishing", "fail"): "failed",
    ("queued", "cancel"): "cancelled",
    ("running", "cancel"): "cancelled",
    ("collecting", "cancel"): "cancelled",
}
FINAL = ("succeeded", "failed", "cancelled")


class Life:
    """Of one job."""

    def __init__(self, job: str, spec: JobSpec, now: float) -> None:
        self.job = job
        self.state = "queued"
        self.submitted, self.started, self.ended = now, 0.0, 0.0
        self.deadline = now + spec.timeout if spec.timeout else NEVER
        self.was_done = False  # before its master restarted, and since
        self.error: str | None = None  # why it did not succeed
        self.failure: dict[str, object] | None = None  # the last attempt that failed, as people see it

    def step(self, word: str) -> None:
        """Follow the table."""
        self.state = follow("job", JOB, self.state, word, self.job)
        self.was_done = self.was_done and self.state != "running"

    def start(self, now: float) -> None:
        """It has a worker."""
        self.step("start")
        self.started = now

    def end(self, word: str, now: float, error: str | None = None) -> None:
        """It is over."""
        self.step(word)
        self.error, self.ended = error, now

    def submitted_at(self, moment: float) -> None:
        """It was submitted before its master restarted. Where the clock went back meanwhile, nobody knows how long ago
        that was: its time begins anew."""
        self.deadline -= max(0.0, self.submitted - moment)
        self.submitted = moment

    def due(self) -> float:
        """When it fails for having taken too long; never while its result is put into place, nor where it may have been
        before its master restarted: people may have seen it."""
        return NEVER if self.state == "publishing" or self.was_done else self.deadline
