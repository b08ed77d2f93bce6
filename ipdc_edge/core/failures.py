"""What failed attempts say: how often a task may yet fail, and which node may be to blame.

Owns the counting: of a task's failures by the task, of content that was missed by the node that should have it; and
what is told and kept of a failure. Sets nobody aside (`participant.py` does) and ends no job (`master.py` does).
"""

from __future__ import annotations

from .architecture import Architecture
from .effects import KeepLog, Note
from .participant import Participants
from .story import Story
from .tasks import MOST_FAILURES, Tasks, TaskState
from .timing import NEVER
from .values import Attempt, Failure, JobSpec
from .views import failure_view

MOST_FETCH_FAILURES = 12  # times that one task may miss content of the same node before the job fails
LASTED = 60.0  # seconds after which an attempt at a task that lasts has been a good one, however it ends


class Failures:
    """Of one job."""

    def __init__(
        self, job: str, spec: JobSpec, architecture: Architecture, tasks: Tasks, participants: Participants,
        story: Story,
    ) -> None:
        self.job, self.spec, self.architecture = job, spec, architecture
        self.tasks, self.participants, self.story = tasks, participants, story

    def count(
        self, task: TaskState, node: str, attempt: Attempt, failure: Failure, ordered: float, now: float,
    ) -> str:
        """An attempt that was ordered then failed on a node; why its job has to fail, "" while it need not."""
        if self.architecture.lasts and now - ordered >= LASTED:
            task.forget_failures()
        ident, name = task.task.id, self.participants.name(node)
        missed = self.participants.name(self.tasks.maker(failure.cid)) if failure.kind == "fetch" else ""
        self.story.failed(ident, name, attempt, failure.kind, failure.message, missed)
        hopeless = self._count(task, node, failure, ordered)
        if not hopeless and self.architecture.brittle(self.spec, len(self.tasks.results)):
            hopeless = f"{ident} failed on {name}: {failure.message}"
        return hopeless

    def _count(self, task: TaskState, node: str, failure: Failure, ordered: float) -> str:
        ident = task.task.id
        if failure.kind == "fetch":
            task.missed_on[node] = task.missed_on.get(node, 0) + 1
            times = self._missed(ident, failure.cid, ordered)
            enough = times >= MOST_FETCH_FAILURES
            if not times:
                task.stale_misses[node] = task.stale_misses.get(node, 0) + 1
                if task.stale_misses[node] > MOST_FETCH_FAILURES:  # so often no node is overtaken by what others found
                    task.failures += 1
                    task.failed_on[node] = task.failed_on.get(node, 0) + 1
                    times, enough = task.stale_misses[node], task.failures >= MOST_FAILURES
        else:
            task.failures += MOST_FAILURES // 2 if failure.kind == "hopeless" else 1
            task.failed_on[node] = task.failed_on.get(node, 0) + 1
            self.tasks.put_first(ident)
            if failure.kind != "node":
                task.suspects[node] = None
            times = sum(task.failed_on.values())
            enough = task.failures >= MOST_FAILURES
        name = self.participants.name(node)
        return f"{ident} failed {times} times, last on {name}: {failure.message}" if enough else ""

    def blame(self, node: str, why: str) -> Note | None:
        """A node failed where it need not have; the word of it where that sets it aside."""
        participant = self.participants.blame(node, why)
        if participant is None:
            return None
        self.story.tell("aside", node=participant.name, reason=participant.aside)
        return Note(f"job {self.job}: {participant.name} is set aside: {participant.aside}")

    def kept(self, task: str, node: str, attempt: Attempt, failure: Failure) -> tuple[dict[str, object], KeepLog]:
        """What is kept of a failure: as people see the last one of a job, and in a file beside its result."""
        view, text = failure_view(task, node, self.participants.name(node), failure)
        return view, KeepLog(self.job, task, attempt, text)

    def count_part(self, task: TaskState, node: str, cid: str, reason: str) -> str:
        """A part of the result could not be had from the node that made it; likewise."""
        times = self._missed(task.task.id, cid, NEVER)
        task.failed_on[node] = task.failed_on.get(node, 0) + 1
        if times < MOST_FETCH_FAILURES:
            return ""
        return f"part of {task.task.id} could not be fetched {times} times, last: {reason}"

    def _missed(self, ident: str, cid: str, ordered: float) -> int:
        """An attempt that was ordered then missed content: how often this task has, of the same node; 0 where that is
        known and made good already. So many nodes may go at once, and each is found out by a miss of its own."""
        tasks = self.tasks
        makers = [tasks.results[i].node for i in tasks.by_output.get(cid, ()) if tasks.states[i].committed <= ordered]
        if not makers and (cid in tasks.lost or tasks.by_output.get(cid)):
            return 0
        failures, maker = tasks.states[ident].fetch_failures, makers[0] if makers else ""
        failures[maker] = failures.get(maker, 0) + 1
        return failures[maker]

    @staticmethod
    def shown(task: TaskState, node: str) -> list[str]:
        """A node has done the task: where it failed before, that was the others' fault. Each is named once."""
        suspects = [suspect for suspect in task.suspects if suspect != node]
        task.suspects.clear()
        return suspects
