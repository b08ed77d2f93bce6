"""What a job's tasks print, wherever they run, while they run: the master's side of `ipdc-edge logs -f`.

Owns the readers of the workers' streams (daemon/prints.py) for one client, and what it was told already. An attempt
that ended before is told from the job's files, so is what a stream missed. Bounded: a client that does not read loses
what is oldest, and is told how much. Nothing of it is written to a disk, and nothing of the job depends on it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..codec.prints import MOST_COUNT, MOST_LINE, BadPrint, Lost, parse
from ..core.life import FINAL
from ..core.values import Attempt, JobKey
from ..drivers.gateway import PRINTS, TOO_MANY
from ..drivers.prints import OUTPUT_KEPT
from ..drivers.provider import ANSWERED, Provider, ProviderFault, ProviderPool
from .results import LOG_NAME, MOST_LOG

if TYPE_CHECKING:
    from ..core.master import Master
    from .daemon import Daemon

MOST_NODES = 32  # whose streams are read at the same time; what others print is told when their tasks have ended
MOST_WAITING = 256 << 10  # characters that wait for the client
PATIENCE = 10.0  # seconds without a sign of life of a node
LOOK_AGAIN = 1.0  # seconds between two looks at who works and at what has ended
LATE = 3.0  # seconds that the end of a job waits for the last words
ELIDED = re.compile(rb"\n\.\.\. (\d{1,15}) bytes left out \.\.\.\n")  # drivers/prints.py

Told = Callable[[dict[str, object]], Awaitable[None]]


class Following:
    """One client, one job."""

    def __init__(self, daemon: Daemon, job: str) -> None:
        self.daemon, self.job = daemon, job
        self.seen: dict[tuple[str, Attempt], int] = {}  # bytes that were told of what an attempt printed
        self.filed: set[str] = set()  # names of files that were looked at
        self.readers: dict[str, asyncio.Task[None]] = {}
        self.waiting: deque[dict[str, Any]] = deque()
        self.refusing: set[str] = set()  # nodes that do not let us follow
        self.notes: deque[dict[str, object]] = deque()  # of these, that wait for the client
        self.size = self.lost = 0
        self.woken = asyncio.Event()

    async def run(self, tell: Told) -> None:
        """Until the job is over and all that it printed was told."""
        loop, due = asyncio.get_running_loop(), 0.0
        hooked: asyncio.Future[None] | None = None
        try:
            while (master := self._master()) is not None:
                if loop.time() >= due:
                    due = loop.time() + LOOK_AGAIN
                    self._read_all(master)
                    await self._files(tell)
                if self.daemon.change is not hooked:
                    hooked = self.daemon.change
                    hooked.add_done_callback(lambda _: self.woken.set())
                await self._more(due)
                await self._tell(tell)
            until = loop.time() + LATE
            for reader in self.readers.values():
                reader.add_done_callback(lambda _: self.woken.set())
            while any(not reader.done() for reader in self.readers.values()) and loop.time() < until:
                await self._more(until)
                await self._tell(tell)
            await self.daemon.durable()  # by then what the last reports brought is on its way into files
            writing = list(self.daemon.results.writing.get(self.job, ()))
            if writing:
                await asyncio.wait(writing, timeout=LATE)
            await self._tell(tell)
            await self._files(tell)
        finally:
            for reader in self.readers.values():
                reader.cancel()
            await asyncio.gather(*self.readers.values(), return_exceptions=True)

    def _master(self) -> Master | None:
        """The job's, while it is not over."""
        master = self.daemon.node.masters.get(self.job)
        return None if master is None or master.state in FINAL else master

    async def _more(self, until: float) -> None:
        """Until something waits, or may have changed, or that time."""
        self.woken.clear()
        if not self.waiting and not self.lost and not self.notes:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self.woken.wait()

    async def _tell(self, tell: Told) -> None:
        """What waits for the client."""
        while self.notes:
            await tell(self.notes.popleft())
        while self.lost or self.waiting:
            if self.lost:  # before what is newer
                lost, self.lost = self.lost, 0
                await tell({"lost": lost})
            else:
                told = self.waiting.popleft()
                self.size -= len(told["text"])
                await tell(told)

    def _add(self, task: str, attempt: Attempt, node: str, text: str) -> None:
        """`node` is a name, "" where it is not known."""
        self.waiting.append({"task": task, "attempt": [*attempt], "node": node or None, "text": text})
        self.size += len(text)
        while self.size > MOST_WAITING:
            oldest = self.waiting.popleft()
            self.size -= len(oldest["text"])
            self.lost += len(oldest["text"])
        self.woken.set()

    # -- the workers' streams

    def _read_all(self, master: Master) -> None:
        """Everybody who works on the job is read, as far as there are places."""
        self.readers = {node: reader for node, reader in self.readers.items() if not reader.done()}
        for participant in master.participants.by_node.values():
            if len(self.readers) >= MOST_NODES:
                return
            if participant.held and participant.node not in self.readers:
                self.readers[participant.node] = asyncio.get_running_loop().create_task(self._read(participant.node))

    async def _read(self, node: str) -> None:
        """One node, until it does nothing for the job any more, or cannot be read: then it is tried again."""
        if node == self.daemon.id:
            lines = self.daemon.tasks.prints().stream(JobKey(node, self.job))
            if lines is None:
                return self._refuses(node, TOO_MANY)
        else:
            provider = Provider(node, self.daemon.gateway_of(node))
            pool = ProviderPool(provider, self.daemon.mqtt.context, PATIENCE)
            lines = pool.lines(f"{PRINTS}?job={self.job}", MOST_LINE)  # type: ignore[assignment]
        try:
            async for line in lines:
                self._heard(node, line)
        except ProviderFault as error:
            if str(error).startswith(ANSWERED):
                self._refuses(node, str(error))
            return
        finally:
            await lines.aclose()

    def _refuses(self, node: str, why: str) -> None:
        """It is asked again and again; the client is told once."""
        master = self.daemon.node.masters.get(self.job)
        if master is not None and node not in self.refusing:
            self.refusing.add(node)
            self.notes.append({"node": master.participants.name(node), "refused": why})
            self.woken.set()

    def _heard(self, node: str, line: bytes) -> None:
        """A line of a node's stream. It counts only for attempts that were that node's."""
        try:
            value = parse(line)
        except BadPrint:
            return
        master = self.daemon.node.masters.get(self.job)
        if isinstance(value, Lost):
            self.lost += value.size
            self.woken.set()
        elif value is not None and master is not None:
            state, end = master.tasks.states.get(value.task), value.at + value.size
            if state is None or state.issued.get(value.attempt) != node:
                return
            if end > self.seen.get((value.task, value.attempt), 0):
                self.seen[value.task, value.attempt] = end
                self._add(value.task, value.attempt, master.participants.name(node), value.text)

    # -- the job's files

    async def _files(self, tell: Told) -> None:
        """What attempts that have ended printed, as far as nobody was told."""
        directory = os.path.join(self.daemon.results.directory(self.job), "log")
        for name in await asyncio.to_thread(_listed, directory):
            found = LOG_NAME.fullmatch(name)
            if found is None or name in self.filed:
                continue
            text = await asyncio.to_thread(_read, os.path.join(directory, name))
            if text is None:
                continue
            self.filed.add(name)
            self._file(found[1], Attempt(int(found[2]), int(found[3])), text)
            await self._tell(tell)  # files wait for a client that does not read

    def _file(self, task: str, attempt: Attempt, text: bytes) -> None:
        seen = self.seen.get((task, attempt), 0)
        master = self.daemon.node.masters.get(self.job)
        state = master.tasks.states.get(task) if master is not None else None
        node = ""
        if master is not None and state is not None and attempt in state.issued:
            node = master.participants.name(state.issued[attempt])
        if seen and state is not None and attempt in state.failed:  # its file begins with why; the rest was told
            why, _, rest = text.partition(b"\n")  # core/views.py, failure_view
            text = text.partition(b"\n\n")[0] if rest.startswith(b"Traceback") else why
        else:
            self.seen[task, attempt] = MOST_COUNT  # what a slow stream still brings was in the file
            elided = ELIDED.match(text, OUTPUT_KEPT)
            if seen and elided is not None:  # the rest of the first bytes, and of the last
                last = OUTPUT_KEPT + int(elided[1])
                self.lost += max(0, last - max(seen, OUTPUT_KEPT))
                text = text[min(seen, OUTPUT_KEPT) : OUTPUT_KEPT] + text[elided.end() + max(0, seen - last) :]
            else:
                text = text[seen:]
        if text:
            self._add(task, attempt, node, text.decode("utf-8", "replace"))


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory), key=lambda name: (os.stat(os.path.join(directory, name)).st_mtime, name))
    except OSError:
        return []


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_LOG)
    except OSError:
        return None
