"""What an architecture (`ipdc_edge.apps.*`) gives the core: how a job becomes tasks, and what each task is
told.

Owns the interface only. An implementation is pure: the core calls it while it handles an event. Channels are
all that a new architecture has to define: the master orders a task on `Task.command`, the worker answers on
`Task.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..errors import IpdcError
from .values import JobSpec, Json, Result, Task


class BadSpec(IpdcError):
    """the job's description is not valid: {reason}"""


class Architecture(Protocol):
    """One kind of job."""

    name: str
    commands: tuple[str, ...]  # the channels its masters speak on
    reports: tuple[str, ...]  # the channels its workers answer on

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the description is valid and within bounds; costs little, whatever it says."""
        ...

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """All tasks of a checked job, in the order in which they should be leased."""
        ...

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """What the worker needs to know for `task`, JSON, once all earlier stages are in `results` (task id
        -> result).

        `providers` in it lists the ids of nodes whose content it names, `holder` (the master) among them
        where it is the input's; the core adds their gateways' addresses as `gateways`.
        """
        ...

    def view(self, spec: JobSpec, done: Mapping[int, tuple[int, int]]) -> Json:
        """Progress in the architecture's own words from {stage: (total, done)}, merged into a job's status."""
        ...
