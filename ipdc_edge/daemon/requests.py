"""What the command line asks of the daemon: one method for each operation of the control socket.

Owns the requests' and answers' shapes. Reads the core's state, hands what people want to it as events, and
never changes it otherwise. Clients hand over open descriptors, never paths.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ..core.events import CancelRequested, DrainRequested, LeaveRequested, ResumeRequested
from ..core.life import FINAL
from ..core.values import Json, NodeRecord
from ..drivers.broker_files import client_credentials
from ..drivers.control import ControlChannel
from ..drivers.flash import FLASH
from ..errors import BadRequest, IpdcError, UnknownJob
from .request_fields import text_of, waiting_owner
from .results import LOG_NAME
from .store import IN_KUBO
from .submissions import Submissions

if TYPE_CHECKING:
    from .content import Content
    from .daemon import Daemon

SHOWN_JOBS = 200  # ended jobs that `jobs` lists
WATCH_PAUSE = 0.2  # seconds between two pictures of a running job
MOST_FOLLOWERS = 4  # clients of `follow` at the same time; as many as each worker lets one master have (prints.py)
# operations of content.py
CONTENT = ("add", "add_tree", "cat", "car", "ls", "pin", "unpin", "pins", "gc", "store_stat", "store_verify")
LEAVE_PATIENCE = 5.0  # seconds that the authority has to take a leaving node off the list


class NotTheOwner(IpdcError):
    """Only this node's owner may do that: run it with sudo, or as the user that the daemon runs as."""


class UnknownTask(IpdcError):
    """Nothing is known of a task {task} of job {id}. `ipdc-edge story {id}` names those that something is known of."""


class TooManyFollow(IpdcError):
    """{count} follow what jobs of this node print already, and each costs the nodes a connection. End one of them"""

    retry = True


class Ending(IpdcError):
    """The daemon is about to end: it takes no work already. What shall be after its next start can be said then."""

    retry = True


class Requests:
    """Answers requests; `handle` is the control server's handler."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.submissions = Submissions(daemon)
        self._of_content: Content | None = None
        self.followers = 0

    async def handle(
        self, request: dict[str, object], fds: list[int], channel: ControlChannel
    ) -> dict[str, object] | None:
        """The answer to one request; None where data was streamed instead."""
        name = str(request["operation"])[:40]
        operation = getattr(self, "_do_" + name, None) or (getattr(self._content(), name) if name in CONTENT else None)
        if operation is None:
            raise BadRequest(reason=f"unknown operation {name!r}; is the daemon older than the command?")
        answer: dict[str, object] | None = await operation(request, fds, channel)
        return answer

    def _content(self) -> Content:
        from .content import Content  # rarely needed

        if self._of_content is None:
            self._of_content = Content(self.daemon)
        return self._of_content

    # -- jobs

    async def _do_submit(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        return await self.submissions.submit(request.get("spec"), waiting_owner(request), channel.send)

    def _view(self, job: str) -> dict[str, object]:
        master = self.daemon.node.masters.get(job)
        view = master.view() if master is not None else self.daemon.ledger.ended(job)
        if view is None:
            raise UnknownJob(id=job)
        return self.daemon.results.complete(view)

    async def _do_status(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        return self._view(text_of(request, "id"))

    async def _do_jobs(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon = self.daemon
        views = {str(view["id"]): view for view in await asyncio.to_thread(daemon.ledger.ended_jobs, SHOWN_JOBS)}
        views.update({job: master.view() for job, master in daemon.node.masters.items()})
        return {"jobs": [daemon.results.complete(views[job]) for job in sorted(views)]}

    async def _do_mqtt_client(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """How this node's programs speak with its broker, to ask served models."""
        user, password = client_credentials(self.daemon.home)
        return {"port": self.daemon.settings.local_port, "user": user, "password": password}

    async def _do_watch(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """A picture of the job whenever it changed, the last one as the answer: an end that no power cut takes back."""
        job, shown, due = text_of(request, "id"), None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            change = self.daemon.change
            master = self.daemon.node.masters.get(job)
            if master is None or master.state in FINAL:
                if master is not None:
                    await self.daemon.durable()
                return self._view(job)
            wait = due - loop.time()
            if wait <= 0:  # a picture costs time with the number of tasks: not one for every event
                view = self._view(job)
                if view != shown:
                    await channel.send(view)
                shown, due, wait = view, loop.time() + WATCH_PAUSE, WATCH_PAUSE
            await asyncio.wait([change], timeout=wait)

    async def _do_cancel(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        job = text_of(request, "id")
        self._view(job)
        self.daemon.ask(CancelRequested(job))
        await self.daemon.durable()
        return {"id": job, "state": self._view(job)["state"]}

    async def _do_logs(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        job = text_of(request, "id")
        view = self._view(job)
        directory = os.path.join(self.daemon.results.directory(job), "log")
        failure = view.get("failure")
        tasks = await asyncio.to_thread(_logs, directory)
        return {"id": job, "state": view["state"], "directory": directory if tasks else None, "tasks": tasks,
                "failure": failure}

    async def _do_follow(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """What the job's tasks print, as it comes; how the job ended as the answer."""
        from .following import Following  # rarely needed

        job = text_of(request, "id")
        self._view(job)
        if self.followers >= MOST_FOLLOWERS:
            raise TooManyFollow(count=self.followers)
        self.followers += 1
        try:
            await Following(self.daemon, job).run(channel.send)
        finally:
            self.followers -= 1
        return self._view(job)

    async def _do_story(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """What was told of a job; of a task what was told of it, and of the job by the same causes."""
        job, task = text_of(request, "id"), str(request.get("task") or "")
        view = self._view(job)
        facts, left_out = self.daemon.ledger.stories.story(job)
        if task:
            causes = {fact.cause for fact in facts if fact.task == task}
            master = self.daemon.node.masters.get(job)
            if not causes and (master is None or task not in master.tasks.states):
                raise UnknownTask(task=task, id=job)
            facts = [fact for fact in facts if fact.task == task or (not fact.task and fact.cause in causes)]
        return {"id": job, "task": task or None, "state": view["state"], "left_out": left_out,
                "facts": [fact._asdict() for fact in facts]}

    # -- the node and its domain

    async def _do_nodes(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        membership = self.daemon.node.membership
        await self.daemon.look()
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
            "temperature": vitals.temperature, "throttled": vitals.throttled, "undervoltage": vitals.undervoltage,
            "throttled_before": vitals.throttled_before, "undervoltage_before": vitals.undervoltage_before,
            "architecture": record.architecture, "store": "kubo" if IN_KUBO in record.capabilities else "embedded",
            "unable": list(record.unable),
            "slots": record.slots, "sandbox": record.sandbox, "version": record.version,
            "portal": record.id in self.daemon.node.membership.portals, "self": record.id == self.daemon.id,
        }

    async def _do_packages(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Something was installed for jobs, or taken away: looks anew, and says what there is now."""
        _owner(channel)
        self.daemon.offer.look()
        return {"capabilities": list(self.daemon.offer.capabilities()), "unable": list(self.daemon.offer.unable())}

    async def _do_drain(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """This node takes no more work, or with `off` takes it again: what is so then. With `wait` once more when
        nothing runs here any more, or when somebody wants work here again."""
        _owner(channel)
        daemon = self.daemon
        if daemon.stopped.is_set():
            raise Ending
        daemon.ask(ResumeRequested() if request.get("off") else DrainRequested(lasting=True))
        await daemon.durable()
        if request.get("wait"):
            await channel.send(self._work())
            while not daemon.node.idle() and daemon.node.membership.own.state == "draining":
                await asyncio.wait([daemon.change])
        return self._work()

    def _work(self) -> dict[str, object]:
        """What this node does for others and for itself."""
        node = self.daemon.node
        return {
            "name": self.daemon.settings.name, "state": node.membership.own.state,
            "tasks": sum(len(worker.tasks) for worker in node.workers.values()),
            "held_jobs": len(node.workers), "own_jobs": sum(job.state not in FINAL for job in node.masters.values()),
        }

    async def _do_domain(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """The domain and its members; also whether the own broker answers, where that is asked for."""
        own, members = self.daemon.domain.identity, self.daemon.domain.members
        broker = {"broker": self.daemon.mqtt.own.connected} if request.get("broker") else {}
        return broker | {
            "domain": members.domain, "authority": members.authority, "version": members.version, "id": own.id,
            "alone": own.alone, "has_authority": own.has_authority, "members": [
                {"id": member.id, "name": member.name, "portal": member.portal, "memory": member.memory,
                 "self": member.id == own.id} for member in members.members],
        }

    async def _do_invite(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        _owner(channel)
        return await self.daemon.invitations.invite(str(request.get("address") or ""))

    async def _do_domain_changed(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        _owner(channel)
        restarts = await self.daemon.domain.changed()
        return {"restarts": restarts, "broker": "reloaded" if not restarts else "restarts" if self.daemon.supervised
                else "start it again"}

    async def _do_swarm_key(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Ask the others for the newest key of the Kubo nodes' network: whether there is one here now. Never shows
        it."""
        _owner(channel)
        return {"here": await self.daemon.kubo().renewed()}

    async def _do_leave(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        """Ask to be taken off the list, and wait a moment for the list that says so."""
        _owner(channel)
        daemon = self.daemon
        daemon.domain.leaving = True
        try:
            async with asyncio.timeout(LEAVE_PATIENCE):
                await self.daemon.look()  # who holds the authority's key stands in the records
                daemon.ask(LeaveRequested())
                while daemon.domain.admits(daemon.id):
                    await asyncio.wait([daemon.change])
        except TimeoutError:
            return {"told": False}
        return {"told": True}

    async def _do_counters(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        daemon = self.daemon
        return {
            "gateway": dict(daemon.gateway.counters), "fetched": dict(daemon.fetcher.counters),
            "messages": dict(daemon.mqtt.counters), "store": daemon.store.stat(), "owners": daemon.store.owners(),
            "commits": daemon.ledger.commits, "events": daemon.node.handled,
            "written_bytes": FLASH.written, "fsyncs": FLASH.fsyncs,
            "held_jobs": [worker.view() for worker in daemon.node.workers.values()],
        }

    async def _do_doctor(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        from . import doctor  # rarely needed

        return await doctor.checks(self.daemon)

    async def _do_leftovers(self, request: Json, fds: list[int], channel: ControlChannel) -> dict[str, object]:
        from . import leftovers  # likewise

        return await leftovers.domain(self.daemon)


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


def _owner(channel: ControlChannel) -> None:
    """Nobody but root and the daemon's own user changes what the node belongs to."""
    if channel.uid not in (0, os.geteuid()):
        raise NotTheOwner
