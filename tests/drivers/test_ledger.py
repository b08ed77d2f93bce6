"""The ledger keeps what it said it kept, also when the process is killed in the next moment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from ipdc_edge.core.effects import Save
from ipdc_edge.drivers.ledger import Ledger, LedgerBroken

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def saves(path: str, *batches: list[Save]) -> Ledger:
    """A ledger in which these batches were saved, one after the other."""
    ledger = Ledger(path)

    async def save() -> None:
        for batch in batches:
            await ledger.save(batch)

    asyncio.run(save())
    return ledger


def test_a_birth_number_is_never_used_twice(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "ledger.db")
    births = []
    for _ in range(3):
        ledger = Ledger(path)
        births.append(ledger.next_birth())
        ledger.close()
    assert births == [1, 2, 3]


def test_unfinished_jobs_come_back_and_ended_ones_do_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "ledger.db")
    one, two = Save("job", "a", {"n": 1}), Save("job", "b", {"n": 2})
    task, worker = Save("task", "b/map-00000", {"x": [1]}), Save("worker", "b/node", {"name": "pi"})
    saves(path, [one, two, task], [worker, Save("ended", "a", {"id": "a", "state": "succeeded"})]).close()
    ledger = Ledger(path)
    assert ledger.unfinished() == [two, task, worker]
    assert ledger.ended("a") == {"id": "a", "state": "succeeded"}
    assert ledger.ended("b") is None
    assert [view["id"] for view in ledger.ended_jobs(10)] == ["a"]


def test_what_was_saved_survives_kill_9(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A child saves one fact after the other and says so; killed, it has lost none that it spoke of."""
    path = str(tmp_path / "ledger.db")
    script = (
        "import asyncio, sys\nfrom ipdc_edge.core.effects import Save\nfrom ipdc_edge.drivers.ledger import Ledger\n"
        "async def main():\n ledger = Ledger(sys.argv[1])\n for n in range(10**6):\n"
        "  await ledger.save([Save('task', f'j/{n:07d}', {'n': n})])\n  print(n, flush=True)\nasyncio.run(main())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in child.stdout.read().split()]
    child.wait()
    kept = [save.value["n"] for save in Ledger(path).unfinished()]
    assert kept[: len(said)] == said


def test_a_file_that_is_no_ledger_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else entirely " * 100)
    with pytest.raises(LedgerBroken, match=str(path)):
        Ledger(str(path))
