"""The worker's side of the daemon: fetches jobs, feeds attempts to runners, makes their output content.

Owns the runners of the jobs that this node holds, and what becomes of an attempt. Decides nothing: the core
orders by effects, outcomes go back as events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..codec.answers import RunnerBroken
from ..codec.answers import TaskFailed as RunnerTaskFailed
from ..codec.bundle import MOST_BYTES, MOST_FILE_BYTES, bundle_items
from ..codec.cid import BadCid, raw_cid
from ..core.architecture import Architecture, BadSpec
from ..core.events import (
    Event,
    FetchJob,
    FreeJob,
    JobFetched,
    JobFetchFailed,
    StartTask,
    StopTask,
    TaskFailed,
    TaskFinished,
    TaskProgressed,
)
from ..core.node import spec_of
from ..core.values import Attempt, Failure, JobKey, JobSpec, Result
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher
from ..drivers.runner import RunnerDied, RunnerProcess
from ..errors import IpdcError
from .background import Background, report_bug
from .streams import FetchFailed, Inputs, Outputs

PROGRESS_PAUSE = 0.2  # seconds between two words of an attempt's progress
FETCH_PAUSE = 2.0  # seconds before a worker says that content cannot be had: its node may be back by then
MOST_OUTPUTS_TOLD = 1000  # sizes of partitions that fit into a message with the rest
MOST_DETAILS = 8000  # bytes of a failure's details; they travel in one message with the rest


def owner_of(key: JobKey) -> str:
    """Under which name the store keeps what this node holds as a worker of a job."""
    return f"{key.job}.{key.master}"


class HeldCode:
    """What a runner needs to start: the job's description and the CIDs of its code, read again for each runner."""

    def __init__(self, spec: JobSpec, gateway: str) -> None:
        self.spec, self.gateway = spec, gateway
        self.runners: list[RunnerProcess] = []  # idle ones, ready for the next task


class TaskRunner:
    """Carries out the worker's effects."""

    def __init__(
        self, node_id: str, store: BlockStore, fetcher: Fetcher, architectures: Mapping[str, Architecture],
        emit: Callable[[Event], None], scratch: str, slots: int,
        runner: Callable[[str], RunnerProcess] = RunnerProcess,
    ) -> None:
        self.node_id, self.store, self.fetcher, self.architectures = node_id, store, fetcher, architectures
        self.emit, self.scratch, self.slots, self.runner = emit, scratch, slots, runner
        self.jobs: dict[JobKey, HeldCode] = {}
        self.background = Background()
        self.attempts: dict[tuple[JobKey, Attempt], asyncio.Task[None]] = {}
        self.releasing: dict[JobKey, asyncio.Task[None]] = {}
        self.fetching: dict[JobKey, asyncio.Task[None]] = {}

    # -- jobs

    def fetch_job(self, effect: FetchJob) -> None:
        """Bring the description and the code of a job here."""
        self.fetching[effect.key] = self.background.start(self._fetch_job(effect))

    async def _fetch_job(self, effect: FetchJob) -> None:
        try:
            spec = await self._spec(effect)
        except (IpdcError, OSError) as error:
            self.emit(JobFetchFailed(effect.key, str(error)[:200]))
        except Exception as error:
            report_bug(error)
            self.emit(JobFetchFailed(effect.key, f"bug in this node: {error}"[:200]))
        else:
            self.jobs[effect.key] = HeldCode(spec, effect.gateway)
            self.emit(JobFetched(effect.key, spec))
        finally:
            if self.fetching.get(effect.key) is asyncio.current_task():
                del self.fetching[effect.key]

    async def _spec(self, effect: FetchJob) -> JobSpec:
        releasing = self.releasing.get(effect.key)
        if releasing is not None:  # it was freed a moment ago: what that releases has the same owner
            await asyncio.wait([releasing])
        spec = spec_of(effect.cid, _json(await self.fetcher.block(effect.cid, [effect.gateway])))
        if spec.app not in self.architectures:
            raise BadSpec(reason=f"no architecture {spec.app[:40]!r} here")
        self.architectures[spec.app].check(spec)
        total = 0
        for name, cid in bundle_items(spec.body):
            data = await self.fetcher.read_file(cid, [effect.gateway], MOST_FILE_BYTES)
            total += len(data)
            if total > MOST_BYTES:
                raise BadSpec(reason=f"its code has more than {MOST_BYTES} bytes with {name}")
            self.store.put(raw_cid(data), data, owner_of(effect.key))  # the next runner need not ask the master again
        return spec

    def free_job(self, effect: FreeJob) -> None:
        """Drop everything that this node holds of a job as its worker."""
        fetching = self.fetching.pop(effect.key, None)
        if fetching is not None:
            fetching.cancel()
        running = [task for (key, _), task in self.attempts.items() if key == effect.key]
        for task in running:
            task.cancel()
        held = self.jobs.pop(effect.key, None)
        for runner in held.runners if held else ():
            self.background.start(runner.close())
        releasing = self.background.start(self._release(effect.key, running))
        self.releasing[effect.key] = releasing

    async def _release(self, key: JobKey, running: list[asyncio.Task[None]]) -> None:
        """The store lets go once nothing writes for the job any more."""
        await asyncio.gather(*running, return_exceptions=True)
        try:
            self.store.release(owner_of(key))
        finally:
            if self.releasing.get(key) is asyncio.current_task():
                del self.releasing[key]

    def release_own(self, job: str) -> None:
        """A job of this node's own has ended: what this node made for it before a restart has no other end."""
        key = JobKey(self.node_id, job)
        if key not in self.jobs and key not in self.releasing:
            self.store.release(owner_of(key))

    # -- attempts

    def start_task(self, effect: StartTask) -> None:
        """Run one attempt; its outcome comes as an event."""
        place = (effect.key, effect.attempt)
        task = self.background.start(self._attempt(effect))
        self.attempts[place] = task
        task.add_done_callback(lambda done: self.attempts.get(place) is done and self.attempts.pop(place))

    def stop_task(self, effect: StopTask) -> None:
        """Give an attempt up."""
        task = self.attempts.get((effect.key, effect.attempt))
        if task is not None:
            task.cancel()

    async def _attempt(self, effect: StartTask) -> None:
        key, attempt = effect.key, effect.attempt
        try:
            result = await self._run(effect)
        except asyncio.CancelledError:
            raise
        except RunnerTaskFailed as error:
            self._failed(effect, Failure("user", _message(error.details), "", _details(error.details)))
        except (RunnerDied, RunnerBroken) as error:
            self._failed(effect, Failure("runner", str(error)[:1000], "", _details(error.details)))
        except FetchFailed as error:
            await asyncio.sleep(FETCH_PAUSE)
            self._failed(effect, Failure("fetch", error.reason[:1000], error.cid))
        except (IpdcError, OSError, BadCid) as error:
            self._failed(effect, Failure("node", f"{type(error).__name__}: {error}"[:1000]))
        except Exception as error:  # a bug of ours: the journal shows it, the master hears of it, the daemon goes on
            report_bug(error)
            self._failed(effect, Failure("node", f"bug in this node: {type(error).__name__}: {error}"[:1000]))
        else:
            self.emit(TaskFinished(key, attempt, result))

    def _failed(self, effect: StartTask, failure: Failure) -> None:
        self.emit(TaskFailed(effect.key, effect.attempt, failure))

    async def _run(self, effect: StartTask) -> Result:
        key, held = effect.key, self.jobs[effect.key]
        params: Any = effect.params
        if "/" in params:  # too long for a message
            params = _json(await self._block(params["/"], held.gateway))
        inputs = Inputs(self.fetcher, params)
        outputs = Outputs(self.store, owner_of(key), params)
        try:
            runner = await self._runner(key, held)
        except BaseException:
            outputs.discard()
            raise

        told = 0.0

        def progress(report: dict[str, int]) -> None:
            nonlocal told
            now = asyncio.get_running_loop().time()
            if now - told >= PROGRESS_PAUSE:
                told = now
                self.emit(TaskProgressed(key, effect.attempt, report["bytes"]))

        try:
            done = await runner.run(effect.task, params, inputs.read, outputs.write, progress)
            cid, size = outputs.commit([stream["records"] for stream in done["streams"]])
            log = self._log(key, runner)
        except RunnerTaskFailed as error:
            error.details["output"] = runner.take_output().decode("utf-8", "replace")
            raise
        finally:
            outputs.discard()
            await inputs.close()
            if runner.alive and self.jobs.get(key) is held:
                self._keep(held, runner)
            else:
                await runner.close()
        details: dict[str, Any] = {"counters": done["counters"], **log}
        if len(done["streams"]) <= MOST_OUTPUTS_TOLD:
            details["outputs"] = [stream["bytes"] for stream in done["streams"]]
        return Result(self.node_id, cid, size, details)

    def _keep(self, held: HeldCode, runner: RunnerProcess) -> None:
        """A runner waits for the next task of its job; no more of them than slots, whatever the number of jobs."""
        held.runners.append(runner)
        idle = [(other, waiting) for other in self.jobs.values() for waiting in other.runners]
        if len(idle) > self.slots:
            other, oldest = next((pair for pair in idle if pair[0] is not held), idle[0])
            other.runners.remove(oldest)
            self.background.start(oldest.close())

    async def _block(self, cid: str, gateway: str) -> bytes:
        try:
            return await self.fetcher.block(cid, [gateway])
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None

    async def _runner(self, key: JobKey, held: HeldCode) -> RunnerProcess:
        while held.runners:
            waiting = held.runners.pop()
            if waiting.alive:
                return waiting
            await waiting.close()
        code = {}
        for name, cid in bundle_items(held.spec.body):
            try:
                code[name] = await self.fetcher.read_file(cid, [held.gateway], MOST_FILE_BYTES)
            except BlockUnavailable as error:
                raise FetchFailed(cid, str(error)) from None
        runner = self.runner(self.scratch)
        try:
            await runner.start(dict(held.spec.body), code)
        except BaseException as error:
            if isinstance(error, RunnerTaskFailed):
                error.details["output"] = runner.take_output().decode("utf-8", "replace")
            await runner.close()
            raise
        return runner

    def _log(self, key: JobKey, runner: RunnerProcess) -> dict[str, str]:
        """What the user's code printed, as content; nothing when it printed nothing."""
        text = runner.take_output()
        if not text:
            return {}
        cid = raw_cid(text)
        self.store.put(cid, text, owner_of(key))
        return {"log": cid}

    async def close(self) -> None:
        """End every runner; nothing is reported any more."""
        await self.background.close()
        for held in self.jobs.values():
            for runner in held.runners:
                await runner.close()


def _json(block: bytes) -> Any:
    try:
        return json.loads(block)
    except (ValueError, RecursionError) as error:
        raise BadSpec(reason=f"a block is not JSON: {error}") from None


def _message(details: Mapping[str, Any]) -> str:
    return f"{details.get('type', 'error')}: {details.get('message', '')}"[:1000]


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    """A failure's details cut so that they fit into a message, measured as they travel: the end of a
    traceback and of what was printed says most."""
    cut: dict[str, Any] = {}
    room = MOST_DETAILS
    for name, most in (("input", 500), ("record", 1200), ("traceback", 4500), ("output", 4000)):
        text = str(details.get(name) or "")
        if text:
            cut[name] = _ending(text, min(most, room))
            room -= len(json.dumps(cut[name]))
    if isinstance(details.get("offset"), int):
        cut["offset"] = details["offset"]
    return cut


def _ending(text: str, most: int) -> str:
    """The end of a text of which the JSON has at most so many bytes."""
    if len(json.dumps(text)) <= most:
        return text
    kept = text[-most:]
    while len(json.dumps(kept)) + 4 > most and kept:
        kept = kept[len(kept) // 8 + 1 :]
    return "... " + kept
