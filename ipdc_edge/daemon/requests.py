"""What the command line asks of the daemon: one method for each operation of the control socket.

Owns the requests' and answers' shapes. Reads the core's state, hands what people want to it as events, and
never changes it otherwise. Clients hand over open descriptors, never paths.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..codec import frames
from ..codec.bundle import bundle_items
from ..codec.cid import raw_cid
from ..codec.control import parse_block
from ..core.events import CancelRequested, JobSubmitted, Save, WatchRequested
from ..core.master import FINAL
from ..core.node import spec_of
from ..core.values import JobSpec, Json, NodeRecord
from ..drivers.control import ControlChannel
from ..errors import BadRequest, UnknownJob

if TYPE_CHECKING:
    from .daemon import Daemon

SUBMISSION = re.compile(r"[0-9a-f]{16}")  # names content that waits for its job; drawn by the client
SUBMITTED = "submit-"  # begins the owner of such content
SUBMISSION_LASTS = 3600.0  # seconds that content waits for its job
SHOWN_JOBS = 200  # ended jobs that `jobs` lists
WATCH_PAUSE = 0.2  # seconds between two pictures of a running job
LOG_NAME = re.compile(r"([a-z0-9-]+)\.(\d+)\.(\d+)\.txt")
MOST_PROVIDERS = 16  # peers asked for content that is not here


class Requests:
    """Answers requests; `handle` is the control server's handler."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def handle(
        self, request: dict[str, object], fds: list[int], channel: ControlChannel
    ) -> dict[str, object] | None:
        """The answer to one request; None where data was streamed instead."""
        name = str(request["operation"])[:40]
        operation = getattr(self, "_do_" + name, None)
        if operation is None:
            raise BadRequest(reason=f"unknown operation {name!r}; is the daemon older than the command?")
        answer: dict[str, object] | None = await operation(request, fds, channel)
        return answer

    # -- content

    async def _do_add(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        if len(fds) != 1:
            raise BadRequest(reason=f"add needs one descriptor, not {len(fds)}")
        root = _text(request, "root")
        owner = "user" if request.get("keep") else _waiting(request)
        if owner != "user":  # a submission that never comes is not kept for ever; released twice does no harm
            self.daemon.loop.call_later(SUBMISSION_LASTS, self.daemon.store.release, owner)
        upload = self.daemon.store.new_import(owner)
        try:
            while True:
                kind, payload = await channel.receive()
                if kind == frames.END:
                    break
                if kind != frames.BLOCK:
                    raise BadRequest(reason=f"a frame {frames.NAMES[kind]} while blocks are added")
                upload.add(*parse_block(payload))
            copy = bool(request.get("copy"))
            descriptor = os.dup(fds[0])  # the thread may outlive the connection
            try:
                stored = await asyncio.to_thread(upload.finish, descriptor, root, copy)
            finally:
                os.close(descriptor)
        finally:
            upload.discard()
        return {"cid": root, "size": request.get("size"), "stored": stored}

    async def _do_cat(self, request: Json, fds: list[int], channel: ControlChannel) -> None:
        peers = self.daemon.node.membership.peers.values()
        providers = [peer.record.gateway for peer in peers if peer.alive()][:MOST_PROVIDERS]
        async for _, data in self.daemon.fetcher.file_blocks(_text(request, "cid"), 0, 1 << 62, providers):
            await channel.send_data(data)

    # -- jobs

    async def _do_submit(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon, wanted = self.daemon, request.get("spec")
        if not isinstance(wanted, dict):
            raise BadRequest(reason="submit without a job's description")
        owner = _waiting(request)
        try:
            spec = await self._stored_spec(wanted, owner)
            effects = daemon.ask(JobSubmitted(time.strftime("%Y%m%d-%H%M%S", time.gmtime(daemon.now())), spec))
        except BaseException:
            daemon.store.release(owner)
            raise
        job = next(effect.key for effect in effects if isinstance(effect, Save) and effect.kind == "job")
        daemon.store.transfer(owner, job)
        await daemon.durable()
        return {"id": job}

    async def _stored_spec(self, wanted: dict[str, Any], owner: str) -> JobSpec:
        """The job's description, completed, checked, and kept as content."""
        daemon = self.daemon
        body = {"version": 1, "memory": daemon.settings.runner_memory, **wanted}
        for item in body.get("inputs") or ():
            if isinstance(item, dict) and item.get("size") is None:
                item["size"] = await daemon.fetcher.file_size(_text(item, "cid"), [])
        block = json.dumps(body, separators=(",", ":")).encode()
        spec = spec_of(raw_cid(block), body)
        bundle_items(body)
        daemon.store.put(spec.cid, block, owner, durable=True)
        return spec

    def _view(self, job: str) -> dict[str, object]:
        master = self.daemon.node.masters.get(job)
        view = master.view() if master is not None else self.daemon.ledger.ended(job)
        if view is None:
            raise UnknownJob(id=job)
        return self.daemon.results.complete(view)

    async def _do_status(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        return self._view(_text(request, "id"))

    async def _do_jobs(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon = self.daemon
        views = {str(view["id"]): view for view in await asyncio.to_thread(daemon.ledger.ended_jobs, SHOWN_JOBS)}
        views.update({job: master.view() for job, master in daemon.node.masters.items()})
        return {"jobs": [daemon.results.complete(views[job]) for job in sorted(views)]}

    async def _do_watch(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """A picture of the job whenever it changed, the last one as the answer."""
        job, shown, due = _text(request, "id"), None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            change = self.daemon.change
            master = self.daemon.node.masters.get(job)
            if master is None or master.state in FINAL:
                return self._view(job)
            wait = due - loop.time()
            if wait <= 0:  # a picture costs time with the number of tasks: not one for every event
                view = self._view(job)
                if view != shown:
                    await channel.send(view)
                shown, due, wait = view, loop.time() + WATCH_PAUSE, WATCH_PAUSE
            await asyncio.wait([change], timeout=wait)

    async def _do_cancel(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        job = _text(request, "id")
        self._view(job)
        self.daemon.ask(CancelRequested(job))
        await self.daemon.durable()
        return {"id": job, "state": self._view(job)["state"]}

    async def _do_logs(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        job = _text(request, "id")
        view = self._view(job)
        directory = os.path.join(self.daemon.results.directory(job), "log")
        failure = view.get("failure")
        tasks = await asyncio.to_thread(_logs, directory)
        return {"id": job, "directory": directory if tasks else None, "tasks": tasks, "failure": failure}

    # -- the node and its domain

    async def _do_nodes(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon = self.daemon
        daemon.ask(WatchRequested())
        membership = daemon.node.membership
        while not membership.knows_the_domain(daemon.now()):
            await asyncio.wait([daemon.change])  # not awaited itself: a client that leaves must not cancel it
        peers = [self._node(peer.record, peer.alive()) for peer in membership.peers.values()]
        own = self._node(membership.own, True)
        return {"nodes": sorted([own, *peers], key=lambda node: (str(node["name"]), str(node["id"])))}

    def _node(self, record: NodeRecord, alive: bool) -> dict[str, object]:
        vitals = record.vitals
        return {
            "id": record.id, "name": record.name, "state": record.state if alive else "lost", "address": record.mqtt,
            "gateway": record.gateway, "capabilities": list(record.capabilities), "memory_total": vitals.memory_total,
            "memory_available": vitals.memory_available, "cpu_count": vitals.cpu_count, "cpu_idle": vitals.cpu_idle,
            "load": vitals.load, "speed": vitals.speed, "disk_free": vitals.disk_free,
            "temperature": vitals.temperature, "throttled": vitals.throttled,
            "slots": record.slots, "sandbox": record.sandbox, "version": record.version,
            "portal": record.mqtt in self.daemon.mqtt.portals, "self": record.id == self.daemon.id,
        }

    async def _do_counters(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon = self.daemon
        return {
            "gateway": dict(daemon.gateway.counters), "fetched": dict(daemon.fetcher.counters),
            "messages": dict(daemon.mqtt.counters), "store": daemon.store.stat(), "owners": daemon.store.owners(),
            "commits": daemon.ledger.commits, "events": daemon.node.handled,
            "held_jobs": [worker.view() for worker in daemon.node.workers.values()],
        }

    async def _do_doctor(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon, checks = self.daemon, []

        def check(name: str, ok: bool | None, detail: str, advice: str = "") -> None:
            checks.append({"check": name, "ok": ok, "detail": detail, "advice": "" if ok else advice})

        own = daemon.mqtt.own
        check("broker", own.connected, f"{own.address} {'connected' if own.connected else 'does not answer'}",
              "start it: ipdc-edge broker (or ipdc-edge run --with-broker)")
        for portal, link in daemon.mqtt.portals.items():
            if link is not own:
                state = "connected" if link.connected else "does not answer"
                check("portal", link.connected or None, f"{portal} {state}",
                      f"is that node up? `portals` in {daemon.home.conf} names it")
        stat = daemon.store.stat()
        check("store", stat["lost"] == 0, f"{stat['blocks']} blocks, {stat['bytes']} of {stat['quota']} bytes",
              f"{stat['lost']} blocks were found damaged: is the disk failing? Add what was lost again")
        sandbox = daemon.node.membership.own.sandbox
        check("sandbox", None if sandbox == "rlimits" else True, sandbox,
              "the user's code is held by resource limits only: run jobs of people you trust")
        memory = daemon.node.membership.own.vitals.memory_available
        need = daemon.settings.runner_memory
        check("memory", memory >= need, f"{memory >> 20} MB available, a runner takes {need >> 20}",
              "this node refuses work until there is more; end other programs or lower runner_memory")
        return {"checks": checks}


def _logs(directory: str) -> list[dict[str, object]]:
    """What lies in a job's log directory, by task and attempt."""
    found = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for name in names:
        parts = LOG_NAME.fullmatch(name)
        if parts:
            with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
                text = file.read(128 << 10)
            found.append({"task": parts[1], "attempt": [int(parts[2]), int(parts[3])], "log": text})
    return found


def _waiting(request: Mapping[str, Any]) -> str:
    """The owner of content that waits for its job."""
    submission = _text(request, "submission")
    if not SUBMISSION.fullmatch(submission):
        raise BadRequest(reason=f"submission {submission[:40]!r}")
    return SUBMITTED + submission


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise BadRequest(reason=f"no {name}")
    return value
