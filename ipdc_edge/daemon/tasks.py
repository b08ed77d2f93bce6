"""The worker's side of the daemon: fetches jobs, feeds attempts to runners, makes their output content.

Owns the runners of the jobs that this node holds, and what becomes of an attempt. Decides nothing: the core
orders by effects, outcomes go back as events.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..codec.answers import RunnerBroken
from ..codec.answers import TaskFailed as RunnerTaskFailed
from ..codec.cid import BadCid, raw_cid
from ..codec.unixfs import CHUNK
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

MOST_CODE_FILES = 256
MOST_CODE = 8 << 20  # bytes of all code files of a job
CODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,7}")


def owner_of(key: JobKey) -> str:
    """Under which name the store keeps what this node holds as a worker of a job."""
    return f"{key.job}.{key.master}"


class HeldCode:
    """What a runner needs to start: the job's description and the CIDs of its code, read again for each
    runner."""

    def __init__(self, spec: JobSpec, gateway: str) -> None:
        self.spec, self.gateway = spec, gateway
        self.runners: list[RunnerProcess] = []  # idle ones, ready for the next task


class TaskRunner:
    """Carries out the worker's effects."""

    def __init__(
        self, node_id: str, store: BlockStore, fetcher: Fetcher, architectures: Mapping[str, Architecture],
        emit: Callable[[Event], None], scratch: str, runner: Callable[[str], RunnerProcess] = RunnerProcess,
    ) -> None:
        self.node_id, self.store, self.fetcher, self.architectures = node_id, store, fetcher, architectures
        self.emit, self.scratch, self.runner = emit, scratch, runner
        self.jobs: dict[JobKey, HeldCode] = {}
        self.background = Background()
        self.attempts: dict[tuple[JobKey, Attempt], asyncio.Task[None]] = {}
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
            self.fetching.pop(effect.key, None)

    async def _spec(self, effect: FetchJob) -> JobSpec:
        body = _json(await self.fetcher.block(effect.cid, [effect.gateway]))
        spec = spec_of(effect.cid, body)
        self.architectures[spec.app].plan(spec)  # BadSpec for what it cannot do
        total = 0
        for name, item in code_items(spec):
            data = await self.fetcher.read_file(item["cid"], [effect.gateway], MOST_CODE)
            total += len(data)
            if total > MOST_CODE:
                raise BadSpec(reason=f"its code has more than {MOST_CODE} bytes with {name}")
            if len(data) <= CHUNK:  # one block: kept, so that the next runner need not ask the master again
                self.store.put(raw_cid(data), data, owner_of(effect.key))
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
        self.background.start(self._release(owner_of(effect.key), running))

    async def _release(self, owner: str, running: list[asyncio.Task[None]]) -> None:
        """The store lets go once nothing writes for the job any more."""
        await asyncio.gather(*running, return_exceptions=True)
        self.store.release(owner)

    # -- attempts

    def start_task(self, effect: StartTask) -> None:
        """Run one attempt; its outcome comes as an event."""
        place = (effect.key, effect.attempt)
        task = self.background.start(self._attempt(effect))
        self.attempts[place] = task
        task.add_done_callback(lambda _: self.attempts.pop(place, None))

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
            output = str(getattr(error, "details", {}).get("output", ""))
            self._failed(effect, Failure("runner", str(error)[:1000], "", {"output": output[-4000:]}))
        except FetchFailed as error:
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
        runner = await self._runner(key, held)
        outputs = Outputs(self.store, owner_of(key), params)

        def progress(report: dict[str, int]) -> None:
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
            if runner.alive and key in self.jobs:
                held.runners.append(runner)
            else:
                await runner.close()
        return Result(self.node_id, cid, size, {"counters": done["counters"], **log})

    async def _block(self, cid: str, gateway: str) -> bytes:
        try:
            return await self.fetcher.block(cid, [gateway])
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None

    async def _runner(self, key: JobKey, held: HeldCode) -> RunnerProcess:
        if held.runners:
            return held.runners.pop()
        code = {
            name: await self.fetcher.read_file(item["cid"], [held.gateway], MOST_CODE)
            for name, item in code_items(held.spec)
        }
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


def code_items(spec: JobSpec) -> list[tuple[str, dict[str, Any]]]:
    """(name, {cid, size}) of a job's code files, the names checked; BadSpec."""
    code = spec.body.get("code")
    if not isinstance(code, dict) or len(code) > MOST_CODE_FILES:
        raise BadSpec(reason=f"its code is not an object of at most {MOST_CODE_FILES} files")
    for name, item in code.items():
        if not CODE_NAME.fullmatch(name) or not isinstance(item, dict) or not isinstance(item.get("cid"), str):
            raise BadSpec(reason=f"code file {name[:100]!r}")
    return list(code.items())


def _json(block: bytes) -> Any:
    try:
        return json.loads(block)
    except (ValueError, RecursionError) as error:
        raise BadSpec(reason=f"a block is not JSON: {error}") from None


def _message(details: Mapping[str, Any]) -> str:
    return f"{details.get('type', 'error')}: {details.get('message', '')}"[:1000]


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    """A failure's details cut so that they fit into a message: the end of a traceback says most."""
    cut = {}
    for name, most in (("traceback", 5000), ("input", 300), ("record", 800), ("output", 2500)):
        text = str(details.get(name) or "")
        if text:
            cut[name] = text if len(text) <= most else "... " + text[-most:]
    if isinstance(details.get("offset"), int):
        cut["offset"] = details["offset"]
    return cut


