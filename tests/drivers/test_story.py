"""The stories in the ledger: written with other saves and never for themselves, bounded, and there after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ipdc_edge.core.effects import Save, Tell
from ipdc_edge.drivers import story
from ipdc_edge.drivers.ledger import Ledger, LedgerFull

JOB = "20260101-000000-abcd"
ENDED = Save("ended", JOB, {"id": JOB, "state": "succeeded"})


def tell(ledger: Ledger, kind: str, task: str = "", job: str = JOB, **words: Any) -> None:
    ledger.stories.tell(Tell(job, kind, task, "w1", words, cause="1.1"), 5.0)


def save(ledger: Ledger, *saves: Save) -> None:
    asyncio.run(ledger.save(list(saves)))


def kinds(ledger: Ledger, job: str = JOB) -> list[str]:
    return [fact.kind for fact in ledger.stories.story(job)[0]]


def durable(path: Path) -> list[str]:
    """What somebody else finds in the file: what a killed daemon leaves."""
    database = sqlite3.connect(path)
    try:
        return [fact.kind for fact in story.Stories(database).story(JOB)[0]]
    finally:
        database.close()


def test_facts_are_there_at_once_and_durable_with_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(str(path))
    tell(ledger, "accepted", tasks=3)
    tell(ledger, "leased", "map-00000")
    assert kinds(ledger) == ["accepted", "leased"]
    assert (durable(path), ledger.commits) == ([], 0)
    save(ledger, Save("job", JOB, {}))
    assert (durable(path), ledger.commits) == (["accepted", "leased"], 1)
    assert kinds(ledger) == ["accepted", "leased"], "each once"
    (first, _), left_out = ledger.stories.story(JOB)
    assert (first.number, first.at, first.cause, first.node, first.words) == (0, 5.0, "1.1", "w1", {"tasks": 3})
    assert left_out == 0


def test_routine_waits_for_company_and_trouble_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(str(path))
    tell(ledger, "accepted")
    save(ledger, Save("job", JOB, {}))
    for number in range(story.COMPANY):
        assert durable(path) == ["accepted"]
        tell(ledger, "leased", f"map-{number:05d}")
        save(ledger, Save("task", f"{JOB}/map-{number:05d}", {}))
    assert durable(path) == ["accepted"] + ["leased"] * story.COMPANY
    tell(ledger, "leased", "map-00100")
    tell(ledger, "lost")
    save(ledger, Save("worker", f"{JOB}/w1", {}))
    assert durable(path)[-2:] == ["leased", "lost"]
    ledger.close()


def test_a_story_goes_on_after_a_restart_and_outlives_the_jobs_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(str(path))
    tell(ledger, "accepted")
    tell(ledger, "leased", "map-00000")
    ledger.close()  # nothing was saved: a stop keeps it all the same
    ledger = Ledger(str(path))
    tell(ledger, "restored")
    tell(ledger, "committed", "map-00000")
    tell(ledger, "published")
    save(ledger, ENDED)
    ledger.close()
    ledger = Ledger(str(path))
    assert kinds(ledger) == ["accepted", "leased", "restored", "committed", "published"]
    assert [fact.number for fact in ledger.stories.story(JOB)[0]] == list(range(5))


def test_of_a_task_the_first_and_the_last_are_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger.db"))
    tell(ledger, "accepted")
    for number in range(100):
        tell(ledger, "failed", "map-00000", n=number)
        save(ledger, Save("worker", f"{JOB}/w1", {}))
    for _ in range(2):
        facts, left_out = ledger.stories.story(JOB)
        told = [fact.words["n"] for fact in facts if fact.task]
        assert told == [*range(story.FIRST), *range(100 - story.LAST, 100)]
        assert left_out == 100 - len(told)
        save(ledger, ENDED)


def test_a_job_of_many_tasks_keeps_room_for_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "MOST_ROUTINE", 30)
    monkeypatch.setattr(story, "MOST", 40)
    ledger = Ledger(str(tmp_path / "ledger.db"))
    tell(ledger, "accepted")
    for number in range(100):
        tell(ledger, "leased", f"map-{number:05d}")
    for number in range(100):
        tell(ledger, "failed", f"map-{number:05d}")
    save(ledger, ENDED)
    found = kinds(ledger)
    assert (found.count("leased"), found.count("failed")) == (29, 10)
    assert ledger.stories.story(JOB)[1] == 201 - 40


def test_only_the_newest_jobs_keep_their_stories(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger.db"))
    jobs = [f"20260101-{number:06d}-abcd" for number in range(story.STORIES + 3)]
    tell(ledger, "accepted", job="20250101-000000-runs")
    for job in jobs:
        tell(ledger, "accepted", job=job)
        save(ledger, Save("ended", job, {"id": job}))
    assert [job for job in jobs if not kinds(ledger, job)] == jobs[:3]
    assert kinds(ledger, "20250101-000000-runs") == ["accepted"], "it has not ended"


def test_a_full_disk_loses_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path / "ledger.db"))
    write = ledger._write
    tell(ledger, "accepted")

    def full(saves: list[Save]) -> None:
        raise LedgerFull(path=ledger.path)

    monkeypatch.setattr(ledger, "_write", full)
    with pytest.raises(LedgerFull):
        save(ledger, ENDED)
    monkeypatch.setattr(ledger, "_write", write)
    tell(ledger, "cancelled")
    save(ledger, ENDED)
    assert kinds(ledger) == durable(tmp_path / "ledger.db") == ["accepted", "cancelled"]
