"""The result's directory: what stands in it when a job ends one way, and then the other."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.directories import DirectoryBuilder
from ipdc_edge.codec.unixfs import CHUNK, MAX_DIRECTORY, directory_block
from ipdc_edge.core import effects as fx
from ipdc_edge.core import events as e
from ipdc_edge.daemon.results import Results
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.fetcher import Fetcher
from ipdc_edge.drivers.importer import import_file
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
        results.publish(fx.PublishResult(JOB, view))
        await eventually_async(lambda: bool(told), "the result is in its place")
        assert told == [e.ResultPublished(JOB)]
        assert sorted(os.listdir(results.directory(JOB))) == ["_SUCCESS", "job.json", "part-00000"]
        results.discard(fx.DiscardResult(JOB, {**view, "state": "cancelled"}))
        await eventually_async(lambda: os.listdir(results.directory(JOB)) == ["job.json"], "the result is no more")
        await results.close()
        store.close()

    asyncio.run(main())


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a restart"])
def test_the_directory_of_the_parts_has_its_cid(tmp_path: Path, again: bool) -> None:
    """A part of three blocks, an empty one, and a small one; hashed here only where nobody told their CIDs."""
    texts = [bytes(2 * CHUNK + 7), b"", b"one\t1\n"]
    told: list[e.Event] = []

    async def main() -> str | None:
        store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
        fetcher = Fetcher(store, None)

        def begin() -> Results:
            return Results(str(tmp_path / "jobs"), store, fetcher, told.append, lambda: 5.0)

        results = begin()
        for index, text in enumerate(texts):
            writer = store.new_file("worker")
            for at in range(0, len(text), CHUNK):
                writer.append(text[at : at + CHUNK])
            cid, size = writer.commit_file()
            results.fetch_part(fx.FetchPart(JOB, f"r{index}", index, cid, size, "node", "127.0.0.1:1"))
        await eventually_async(lambda: len(told) == 3, "the parts are here")
        assert {type(event) for event in told} == {e.PartFetched}
        if again:
            await results.close()
            results = begin()
        results.publish(fx.PublishResult(JOB, {"id": JOB, "submitted": 1.0, "started": 2.0, "ended": 0.0}))
        await eventually_async(lambda: told[3:] == [e.ResultPublished(JOB)], "the result is in its place")
        assert not results.cids
        await results.close()
        await fetcher.close()
        store.close()
        with open(os.path.join(results.directory(JOB), "job.json"), "rb") as file:
            return json.load(file)["root"]

    entries = []
    for index, text in enumerate(texts):
        root, _, interior = import_file(io.BytesIO(text))
        entries.append((f"part-{index:05d}", root, len(text) + sum(len(block) for _, block in interior)))
    assert asyncio.run(main()) == directory_block(entries)[0]


def test_more_parts_than_a_directory_has_in_one_block_are_a_sharded_one() -> None:
    """In memory where there is such a place: each part is synced, and here that is not what is looked at."""
    told: list[e.Event] = []
    parts = DirectoryBuilder()
    while parts.length <= MAX_DIRECTORY:
        parts.add(f"part-{parts.count:05d}", raw_cid(b""), 0)
    assert len(list(parts.blocks())) > 1

    async def main() -> None:
        store = BlockStore(os.path.join(directory, "blocks"), 64 << 20)
        results = Results(os.path.join(directory, "jobs"), store, None, told.append, lambda: 5.0)  # type: ignore[arg-type]
        for index in range(parts.count):
            open(os.path.join(results._incoming(JOB), f"part-{index:05d}"), "wb").close()
        results.publish(fx.PublishResult(JOB, {"id": JOB, "submitted": 1.0, "started": 2.0, "ended": 0.0}))
        await eventually_async(lambda: told == [e.ResultPublished(JOB)], "the result is in its place")
        with open(os.path.join(results.directory(JOB), "job.json"), "rb") as file:
            assert json.load(file)["root"] == parts.cid
        await results.close()
        store.close()

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        asyncio.run(main())
