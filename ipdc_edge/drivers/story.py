"""The stories of jobs: the facts that their master told, as the ledger keeps them for `ipdc-edge story`.

Owns how many of them are kept, and when they are due to be written: always in a commit that happens anyway, routine
ones a page at a time. Of each task the first and the last are kept and what lies between is only counted; the last
ones, and whatever waits for company, stand in memory until the job or the daemon ends, so a power cut takes those.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ..core.effects import Tell

SCHEMA = """
CREATE TABLE IF NOT EXISTS story (job TEXT, number INTEGER, told INTEGER, facts TEXT, PRIMARY KEY (job, number))
WITHOUT ROWID;
"""
FIRST = LAST = 8  # facts of one task that are kept, of the beginning and of the end
FIRST_OF_JOB = LAST_OF_JOB = 64  # likewise of the job as a whole
ROUTINE = ("leased", "committed")  # what goes well
MOST_ROUTINE, MOST = 3000, 4000  # facts of one job: trouble always finds room
COMPANY = 16  # routine facts that are written together
STORIES = 64  # ended jobs whose stories are kept


class Fact(NamedTuple):
    """One of them as it is kept. `number` counts all that were told of the job, `cause` is the id of the event."""

    number: int
    at: float
    cause: str
    kind: str
    task: str
    node: str
    words: dict[str, object]


@dataclass(slots=True)
class Tale:
    """What is known in memory of one job's story."""

    told: int = 0  # facts, with those that are not kept
    rows: int = 0  # in the ledger
    kept: int = 0  # facts there or on their way there
    counts: dict[str, int] = field(default_factory=dict)  # of kept facts by task; "" for the job's own
    pending: list[Fact] = field(default_factory=list)
    held: dict[str, deque[Fact]] = field(default_factory=dict)  # the last of a task or of the job
    urgent: bool = False


class Stories:
    """The stories in one ledger; `reader` is its connection for reading."""

    def __init__(self, reader: sqlite3.Connection) -> None:
        self.reader = reader
        self.tales: dict[str, Tale] = {}
        self.due: list[tuple[str, int, int, str]] = []  # rows for the commit under way
        self._taken: dict[str, int] = {}  # how many pending facts of which job those are
        self._ended: set[str] = set()

    def tell(self, fact: Tell, now: float) -> None:
        """Take a fact in. Writes nothing."""
        tale = self.tales.get(fact.job)
        if tale is None:
            tale = self.tales[fact.job] = Tale() if fact.kind == "accepted" else self._again(fact.job)
        kept = Fact(tale.told, round(now, 3), fact.cause, fact.kind, fact.task, fact.node, dict(fact.words))
        tale.told += 1
        first, last = (FIRST, LAST) if fact.task else (FIRST_OF_JOB, LAST_OF_JOB)
        routine = fact.kind in ROUTINE
        if fact.task and tale.kept >= (MOST_ROUTINE if routine else MOST):
            return
        if tale.counts.get(fact.task, 0) >= first:
            tale.held.setdefault(fact.task, deque(maxlen=last)).append(kept)
            return
        tale.counts[fact.task] = tale.counts.get(fact.task, 0) + 1
        tale.kept += 1
        tale.pending.append(kept)
        tale.urgent = tale.urgent or not routine

    def _again(self, job: str) -> Tale:
        """A story that began before this daemon did."""
        facts, tale = self._read(job), Tale()
        tale.rows, tale.told = self.reader.execute(
            "SELECT count(*), coalesce(max(told), 0) FROM story WHERE job = ?", (job,)).fetchone()
        tale.kept = len(facts)
        for fact in facts:
            tale.counts[fact.task] = tale.counts.get(fact.task, 0) + 1
        return tale

    def gather(self, ended: Iterable[str], everything: bool = False) -> None:
        """A commit is about to be: `due` are the rows that go with it, of ended jobs all that there is."""
        self.due, self._taken, self._ended = [], {}, set(ended)
        for job, tale in self.tales.items():
            over = everything or job in self._ended
            if over and tale.held:
                last = [fact for held in tale.held.values() for fact in held]
                tale.pending = sorted([*tale.pending, *last])
                tale.held.clear()
            if tale.pending and (over or tale.urgent or len(tale.pending) >= COMPANY):
                text = json.dumps(tale.pending, separators=(",", ":"))
                self.due.append((job, tale.rows, tale.told, text))
                self._taken[job] = len(tale.pending)

    def written(self) -> None:
        """The rows that were due are durable."""
        for job, count in self._taken.items():
            tale = self.tales[job]
            del tale.pending[:count]
            tale.rows += 1
            tale.urgent = any(fact.kind not in ROUTINE for fact in tale.pending)
        for job in self._ended:
            self.tales.pop(job, None)
        self.due, self._taken, self._ended = [], {}, set()

    def story(self, job: str) -> tuple[list[Fact], int]:
        """The facts of a job in their order, also those not yet written, and how many are not kept."""
        facts, tale = self._read(job), self.tales.get(job)
        if tale is None:
            (told,) = self.reader.execute("SELECT max(told) FROM story WHERE job = ?", (job,)).fetchone()
            return facts, (told or 0) - len(facts)
        known = {fact.number: fact for fact in facts}
        for fact in [*tale.pending, *(fact for held in tale.held.values() for fact in held)]:
            known[fact.number] = fact
        return [known[number] for number in sorted(known)], tale.told - len(known)

    def _read(self, job: str) -> list[Fact]:
        rows = self.reader.execute("SELECT facts FROM story WHERE job = ? ORDER BY number", (job,))
        return sorted(Fact(*fact) for (text,) in rows for fact in json.loads(text))
