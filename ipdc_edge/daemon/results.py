"""The master's side of the daemon: parts and logs come home, and a job's directory becomes its result.

Owns `jobs/<id>/`: parts arrive under `.parts/`, and only when all are here they are made durable and renamed
into place, with `job.json` and last of all `_SUCCESS`. Decides nothing; outcomes go back as events.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ..core.events import (
    DiscardResult,
    Event,
    FetchPart,
    KeepLog,
    PartFetched,
    PartFetchFailed,
    PublishResult,
    ResultFailed,
    ResultPublished,
)
from ..core.values import JobKey, Json
from ..drivers.block_files import sync_directory
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import Fetcher
from ..errors import IpdcError
from .background import Background, report_bug
from .tasks import owner_of

MOST_LOG = 128 << 10  # bytes kept of what one attempt printed
MOST_LOGS = 1000  # attempts of a job whose prints are kept
NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class Results:
    """Carries out the master's effects, and completes a job's view with what only the daemon knows."""

    def __init__(
        self, node_id: str, jobs: str, store: BlockStore, fetcher: Fetcher, emit: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        self.node_id, self.jobs, self.store, self.fetcher = node_id, jobs, store, fetcher
        self.emit, self.now = emit, now
        self.background = Background()
        self.busy: dict[str, list[asyncio.Task[None]]] = {}  # parts and logs under way, by job
        self.logs: dict[str, int] = {}

    def directory(self, job: str) -> str:
        """Where a job's result is."""
        return os.path.join(self.jobs, job)

    def complete(self, view: Json) -> dict[str, object]:
        """A job's view with its directory, and times as people write them (UTC, null for what has not come
        yet)."""
        names = ("submitted", "started", "ended")
        times = {name: _utc(float(view[name])) for name in names if isinstance(view[name], float)}
        return {**view, **times, "directory": self.directory(str(view["id"]))}

    def _begin(self, job: str, work: Coroutine[Any, Any, None]) -> None:
        tasks = self.busy.setdefault(job, [])
        task = self.background.start(work)
        tasks.append(task)
        task.add_done_callback(tasks.remove)

    def _incoming(self, job: str) -> str:
        path = os.path.join(self.directory(job), ".parts")
        os.makedirs(path, exist_ok=True)
        return path

    # -- parts

    def fetch_part(self, effect: FetchPart) -> None:
        """Bring one part here."""
        self._begin(effect.job, self._fetch_part(effect))

    async def _fetch_part(self, effect: FetchPart) -> None:
        name = f"part-{effect.index:05d}"
        providers = [effect.gateway] if effect.gateway else []
        try:
            path = os.path.join(self._incoming(effect.job), name)
            with open(path, "wb") as file:
                async for _, data in self.fetcher.file_blocks(effect.cid, 0, 1 << 62, providers):
                    await asyncio.to_thread(file.write, data)
        except IpdcError as error:
            self.emit(PartFetchFailed(effect.job, effect.task, effect.cid, str(error)[:500]))
        except OSError as error:
            self.emit(ResultFailed(effect.job, f"{self.directory(effect.job)}: {error.strerror or error}"))
        except Exception as error:
            report_bug(error)
            self.emit(PartFetchFailed(effect.job, effect.task, effect.cid, f"bug in this node: {error}"[:500]))
        else:
            self.emit(PartFetched(effect.job, effect.task, effect.cid))

    # -- logs

    def keep_log(self, effect: KeepLog) -> None:
        """Put what an attempt printed into the job's `log/`."""
        if self.logs.setdefault(effect.job, 0) < MOST_LOGS:
            self.logs[effect.job] += 1
            self._begin(effect.job, self._keep_log(effect))

    async def _keep_log(self, effect: KeepLog) -> None:
        text = effect.text.encode("utf-8", "replace")
        try:
            if effect.cid:
                text += await self.fetcher.block(effect.cid, [effect.gateway] if effect.gateway else [])
            directory = os.path.join(self.directory(effect.job), "log")
            os.makedirs(directory, exist_ok=True)
            name = effect.task if NAME.fullmatch(effect.task) else "task"
            path = os.path.join(directory, f"{name}.{effect.attempt.birth}.{effect.attempt.number}.txt")
            with open(path, "wb") as file:
                file.write(text[:MOST_LOG])
        except (IpdcError, OSError):
            return  # what was printed is lost with its worker; the result does not depend on it

    # -- the end of a job

    def publish(self, effect: PublishResult) -> None:
        """All parts are here: make them the result."""
        self.background.start(self._publish(effect))

    async def _publish(self, effect: PublishResult) -> None:
        await asyncio.gather(*self.busy.get(effect.job, ()), return_exceptions=True)
        view = self.complete({**effect.view, "state": "succeeded", "phase": "succeeded", "ended": self.now()})
        try:
            await asyncio.to_thread(self._rename, effect.job, view)
        except OSError as error:
            self.emit(ResultFailed(effect.job, f"{self.directory(effect.job)}: {error.strerror or error}"))
        else:
            self.emit(ResultPublished(effect.job))
        self._forget(effect.job)

    def _rename(self, job: str, view: Json) -> None:
        directory, incoming = self.directory(job), self._incoming(job)
        names = sorted(os.listdir(incoming))
        for name in names:
            with open(os.path.join(incoming, name), "rb") as file:
                os.fsync(file.fileno())
        for name in names:
            os.rename(os.path.join(incoming, name), os.path.join(directory, name))
        os.rmdir(incoming)
        _write(os.path.join(directory, "job.json"), json.dumps(view, indent=1).encode() + b"\n")
        sync_directory(directory)
        _write(os.path.join(directory, "_SUCCESS"), b"")
        sync_directory(directory)
        sync_directory(self.jobs)

    def discard(self, effect: DiscardResult) -> None:
        """The job failed or was cancelled: keep what tells why, drop the rest."""
        self.background.start(self._discard(effect))

    async def _discard(self, effect: DiscardResult) -> None:
        for task in list(self.busy.get(effect.job, ())):
            await asyncio.gather(task, return_exceptions=True)
        try:
            incoming = self._incoming(effect.job)
            for name in os.listdir(incoming):
                os.remove(os.path.join(incoming, name))
            os.rmdir(incoming)
            view = self.complete(effect.view)
            _write(os.path.join(self.directory(effect.job), "job.json"), json.dumps(view, indent=1).encode() + b"\n")
        finally:
            self._forget(effect.job)
            self.release(effect.job)

    def release(self, job: str) -> None:
        """The store need not keep the job's inputs, code and description any more, nor what this node made
        for it itself."""
        self.store.release(job)
        self.store.release(owner_of(JobKey(self.node_id, job)))

    def _forget(self, job: str) -> None:
        self.busy.pop(job, None)
        self.logs.pop(job, None)

    async def close(self) -> None:
        """Leave parts under way where they are; they are fetched again after the next start."""
        await self.background.close()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _utc(seconds: float) -> str | None:
    if not seconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
