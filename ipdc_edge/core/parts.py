"""What a job's master brings to its own node: the parts of the result, and what attempts printed and set aside.

Owns which parts are here. The effects that fetch them are made here and sent by `master.py`; an answer counts only
while it is about the output that is committed now.
"""

from __future__ import annotations

from .effects import FetchPart, KeepLog
from .membership import Membership
from .tasks import Tasks, TaskState
from .values import Attempt, Result

LOG, ASIDE = "log", "aside"  # what an attempt printed, and the records that it set aside: CIDs in a result's details


class Parts:
    """Of one job."""

    def __init__(self, job: str, tasks: Tasks, membership: Membership) -> None:
        self.job, self.tasks, self.membership = job, tasks, membership
        self.here: dict[str, str] = {}  # final tasks whose output is here -> its CID

    def _gateway(self, node: str) -> str:
        return self.membership.addresses.get(node, ("", ""))[1]

    def fetch(self, task: TaskState, result: Result) -> list[FetchPart]:
        """A task was committed: what it made is fetched if it is a part of the result."""
        if not task.task.final:
            return []
        part = task.task.id, task.task.index, result.output, result.size
        return [FetchPart(self.job, *part, result.node, self._gateway(result.node))]

    def fetch_prints(self, task: str, attempt: Attempt, result: Result, *names: str) -> list[KeepLog]:
        """LOG or ASIDE or both of a committed attempt, where there are any."""
        found = [(name, str(result.details.get(name) or "")) for name in names]
        gateway = self._gateway(result.node)
        return [KeepLog(self.job, task, attempt, "", cid, result.node, gateway, aside=name == ASIDE)
                for name, cid in found if cid]

    def meant(self, ident: str, cid: str) -> TaskState | None:
        """The task whose committed output this is; None for what was lost meanwhile."""
        task = self.tasks.states.get(ident)
        return task if task is not None and task.result is not None and task.result.output == cid else None

    def arrived(self, ident: str, cid: str) -> None:
        """A part is here."""
        self.here[ident] = cid

    def lose(self, ident: str) -> None:
        """What a task made does not count any more."""
        self.here.pop(ident, None)

    def complete(self) -> bool:
        """Whether every part that the result has is here."""
        return all(
            ident in self.here
            for ident, task in self.tasks.states.items() if task.task.final and task.state == "committed"
        )
