"""The result's directory: what stands in it when a job ends one way, and then the other."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ipdc_edge.core import events as e
from ipdc_edge.daemon.results import Results
from ipdc_edge.drivers.blocks import BlockStore
from tests.waiting import eventually_async

JOB = "20260101-000000-abcd"


def test_a_job_that_fails_after_a_crash_has_no_result_from_before(tmp_path: Path) -> None:
    """The parts were in their place, and then the power went before the ledger knew that."""
    told: list[e.Event] = []

    async def main() -> None:
        store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
        results = Results(str(tmp_path / "jobs"), store, None, told.append, lambda: 5.0)  # type: ignore[arg-type]
        with open(os.path.join(results._incoming(JOB), "part-00000"), "wb") as part:
            part.write(b"one\t1\n")
        view = {"id": JOB, "state": "succeeded", "submitted": 1.0, "started": 2.0, "ended": 0.0, "running": []}
        results.publish(e.PublishResult(JOB, view))
        await eventually_async(lambda: bool(told), "the result is in its place")
        assert told == [e.ResultPublished(JOB)]
        assert sorted(os.listdir(results.directory(JOB))) == ["_SUCCESS", "job.json", "part-00000"]
        results.discard(e.DiscardResult(JOB, {**view, "state": "cancelled"}))
        await eventually_async(lambda: os.listdir(results.directory(JOB)) == ["job.json"], "the result is no more")
        await results.close()
        store.close()

    asyncio.run(main())
