"""The worker's side of the daemon: fetches jobs, feeds attempts to runners, makes their output content.

Owns the runners of the jobs that this node holds, and what becomes of an attempt. Decides nothing: the core
orders by effects, outcomes go back as events. What masters have of the jobs is got by `job_source`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..codec.answers import RunnerBroken
from ..codec.answers import TaskFailed as RunnerTaskFailed
from ..codec.bundle import bundle_items
from ..codec.cid import BadCid, raw_cid
from ..codec.messages import CONTROL
from ..codec.unixfs import BadNode
from ..core.architecture import Architecture, BadSpec
from ..core.effects import FetchJob, FreeJob, StartTask, StopTask
from ..core.events import Event, JobFetched, JobFetchFailed, TaskFailed, TaskFinished, TaskProgressed
from ..core.values import Attempt, Failure, JobKey, JobSpec, Result
from ..drivers.block_reading import in_store
from ..drivers.block_rows import IndexFailed, KuboFailed
from ..drivers.blocks import BlockStore
from ..drivers.fetcher import BlockUnavailable, Fetcher, FileTooBig, NoFile
from ..drivers.flash import FLASH
from ..drivers.input_cache import InputCache
from ..drivers.refusals import Refusals
from ..drivers.runner import Runner, RunnerDied
from ..drivers.sandbox import Sandbox
from ..drivers.tensorflow import Absent, Found
from ..errors import IpdcError
from .attempt_words import Aside, Progress, fitting, message
from .background import Background, note, report_bug
from .job_source import JobSource, json_of, owner_of
from .local_inputs import LocalInputs
from .streams import FetchFailed, Inputs, Outputs, OutputTooBig, check_params, is_cid

if TYPE_CHECKING:
    from .prints import Prints
    from .serving import Serving
    from .tunnels import End, Tunnels

FULL_PAUSE = 2.0  # seconds between two tries to let content go on a full disk
FETCH_PAUSE = 2.0  # seconds before a worker says that content cannot be had: its node may be back by then
BLAMED = (BadSpec, BadCid, BadNode, BlockUnavailable, FileTooBig, NoFile)  # faults of whoever gave what we work on
BLAME = {OutputTooBig.__name__: "hopeless", "NotAlone": "node"}  # what a runner tells that is not the user's fault
MOST_TOLD = 500  # characters of a line for the journal about what a peer gave
LEAST_OUTPUT, MOST_GROWTH = 1 << 30, 64  # bytes that any task may write, and for each byte that it has read
ROOM_OF_ROLE, MUCH_MORE = 64 << 30, 4  # bytes that a role may map (8 MB a thread), and for each that it may use
MOST_TOLD_OF_RESULT = 11_000  # bytes of a result's details; they travel in one message with the rest


class NoPlaceForRoles(IpdcError):
    """this node has no TensorFlow any more, or no sandbox with a network of its own"""


def _none() -> Tunnels:
    raise NoPlaceForRoles


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
        self.kept: dict[str, list[int]] = {}  # spill files of tasks that go on where they were; apps/tensorflow/kept.py
        self.turns: dict[str, asyncio.Lock] = {}  # of roles, by task

    def spills(self, task: str, architecture: Architecture) -> list[int] | None:
        """The spill files of a task that finds them as it left them, to be filled; None for one that does not. A master
        that orders what its own job does not have gets none: they stay open."""
        if not architecture.resumes(self.spec) or all(task != known.id for known in architecture.plan(self.spec)):
            return None
        return self.kept.setdefault(task, [])

    def close(self) -> None:
        """Nothing of the job runs any more."""
        while self.kept:
            for descriptor in self.kept.popitem()[1]:
                os.close(descriptor)


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
        self.source = JobSource(node_id, store, fetcher, architectures, gateway_of)
        self.tensorflow: Found | Absent = Absent("")
        self.tunnels: Callable[[], Tunnels] = lambda: _none()
        self.serving: Callable[[], Serving]  # set by the daemon
        self.refusals = Refusals(note)
        self.jobs: dict[JobKey, HeldCode] = {}
        self.printing: dict[tuple[JobKey, Attempt], tuple[str, Runner]] = {}  # attempts at work
        self._prints: Prints | None = None
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
            releasing = self.releasing.get(effect.key)
            if releasing is not None:  # it was freed a moment ago: what that releases has the same owner
                await asyncio.wait([releasing])
            spec = await self.source.spec(effect.key, effect.cid)
            held = await self.source.held(effect.key, spec)
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
        if self._prints is not None:
            self._prints.wake(effect.key)
        releasing = self.background.start(self._release(effect.key, running, held))
        self.releasing[effect.key] = releasing

    async def _release(self, key: JobKey, running: list[asyncio.Task[None]], held: HeldCode | None) -> None:
        """The store lets go once nothing writes for the job any more."""
        try:
            try:
                await asyncio.gather(*running, return_exceptions=True)
            finally:  # cancelled too, where the daemon ends: nobody else knows of it any more
                if held is not None:
                    held.close()
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
            result = await self._in_turn(effect)
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

    async def _in_turn(self, effect: StartTask) -> Result:
        """A role's attempts, one after the other: two at once would have the same kept files, and the same way in."""
        held = self.jobs[effect.key]
        if not self.architectures[held.spec.app].cluster:
            return await self._run(effect)
        async with held.turns.setdefault(effect.task, asyncio.Lock()):
            return await self._run(effect)

    async def _run(self, effect: StartTask) -> Result:
        key, held = effect.key, self.jobs[effect.key]
        if self.architectures[held.spec.app].lasts:
            from .place_keeper import keep  # rarely needed

            return await keep(self, effect, held)
        params: Any = effect.params
        if "/" in params:  # too long for a message
            if not is_cid(params["/"]):
                raise BadSpec(reason="the parameters of a task are named by what is no CID")
            params = json_of(await self.source.block(key, params["/"]))
        check_params(params)
        params = await self.local.expanded(params)
        inputs = Inputs(self.fetcher, self.local, params, self.cache)
        most = output_limit(held.spec)
        try:
            outputs = Outputs(self.store, owner_of(key), params,
                              lambda: most or max(LEAST_OUTPUT, inputs.bytes * MOST_GROWTH))
            try:
                runner = await self.runner(key, held, effect.task)
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
        self.printing[key, effect.attempt] = effect.task, runner
        if self._prints is not None:
            self._prints.begin(key, effect.attempt, effect.task, runner)
        try:
            told_params = _for_runner(params, self.node_name)
            if runner.tunnels is not None:
                end = self._speaks(effect, held, runner)
                told_params["python"] = self.tensorflow.python if isinstance(self.tensorflow, Found) else ""
                told_params["network"] = os.readlink("/proc/self/ns/net")
            if end is None:
                done = await runner.run(
                    effect.task, told_params, inputs.read, outputs.write, progress.report, aside.add)
            else:
                from .tunnels import while_heard, written_for

                done = await while_heard(end, runner.run(
                    effect.task, told_params, inputs.read, written_for(end, outputs.write), progress.report, aside.add))
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
            keep = runner.alive and end is None and self.jobs.get(key) is held
            try:
                if not keep:
                    await runner.close()
            finally:
                del self.printing[key, effect.attempt]
                if self._prints is not None:
                    self._prints.end(key, effect.attempt)
            if keep:
                self._keep(held, runner)
        details: dict[str, Any] = {name: found for name, found in kept.items() if found}
        details |= {"counters": done["counters"], "user_counters": done["user_counters"], "read": inputs.bytes}
        outputs_told = [stream["bytes"] for stream in done["streams"]]
        if len(json.dumps([details, outputs_told])) <= MOST_TOLD_OF_RESULT:
            details["outputs"] = outputs_told
        return Result(self.node_id, cid, size, details)

    def prints(self) -> Prints:
        """What those hear who follow the jobs that are here."""
        if self._prints is None:
            from .prints import Prints  # rarely needed

            self._prints = Prints(self.printing, lambda key: key in self.jobs or key in self.fetching or any(
                job == key for job, _ in self.printing))
        return self._prints

    def _keep(self, held: HeldCode, runner: Runner) -> None:
        """A runner waits for the next task of its job; no more of them than slots, whatever the number of jobs."""
        held.runners.append(runner)
        idle = [(other, waiting) for other in self.jobs.values() for waiting in other.runners]
        if len(idle) > self.slots:
            other, oldest = next((pair for pair in idle if pair[0] is not held), idle[0])
            other.runners.remove(oldest)
            self.background.start(oldest.close())

    async def runner(self, key: JobKey, held: HeldCode, task: str) -> Runner:
        while held.runners:
            waiting = held.runners.pop()
            if waiting.alive:
                return waiting
            await waiting.close()
        code = [(name, size, self.source.code(key, cid, size)) for name, cid, size in bundle_items(held.spec.body)]
        architecture = self.architectures[held.spec.app]
        runner, memory = self._new_runner(architecture), 0
        if architecture.cluster:  # its programs map much more than they use; they are watched from within
            memory = ROOM_OF_ROLE + MUCH_MORE * held.spec.memory
        try:
            begins = runner.start(
                dict(held.spec.body), code, architecture.module, key.job, architecture.cluster, memory,
                architecture.mapped, held.spills(task, architecture))
            if not architecture.cluster:
                await begins
            else:
                from .tunnels import started

                await started(begins, task)
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
            held.close()


def _for_runner(params: dict[str, Any], node: str) -> dict[str, Any]:
    """A task's parameters as the runner gets them: paths and addresses are not its affair."""
    inputs = [{kind: {name: value for name, value in stream.items() if name != "path"}
               for kind, stream in item.items()} for item in params["inputs"]]
    return {**params, "inputs": inputs, "gateways": {}, "node": node}
