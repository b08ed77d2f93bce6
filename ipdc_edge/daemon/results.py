"""The master's side of the daemon: parts and logs come home, and a job's directory becomes its result.

Owns `jobs/<id>/`: parts arrive under `.parts/`, and only when all are here they are made durable and renamed
into place, with `job.json` and last of all `_SUCCESS`. Decides nothing; outcomes go back as events.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from ..codec.cid import canonical
from ..codec.unixfs import tree_size
from ..core.effects import DiscardResult, FetchPart, KeepLog, PublishResult
from ..core.events import Event, PartFetched, PartFetchFailed, ResultFailed, ResultPublished
from ..core.values import Json
from ..drivers.blocks import BlockStore
from ..drivers.durable import sync_directory, sync_file
from ..drivers.fetcher import Fetcher
from ..drivers.flash import FLASH
from ..drivers.provider import Provider
from ..errors import IpdcError
from .background import Background, note, report_bug

AT_ONCE = 4  # logs that are fetched at the same time
PARTS_AT_ONCE = 2  # parts: each that comes takes two blocks of memory
LOGS_LATE = 10.0  # seconds that the end of a job waits for logs
PART = re.compile(r"part-[0-9]{5}")
MOST_LOG = 128 << 10  # bytes kept of what one attempt printed
MOST_LOGS = 1000  # attempts of a job whose prints are kept
BAD_RECORDS = "bad-records"  # a job's directory of records that were set aside, a file of JSON lines for each task
NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
LOG_NAME = re.compile(r"([a-z0-9-]+)\.(\d+)\.(\d+)\.txt")  # a task, and the attempt's two numbers


class PartNotAsTold(IpdcError):
    """the part of {task} has not the size that its worker told: {size} bytes, not {told}"""


class Results:
    """Carries out the master's effects, and completes a job's view with what only the daemon knows."""

    def __init__(
        self, jobs: str, store: BlockStore, fetcher: Fetcher, emit: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        self.jobs, self.store, self.fetcher = jobs, store, fetcher
        self.emit, self.now = emit, now
        self.background = Background()
        self.turn, self.log_turn = asyncio.Semaphore(PARTS_AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self.arrivals = 0
        self.fetching: dict[str, list[asyncio.Task[None]]] = {}  # parts under way, by job
        self.writing: dict[str, list[asyncio.Task[None]]] = {}  # logs under way, by job
        self.logs: dict[str, int] = {}
        self.cids: dict[str, dict[str, str]] = {}  # of the parts that came since this start: job -> name -> CID

    def directory(self, job: str) -> str:
        """Where a job's result is."""
        return os.path.join(self.jobs, job)

    def complete(self, view: Json) -> dict[str, object]:
        """A job's view with its directory, and times as people write them (UTC, null for what has not come yet)."""
        names = ("submitted", "started", "ended")
        times = {name: _utc(float(view[name])) for name in names if isinstance(view[name], float)}
        running = [{**task, "seconds": round(self.now() - task["since"], 1)} for task in view.get("running", ())]
        share = FLASH.job(str(view["id"]))  # None for a job that ended before this daemon began
        return {"stored_bytes": 0, **view, **times, "running": running, "directory": self.directory(str(view["id"])),
                "written_bytes": share and share.written, "fsyncs": share and share.fsyncs}

    def _begin(self, group: dict[str, list[asyncio.Task[None]]], job: str, work: Coroutine[Any, Any, None]) -> None:
        tasks = group.setdefault(job, [])
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
        self._begin(self.fetching, effect.job, self._fetch_part(effect))

    async def _fetch_part(self, effect: FetchPart) -> None:
        providers = [Provider(effect.node, effect.gateway)]
        try:
            async with self.turn:
                await self._receive(effect, providers)
        except IpdcError as error:
            self.emit(PartFetchFailed(effect.job, effect.task, effect.cid, f"{effect.node}: {error}"[:500]))
        except OSError as error:
            self.emit(ResultFailed(effect.job, f"{self.directory(effect.job)}: {error.strerror or error}"))
        except Exception as error:
            report_bug(error)
            self.emit(PartFetchFailed(effect.job, effect.task, effect.cid, f"bug in this node: {error}"[:500]))
        else:
            self.emit(PartFetched(effect.job, effect.task, effect.cid))

    async def _receive(self, effect: FetchPart, providers: list[Provider]) -> None:
        """Stream a part into its file, which has its name only when it is whole."""
        incoming = self._incoming(effect.job)
        disk = os.statvfs(incoming)
        if effect.size > disk.f_bavail * disk.f_frsize:  # few blocks can describe a file that fills every disk
            reason = f"no room for {effect.task}, of which {effect.node} tells {effect.size} bytes"
            raise OSError(errno.ENOSPC, f"{reason}. Make room there and submit again")
        path = os.path.join(incoming, f"part-{effect.index:05d}")
        self.arrivals += 1
        arriving = f"{path}.{self.arrivals}"
        size = 0
        try:
            with open(arriving, "wb") as file:
                async for _, data in self.fetcher.file_blocks(effect.cid, 0, effect.size, providers):
                    size += len(data)
                    if size > effect.size:
                        break
                    await asyncio.to_thread(file.write, data)
                    FLASH.wrote(effect.job, len(data))
                    del data  # two more may come by now
            if size != effect.size:
                raise PartNotAsTold(task=effect.task, size=size, told=effect.size)
            os.rename(arriving, path)
            self.cids.setdefault(effect.job, {})[os.path.basename(path)] = effect.cid
        finally:
            if os.path.exists(arriving):
                os.remove(arriving)

    # -- logs

    def keep_log(self, effect: KeepLog) -> None:
        """Put what an attempt printed into the job's `log/`, or its bad records into `bad-records/`."""
        if effect.aside or self.logs.setdefault(effect.job, 0) < MOST_LOGS:
            self.logs[effect.job] = self.logs.get(effect.job, 0) + (not effect.aside)
            self._begin(self.writing, effect.job, self._keep_log(effect))

    async def _keep_log(self, effect: KeepLog) -> None:
        text = effect.text.encode("utf-8", "replace")
        try:
            if effect.cid:
                async with self.log_turn:
                    text += await self.fetcher.block(effect.cid, [Provider(effect.node, effect.gateway)])
            directory = os.path.join(self.directory(effect.job), BAD_RECORDS if effect.aside else "log")
            os.makedirs(directory, exist_ok=True)
            name = effect.task if NAME.fullmatch(effect.task) else "task"
            attempt = "jsonl" if effect.aside else f"{effect.attempt.birth}.{effect.attempt.number}.txt"
            most = len(text) if effect.aside else MOST_LOG
            _write_whole(os.path.join(directory, f"{name}.{attempt}"), text[:most], effect.job)
        except (IpdcError, OSError) as error:  # it is lost with its worker; the result does not depend on it
            if effect.aside:
                note(f"job {effect.job}: the bad records of {effect.task} could not be kept: {error}")

    # -- the end of a job

    def publish(self, effect: PublishResult) -> None:
        """All parts are here: make them the result."""
        self.background.start(self._publish(effect))

    async def _publish(self, effect: PublishResult) -> None:
        await asyncio.gather(*self.fetching.get(effect.job, ()), return_exceptions=True)
        await self._end_logs(effect.job)
        view = self.complete({**effect.view, "state": "succeeded", "phase": "succeeded", "ended": self.now()})
        try:
            await asyncio.to_thread(self._rename, effect.job, view)
        except OSError as error:
            self.emit(ResultFailed(effect.job, f"{self.directory(effect.job)}: {error.strerror or error}"))
        except Exception as error:
            report_bug(error)
            self.emit(ResultFailed(effect.job, f"bug in this node: {error}"[:500]))
        else:
            self.emit(ResultPublished(effect.job))
        self._forget(effect.job)

    async def _end_logs(self, job: str) -> None:
        """Logs are a courtesy: those that have not come within a while are left out."""
        writing = list(self.writing.get(job, ()))
        if writing:
            _, late = await asyncio.wait(writing, timeout=LOGS_LATE)
            for task in late:
                task.cancel()

    def _rename(self, job: str, view: Json) -> None:
        directory, incoming = self.directory(job), self._incoming(job)
        names = []
        for name in sorted(os.listdir(incoming)):
            if PART.fullmatch(name):
                names.append(name)
            else:  # what was arriving when this node lost its power
                os.remove(os.path.join(incoming, name))
        for name in names:
            with open(os.path.join(incoming, name), "rb") as file:
                sync_file(file.fileno(), job)
        root = self._root(job, incoming, names)
        for name in names:
            os.rename(os.path.join(incoming, name), os.path.join(directory, name))
        os.rmdir(incoming)
        _write(os.path.join(directory, "job.json"), json.dumps({**view, "root": root}, indent=1).encode() + b"\n", job)
        sync_directory(directory, job)
        _write(os.path.join(directory, "_SUCCESS"), b"", job)
        sync_directory(directory, job)
        sync_directory(self.jobs, job)

    def _root(self, job: str, incoming: str, names: list[str]) -> str:
        """The CID of the directory of the parts, as `ipfs add` would say it."""
        from ..codec.directories import DirectoryBuilder  # rarely needed

        parts = DirectoryBuilder()
        for name in names:
            path = os.path.join(incoming, name)
            cid = self.cids.get(job, {}).get(name)
            if cid is None:  # it came before this node began again
                from ..drivers.importer import import_file  # rarely needed

                with open(path, "rb") as file:
                    cid = import_file(file)[0]
            parts.add(name, canonical(cid), tree_size(os.path.getsize(path)))
        for _ in parts.blocks():
            pass  # whoever wants them makes them again
        return parts.cid

    def discard(self, effect: DiscardResult) -> None:
        """The job failed or was cancelled: keep what tells why, drop the rest."""
        self.background.start(self._discard(effect))

    async def _discard(self, effect: DiscardResult) -> None:
        parts = list(self.fetching.get(effect.job, ()))
        for task in parts:
            task.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await self._end_logs(effect.job)
        try:
            await asyncio.to_thread(self._leave_record, effect.job, self.complete(effect.view))
        except OSError as error:
            note(f"job {effect.job}: its directory could not be put in order: {error}")
        finally:
            self._forget(effect.job)
            self.release(effect.job)

    def _leave_record(self, job: str, view: Json) -> None:
        directory = self.directory(job)
        os.makedirs(directory, exist_ok=True)
        incoming = os.path.join(directory, ".parts")
        if os.path.isdir(incoming):  # not made only to be removed: a full disk would not let us, and keep the parts
            for name in os.listdir(incoming):
                os.remove(os.path.join(incoming, name))
            os.rmdir(incoming)
        for name in sorted(os.listdir(directory)):  # _SUCCESS first
            if name == "_SUCCESS" or PART.fullmatch(name):  # the disk failed while the result was put in place
                os.remove(os.path.join(directory, name))
        _write(os.path.join(directory, "job.json"), json.dumps(view, indent=1).encode() + b"\n", job)

    def release(self, job: str) -> None:
        """The store need not keep the job's inputs, code and description any more."""
        self.store.release(job)

    def _forget(self, job: str) -> None:
        self.fetching.pop(job, None)
        self.writing.pop(job, None)
        self.logs.pop(job, None)
        self.cids.pop(job, None)

    async def close(self) -> None:
        """Leave parts under way where they are; they are fetched again after the next start."""
        await self.background.close()


def _write_whole(path: str, data: bytes, job: str) -> None:
    """It has its name only when it is whole: somebody may read what comes (following.py)."""
    arriving = f"{path}.new"
    try:
        with open(arriving, "wb") as file:
            FLASH.wrote(job, file.write(data))
        os.rename(arriving, path)
    except OSError:
        with suppress(OSError):
            os.remove(arriving)
        raise


def _write(path: str, data: bytes, job: str) -> None:
    with open(path, "wb") as file:
        FLASH.wrote(job, file.write(data))
        file.flush()
        sync_file(file.fileno(), job)


def _utc(seconds: float) -> str | None:
    if not seconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
