"""The worker's side of the daemon: fetches jobs, feeds attempts to runners, makes their output content.

Owns the runners of the jobs that this node holds, and what becomes of an attempt. Decides nothing: the core
orders by effects, outcomes go back as events.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..codec.answers import RunnerBroken
from ..codec.answers import TaskFailed as RunnerTaskFailed
from ..codec.bundle import bundle_items
from ..codec.cid import BadCid, raw_cid
from ..codec.frames import MAX_PAYLOAD
from ..codec.messages import CONTROL, load
from ..codec.unixfs import BadNode
from ..core.architecture import Architecture, BadSpec, spec_of
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
from ..core.values import Attempt, Failure, InputRange, JobKey, JobSpec, Result
from ..drivers.block_reading import in_store
from ..drivers.block_rows import IndexFailed, KuboFailed, outlives
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher, FileTooBig, NoFile
from ..drivers.flash import FLASH
from ..drivers.input_cache import InputCache
from ..drivers.provider import Provider
from ..drivers.refusals import Refusals
from ..drivers.runner import Runner, RunnerDied
from ..drivers.sandbox import Sandbox
from ..drivers.tensorflow import Absent, Found
from ..errors import IpdcError
from .attempt_words import Aside, Progress, fitting, message
from .background import Background, note, report_bug
from .local_inputs import LocalInputs
from .streams import FetchFailed, Inputs, Outputs, OutputTooBig, check_params, is_cid

if TYPE_CHECKING:
    from .serving import Serving
    from .tunnels import End, Tunnels

FULL_PAUSE = 2.0  # seconds between two tries to let content go on a full disk
FETCH_PAUSE = 2.0  # seconds before a worker says that content cannot be had: its node may be back by then
BLAMED = (BadSpec, BadCid, BadNode, BlockUnavailable, FileTooBig, NoFile)  # faults of whoever gave what we work on
BLAME = {OutputTooBig.__name__: "hopeless", "NotAlone": "node"}  # what a runner tells that is not the user's fault
MOST_TOLD = 500  # characters of a line for the journal about what a peer gave
MOST_JSON = MAX_PAYLOAD - (256 << 10)  # bytes of a peer's JSON as a runner is given it, with room for names of code
LEAST_OUTPUT, MOST_GROWTH = 1 << 30, 64  # bytes that any task may write, and for each byte that it has read
LARGE = 8 << 20  # bytes of inputs for which it matters who has them
ROOM_OF_ROLE, MUCH_MORE = 64 << 30, 4  # bytes that a role may map (8 MB a thread), and for each that it may use
MOST_TOLD_OF_RESULT = 11_000  # bytes of a result's details; they travel in one message with the rest


def size_of(item: Any) -> int:
    """Bytes of an input that a description names by its CID; 0 where it names none, whatever it says."""
    if isinstance(item, dict) and isinstance(item.get("cid"), str) and type(item.get("size")) is int:
        return max(0, item["size"])
    return 0


class NoPlaceForRoles(IpdcError):
    """this node has no TensorFlow any more, or no sandbox with a network of its own"""


def _none() -> Tunnels:
    raise NoPlaceForRoles


def owner_of(key: JobKey) -> str:
    """Under which name the store keeps what this node holds as a worker of a job."""
    return f"{key.job}.{key.master}"


def output_limit(spec: JobSpec) -> int:
    """Bytes that a task of the job may write where its owner said so; 0 where he did not."""
    options = spec.body.get("options")
    limit = options.get("output_limit") if isinstance(options, dict) else None
    return limit if type(limit) is int and limit > 0 else 0


class HeldCode:
    """What a runner needs to start: the job's description and the CIDs of its code, read again for each runner."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.runners: list[Runner] = []  # idle ones, ready for the next task


class TaskRunner:
    """Carries out the worker's effects."""

    def __init__(
        self, node_id: str, node_name: str, store: BlockStore, fetcher: Fetcher,
        architectures: Mapping[str, Architecture], emit: Callable[[Event], None], slots: int,
        gateway_of: Callable[[str], str], local: LocalInputs, sandbox: Sandbox,
        cache: InputCache,
    ) -> None:
        self.node_name = node_name
        self.node_id, self.store, self.fetcher, self.architectures = node_id, store, fetcher, architectures
        self.emit, self.slots, self.gateway_of, self.sandbox = emit, slots, gateway_of, sandbox
        self.local, self.cache = local, cache
        self.tensorflow: Found | Absent = Absent("")
        self.tunnels: Callable[[], Tunnels] = lambda: _none()
        self.serving: Callable[[], Serving]  # set by the daemon
        self.refusals = Refusals(note)
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
            held = await self._held(effect.key, spec)
        except (IpdcError, OSError) as error:
            if isinstance(error, BLAMED):
                self._tell(effect.key.master, f"job {effect.key.job} is not taken: {error}")
            self.emit(JobFetchFailed(effect.key, str(error)[:200]))
        except Exception as error:
            report_bug(error)
            self.emit(JobFetchFailed(effect.key, f"bug in this node: {error}"[:200]))
        else:
            self.jobs[effect.key] = HeldCode(spec)
            self.emit(JobFetched(effect.key, spec, held))
        finally:
            if self.fetching.get(effect.key) is asyncio.current_task():
                del self.fetching[effect.key]

    async def _spec(self, effect: FetchJob) -> JobSpec:
        releasing = self.releasing.get(effect.key)
        if releasing is not None:  # it was freed a moment ago: what that releases has the same owner
            await asyncio.wait([releasing])
        spec = spec_of(effect.cid, _json(await self.fetcher.block(effect.cid, self._master(effect.key))))
        if spec.app not in self.architectures:
            raise BadSpec(reason=f"no architecture {spec.app[:40]!r} here")
        self.architectures[spec.app].check(spec)
        for name, cid, size in bundle_items(spec.body):
            await self._keep_code(effect.key, name, cid, size)
        return spec

    async def _held(self, key: JobKey, spec: JobSpec) -> tuple[InputRange, ...]:
        """What is here of the job's inputs; a node that keeps nothing does not look."""
        inputs = spec.body.get("inputs")
        if not isinstance(inputs, list) or sum(map(size_of, inputs)) < LARGE:
            return ()
        if key.master != self.node_id and not any(map(outlives, self.store.owners())):
            return ()
        from .holdings import held  # rarely needed

        return await held(self.fetcher, self.store, inputs, self._master(key))

    async def _keep_code(self, key: JobKey, name: str, cid: str, size: int) -> None:
        """Bring one file of a job's code here, so that the next runner need not ask the master again. BadSpec when it
        is not as big as was said."""
        writer = self.store.new_file(owner_of(key))
        try:
            async for _, data in self.fetcher.file_blocks(cid, 0, size, self._master(key)):
                if writer.size + len(data) > size:
                    break
                await in_store(self.store, lambda data=data: writer.append(data))  # type: ignore[misc]
            else:
                if writer.size == size:
                    await in_store(self.store, writer.commit_file)
                    return
            raise BadSpec(reason=f"its code file {name} has not the {size} bytes that were told")
        finally:
            writer.discard()

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
            while not self._released(owner_of(key)):
                await asyncio.sleep(FULL_PAUSE)
        finally:
            if self.releasing.get(key) is asyncio.current_task():
                del self.releasing[key]

    def _released(self, owner: str) -> bool:
        """False where the disk is full or fails, so that the index cannot say what is free: to be tried again."""
        try:
            self.store.release(owner)
        except IndexFailed as error:
            note(str(error))
            return False
        return True

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
            kind = BLAME.get(str(error.details.get("type")), "user")
            self._failed(effect, Failure(kind, message(error.details), "", fitting(error.details)))
        except OutputTooBig as error:
            self._failed(effect, Failure("hopeless", str(error)))
        except (RunnerDied, RunnerBroken) as error:
            self._failed(effect, Failure("runner", str(error)[:1000], "", fitting(error.details)))
        except FetchFailed as error:
            self._tell(error.node or key.master, f"job {key.job}, {effect.task}: {error}")
            await asyncio.sleep(FETCH_PAUSE)
            self._failed(effect, Failure("fetch", error.reason[:1000], error.cid))
        except (IpdcError, OSError) as error:
            if isinstance(error, BLAMED):
                self._tell(key.master, f"job {key.job}, {effect.task}: {error}")
            if isinstance(error, KuboFailed):
                await asyncio.sleep(FETCH_PAUSE)  # or it would fail one task after the other, as fast as they come
            self._failed(effect, Failure("node", f"{type(error).__name__}: {error}"[:1000]))
        except Exception as error:  # a bug of ours: the journal shows it, the master hears of it, the daemon goes on
            report_bug(error)
            self._failed(effect, Failure("node", f"bug in this node: {type(error).__name__}: {error}"[:1000]))
        else:
            self.emit(TaskFinished(key, attempt, result))

    def _tell(self, node: str, line: str) -> None:
        """Name in the journal who gave us what cannot be used."""
        line = re.sub(f"[{CONTROL}]", "?", line)
        self.refusals.tell(node, f"{node} gave nothing that can be used: {line}"[:MOST_TOLD])

    def _failed(self, effect: StartTask, failure: Failure) -> None:
        self.emit(TaskFailed(effect.key, effect.attempt, failure))

    async def _run(self, effect: StartTask) -> Result:
        key, held = effect.key, self.jobs[effect.key]
        if self.architectures[held.spec.app].lasts:
            from .place_keeper import keep  # rarely needed

            return await keep(self, effect, held)
        params: Any = effect.params
        if "/" in params:  # too long for a message
            if not is_cid(params["/"]):
                raise BadSpec(reason="the parameters of a task are named by what is no CID")
            params = _json(await self._block(params["/"], key))
        check_params(params)
        params = await self.local.expanded(params)
        inputs = Inputs(self.fetcher, self.local, params, self.cache)
        most = output_limit(held.spec)
        try:
            outputs = Outputs(self.store, owner_of(key), params,
                              lambda: most or max(LEAST_OUTPUT, inputs.bytes * MOST_GROWTH))
            try:
                runner = await self.runner(key, held)
            except BaseException:
                outputs.discard()
                raise
        except BaseException:
            await inputs.close()
            raise

        def tell(read: int, said: str) -> None:
            if (key, effect.attempt) in self.attempts:
                self.emit(TaskProgressed(key, effect.attempt, read, said))

        progress, aside = Progress(tell, lambda: inputs.bytes), Aside(effect.task)
        end: End | None = None
        try:
            told_params = _for_runner(params, self.node_name)
            if runner.tunnels is not None:
                end = self._speaks(effect, held, runner)
                told_params["python"] = self.tensorflow.python if isinstance(self.tensorflow, Found) else ""
                told_params["network"] = os.readlink("/proc/self/ns/net")
            done = await runner.run(effect.task, told_params, inputs.read, outputs.write, progress.report, aside.add)
            cid, size = await outputs.commit([stream["records"] for stream in done["streams"]])
            texts = {"log": runner.take_output(), "aside": aside.taken()}
            kept = {name: await self._kept(key, text) for name, text in texts.items()}
            FLASH.wrote(key.job, max(0, done["counters"].get("spilled_bytes", 0)))
            done["counters"]["stored_bytes"] = size + sum(map(len, texts.values()))
            done["counters"]["fetched_bytes"] = inputs.fetched
        except RunnerTaskFailed as error:
            error.details["output"] = runner.take_output().decode("utf-8", "replace")
            raise
        finally:
            if end is not None:
                self.tunnels().close(end)
            try:
                outputs.discard()
            finally:
                await inputs.close()
            if runner.alive and end is None and self.jobs.get(key) is held:
                self._keep(held, runner)
            else:
                await runner.close()
        details: dict[str, Any] = {name: found for name, found in kept.items() if found}
        details |= {"counters": done["counters"], "user_counters": done["user_counters"], "read": inputs.bytes}
        outputs_told = [stream["bytes"] for stream in done["streams"]]
        if len(json.dumps([details, outputs_told])) <= MOST_TOLD_OF_RESULT:
            details["outputs"] = outputs_told
        return Result(self.node_id, cid, size, details)

    def _keep(self, held: HeldCode, runner: Runner) -> None:
        """A runner waits for the next task of its job; no more of them than slots, whatever the number of jobs."""
        held.runners.append(runner)
        idle = [(other, waiting) for other in self.jobs.values() for waiting in other.runners]
        if len(idle) > self.slots:
            other, oldest = next((pair for pair in idle if pair[0] is not held), idle[0])
            other.runners.remove(oldest)
            self.background.start(oldest.close())

    def _master(self, key: JobKey) -> list[Provider]:
        """Who has the job's description, code and parameters, wherever it is now."""
        return [Provider(key.master, self.gateway_of(key.master))]

    async def _block(self, cid: str, key: JobKey) -> bytes:
        try:
            return await self.fetcher.block(cid, self._master(key))
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None

    async def runner(self, key: JobKey, held: HeldCode) -> Runner:
        while held.runners:
            waiting = held.runners.pop()
            if waiting.alive:
                return waiting
            await waiting.close()
        code = [(name, size, self._code(key, cid, size)) for name, cid, size in bundle_items(held.spec.body)]
        architecture = self.architectures[held.spec.app]
        runner, memory = self._new_runner(architecture), 0
        if architecture.cluster:  # its programs map much more than they use; they are watched from within
            memory = ROOM_OF_ROLE + MUCH_MORE * held.spec.memory
        try:
            await runner.start(dict(held.spec.body), code, architecture.module, key.job, architecture.cluster, memory,
                               architecture.mapped)
        except BaseException as error:
            if isinstance(error, RunnerTaskFailed):
                error.details["output"] = runner.take_output().decode("utf-8", "replace")
            await runner.close()
            raise
        return runner

    def _new_runner(self, architecture: Architecture) -> Runner:
        if not architecture.cluster:
            return self.sandbox.runner(architecture.network)
        if self.sandbox.role is None or not isinstance(self.tensorflow, Found):
            raise NoPlaceForRoles
        return self.sandbox.role(self.tensorflow.place)

    def _speaks(self, effect: StartTask, held: HeldCode, runner: Runner) -> End | None:
        """The end of the tunnels of a task that speaks with others."""
        if runner.tunnels is None:
            return None
        from ..apps.tensorflow.plan import cluster_of
        from .tunnels import End

        cluster, key, arguments = cluster_of(held.spec), effect.key, held.spec.body["arguments"]
        nodes = {place.role.task: place.node for place in cluster.places}
        role = nodes.pop(effect.task, "") and effect.task
        own = JobKey(key.master, arguments.get("of") or key.job)
        end = End(own, role, frozenset({*(place.node for place in cluster.places), key.master}), nodes, runner.tunnels)
        self.tunnels().open(end)
        return end

    async def _code(self, key: JobKey, cid: str, size: int) -> AsyncIterator[bytes]:
        """A code file in pieces, exactly `size` bytes."""
        left = size
        try:
            async for _, data in self.fetcher.file_blocks(cid, 0, size, self._master(key)):
                left -= len(data)
                if left < 0:
                    break
                yield data
        except BlockUnavailable as error:
            raise FetchFailed(cid, str(error)) from None
        if left:
            raise FetchFailed(cid, f"it has not the {size} bytes that were told")

    async def _kept(self, key: JobKey, text: bytes) -> str:
        """The CID of what the user's code printed or set aside, content now; "" when that is nothing."""
        if not text:
            return ""
        cid = raw_cid(text)
        await in_store(self.store, lambda: self.store.put(cid, text, owner_of(key)))
        return cid

    async def close(self) -> None:
        """End every runner; nothing is reported any more."""
        await self.background.close()
        for held in self.jobs.values():
            for runner in held.runners:
                await runner.close()


def _for_runner(params: dict[str, Any], node: str) -> dict[str, Any]:
    """A task's parameters as the runner gets them: paths and addresses are not its affair."""
    inputs = [{kind: {name: value for name, value in stream.items() if name != "path"}
               for kind, stream in item.items()} for item in params["inputs"]]
    return {**params, "inputs": inputs, "gateways": {}, "node": node}


def _json(block: bytes) -> Any:
    """A peer's JSON that can be handed on to a runner: in ASCII, up to three times as long as in UTF-8."""
    try:
        value = load(block)
    except ValueError as error:
        raise BadSpec(reason=f"a block is not JSON: {str(error)[:100]}") from None
    size = len(json.dumps(value, separators=(",", ":")))
    if size > MOST_JSON:
        raise BadSpec(reason=f"a block is JSON of {size} bytes; at most {MOST_JSON}")
    return value
