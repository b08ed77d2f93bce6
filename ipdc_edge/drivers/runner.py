"""A runner as the daemon sees it: give it a job and tasks, feed it, hear from it, end it.

Owns the conversation over its one socket, its prints and its spill files. Never runs user code here, never decides
what a failure means, and trusts nothing that the runner says: it may be the user's code that writes on the socket.
Kinds of runners differ in how the process comes and goes, and share the rest: a child under rlimits
(`runner_child`), one in bubblewrap (`bubblewrap`), a unit of systemd's (`runner_unit`).

A runner serves one job and any number of tasks, one at a time. When a task is cancelled, or one of its callbacks
fails, the process is in the middle of something and of no more use: it is killed, `alive` says so, start another.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from typing import TYPE_CHECKING

from ipdc_edge.codec import frames
from ipdc_edge.codec.answers import RunnerBroken, TaskFailed, parse_aside, parse_done, parse_failed, parse_progress
from ipdc_edge.codec.open_file import ELF, not_held
from ipdc_edge.drivers.flash import FLASH
from ipdc_edge.drivers.prints import Output
from ipdc_edge.drivers.runner_socket import Gone, RunnerSocket
from ipdc_edge.drivers.scratch import file_size, require_room, unnamed_file, write_all
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Any

    Code = list[tuple[str, int, AsyncIterator[bytes]]]

    Read = Callable[[int], Awaitable[bytes | None]]
    Write = Callable[[int, bytes], Awaitable[None]]
    Progress = Callable[[dict[str, Any]], None]
    Aside = Callable[[dict[str, Any]], None]

RUNNERS: weakref.WeakSet[Runner] = weakref.WeakSet()  # of this process; drivers/leftovers.py asks which there are
LEAVE_WITHIN = 2.0  # seconds between CLOSE and SIGKILL
WATCH_AGAIN = 0.1  # seconds until it is tried again to watch a process, where there was no descriptor for it


class RunnerDied(IpdcError):
    """the runner's process ended by itself ({how}){output}"""  # how: "exit status 3", "signal SIGKILL"

    retry = True


class Runner:
    """What all kinds share. Use: start, run as often as wanted, close (or kill)."""

    kind = ""  # as the node's record says it

    def __init__(self, scratch: str, spill_files: int = 2, file_size: int = 1 << 30) -> None:
        """scratch: directory for unnamed spill files; file_size: bytes that each of them may reach at most, less where
        the disk has little."""
        self._scratch = self._programs = scratch  # the latter for programs that are to be executed
        self._spill_files = spill_files
        self._file_size = file_size
        self._socket = RunnerSocket()
        self._output = Output()
        self.listener: Callable[[bytes], None] | None = None  # hears what is printed, beside what is kept of it
        self._pipe = -1
        self._pidfd = -1
        self._exited: asyncio.Future[None] | None = None
        self._ready = False
        self.tunnels: socket.socket | None = None  # our end, where its tasks speak with others
        self.process = 0  # its number, or that of what holds it
        self.directory = ""  # its own in scratch, where it has one
        RUNNERS.add(self)

    # What a kind defines

    def _open(self) -> list[int]:
        """Starts the process: gives `_socket` our end, and sets what else is known of it. Returns descriptors for it
        that travel before the spill files: the end of a pipe for its prints, or none. OSError."""
        raise NotImplementedError

    async def _greeted(self) -> None:
        """The first word of the runner, before any of the user's code is there. RunnerBroken, Gone."""
        kind, _ = await self._socket.receive()
        if kind != frames.HELLO:
            raise RunnerBroken(reason=f"{frames.NAMES[kind]} where HELLO was due")

    async def _how(self) -> str:
        """How a process ended that nobody asked to: "exit status 3"."""
        raise NotImplementedError

    def _kill(self) -> None:
        """SIGKILL to all its processes, at once or soon."""
        raise NotImplementedError

    async def _cleared(self) -> None:
        """Returns when its processes are gone and what they left is too."""
        raise NotImplementedError

    # What all share

    @property
    def ended(self) -> bool:
        """Whether its process is no more."""
        return self._exited is not None and self._exited.done()

    @property
    def alive(self) -> bool:
        """Whether it may be given a task."""
        return self._ready and self._exited is not None and not self._exited.done()

    def output(self) -> bytes:
        """What the user's code printed, first and last 32 KiB."""
        self._drain()
        return self._output.text()

    def pieces(self) -> list[tuple[int, bytes]]:
        """The same, each piece with its place in all that was printed since it was last taken."""
        self._drain()
        return self._output.pieces()

    def take_output(self) -> bytes:
        """What was printed since it was last taken, for the log of the task that ended."""
        self._drain()
        text, self._output = self._output.text(), Output()
        return text

    async def start(
        self, spec: dict[str, Any], code: Code, module: str, job: str, tunnels: bool = False, memory: int = 0,
        mapped: int = 0, spills: list[int] | None = None,
    ) -> None:
        """Starts the process and loads the user's code. spec: the job's, with "memory" in bytes; code: (name, bytes,
        its pieces) of each file; module: the runner's side of its architecture; job: its id; tunnels: whether it gets
        a socket for them; memory: bytes for its limits, where they are others than the job's; mapped: bytes that its
        libraries may map beyond that; spills: descriptors of spill files that outlive this runner, to be closed by
        whose list it is, and appended here where it is empty.

        TaskFailed (where: "load" or "setup") for the user's own errors; RunnerDied, RunnerBroken; OSError.
        After any of these, or what the pieces of code raise, close() is still due.
        """
        given: list[int] = []
        try:
            given += self._open()
            prints = bool(given)
            if tunnels:
                self.tunnels, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self.tunnels.setblocking(False)
                given.append(theirs.detach())
            fields: dict[str, object] = {
                "job": job,
                "module": module,
                "spec": spec,
                "code": [{"name": name, "size": size} for name, size, _ in code],
                "limits": {"memory": memory or int(spec["memory"]), "mapped": mapped,
                           "file_size": file_size(self._scratch, self._file_size)},
                "prints": prints, "tunnels": tunnels,
            }
            while spills is not None and len(spills) < self._spill_files:
                spills.append(unnamed_file(self._scratch))
            for number in range(self._spill_files):
                given.append(unnamed_file(self._scratch) if spills is None else os.dup(spills[number]))
            await self._guarded(self._send_job(job, frames.encode_json(frames.JOB, fields), code, given))
        finally:
            for descriptor in given:
                os.close(descriptor)
        self._ready = True

    async def run(
        self, task_id: str, params: dict[str, Any], read: Read, write: Write, progress: Progress, aside: Aside
    ) -> dict[str, Any]:
        """One task. Gives the DONE object: {"counters": {name: int}, "user_counters": {name: int}, "streams":
        [{"records", "bytes"}, ...]}.

        read(stream) gives the next block of inputs[stream], at most 2 MiB (None or empty: the end);
        write(stream, data) takes the next block of output stream 0 <= stream < params["outputs"]["count"];
        progress({"records", "bytes", "status"}), the last one "" where nothing new is said; aside({...}) for each
        record that was set aside. TaskFailed with all details of the FAILED frame (the runner may be
        used on); RunnerDied, RunnerBroken; what the callbacks raise, after which the runner is dead.
        """
        if not self.alive:
            raise RunnerDied(how="before the task", output="")
        done: dict[str, Any] = await self._guarded(self._run(task_id, params, read, write, progress, aside))
        return done

    async def close(self) -> None:
        """Asks the process to leave, kills it when it does not, frees everything. Safe to call twice."""
        if self.alive:
            try:
                self._socket.end.send(frames.encode(frames.CLOSE))
                await asyncio.wait_for(self.exit(), LEAVE_WITHIN)
            except (OSError, TimeoutError):
                self.kill()
        else:
            self.kill()
        await self._cleared()
        self._release()

    def kill(self) -> None:
        """SIGKILL. The exit is collected by close()."""
        self._ready = False
        if self._exited is not None and not self._exited.done():
            self._kill()

    def _watch(self, pid: int) -> None:
        """Notices the end of the process. ProcessLookupError where it has ended and been waited for; another OSError
        where there is no descriptor to watch it by: then it is killed, and seen to be gone as soon as there is one."""
        self.process = pid
        self._exited = asyncio.get_running_loop().create_future()
        if (error := self._try_to_watch(pid)) is not None:
            raise error

    def _try_to_watch(self, pid: int) -> OSError | None:
        assert self._exited is not None
        loop = asyncio.get_running_loop()
        if self._socket.closed:
            return None  # released: nobody waits for its end
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            self._exited.set_result(None)
            return error
        except OSError as error:
            self._kill()
            loop.call_later(WATCH_AGAIN, self._try_to_watch, pid)
            return error
        loop.add_reader(self._pidfd, self._ended)
        return None

    def _ended(self) -> None:
        """The process has ended."""
        assert self._exited is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._drain()
        if not self._exited.done():
            self._exited.set_result(None)

    async def exit(self) -> None:
        """Returns when its process has ended, whether anybody speaks with it or not; at once where there is none."""
        if self._exited is not None:
            await asyncio.shield(self._exited)

    def _hear_prints(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        asyncio.get_running_loop().add_reader(pipe, self._drain)

    def _drain(self) -> None:
        """Takes what was printed; at most a pipe's worth, so that a flood of prints does not hold the loop."""
        if self._pipe < 0:
            return
        for _ in range(4):
            try:
                data = os.read(self._pipe, 16 * 1024)
            except BlockingIOError:
                return
            if not data:
                self._close_pipe()
                return
            self._output.add(data)
            if self.listener is not None:
                self.listener(data)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _release(self) -> None:
        self._ready = False
        self._drain()
        self._close_pipe()
        self._socket.close()
        if self.tunnels is not None:
            self.tunnels.close()
            self.tunnels = None
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # The conversation

    async def _guarded(self, conversation: Awaitable[Any]) -> Any:
        """Whatever cuts a conversation short, but the user's own failure, ends the child."""
        try:
            return await conversation
        except TaskFailed:
            raise
        except (frames.BadFrame, RunnerBroken) as error:
            self.kill()
            reason = error.details["reason"] if isinstance(error, RunnerBroken) else str(error)
            raise RunnerBroken(reason=reason) from None
        except Gone:
            how = await self._how()
            raise RunnerDied(how=how, output=_last_words(self.output())) from None
        except BaseException:
            self.kill()
            raise

    async def _send_job(self, job: str, told: bytes, code: Code, given: list[int]) -> None:
        await self._greeted()
        await self._socket.send_with(told[: frames.HEADER.size], given)
        await self._socket.send(told[frames.HEADER.size :])
        big = not_held((name, size) for name, size, _ in code)
        for name, size, pieces in code:
            first = await anext(pieces, b"")
            if first.startswith(ELF) or name in big:
                require_room(self._scratch, name, size)
                await self._send_open(first, pieces)
                FLASH.wrote(job, size)
                continue
            if first:
                await self._send_code(first)
            async for data in pieces:
                await self._send_code(data)
        kind, payload = await self._socket.receive()
        if kind == frames.FAILED:
            raise parse_failed(payload)
        if kind != frames.READY:
            raise RunnerBroken(reason=f"{frames.NAMES[kind]} where READY was due")

    async def _run(
        self, task_id: str, params: dict[str, Any], read: Read, write: Write, progress: Progress, aside: Aside
    ) -> dict[str, Any]:
        inputs, outputs = len(params["inputs"]), int(params["outputs"]["count"])
        await self._socket.send(frames.encode_json(frames.TASK, {"id": task_id, "params": params}))
        while True:
            kind, payload = await self._socket.receive()
            if kind == frames.READ:
                stream = frames.parse_json(payload).get("stream")
                if type(stream) is not int or not 0 <= stream < inputs:
                    raise RunnerBroken(reason="READ of a stream that the task does not have")
                data = await read(stream) or b""
                await self._socket.send(frames.encode_header(frames.DATA, len(data)))
                await self._socket.send(data)
                data = b""  # the runner has it now
            elif kind == frames.WRITE:
                stream, block = frames.parse_write(payload)
                if stream >= outputs or not block:
                    raise RunnerBroken(reason="WRITE to a stream that the task does not have, or of nothing")
                await write(stream, bytes(block))
                await asyncio.sleep(0)  # a runner that always has more to say must not hold the loop
            elif kind == frames.PROGRESS:
                progress(parse_progress(payload))
                await asyncio.sleep(0)
            elif kind == frames.ASIDE:
                aside(parse_aside(payload))
                await asyncio.sleep(0)
            elif kind == frames.DONE:
                return parse_done(frames.parse_json(payload), outputs)
            elif kind == frames.FAILED:
                raise parse_failed(payload)
            else:
                raise RunnerBroken(reason=f"a {frames.NAMES[kind]} frame within a task")

    async def _send_code(self, data: bytes) -> None:
        await self._socket.send(frames.encode_header(frames.CODE, len(data)))
        await self._socket.send(data)

    async def _send_open(self, first: bytes, pieces: AsyncIterator[bytes]) -> None:
        """A file that the runner can read, or execute where it is a program, and nobody can change any more."""
        program = first.startswith(ELF)
        writable = unnamed_file(self._programs if program else self._scratch)
        try:
            write_all(writable, first)
            async for data in pieces:
                write_all(writable, data)
            os.fchmod(writable, 0o555 if program else 0o444)
            readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)  # what is open for writing cannot be executed
        try:
            await self._socket.send_with(frames.encode(frames.FILE), [readable])
        finally:
            os.close(readable)


def _last_words(output: bytes) -> str:
    text = output[-2048:].decode("utf-8", "replace").strip()
    return f"; last output:\n{text}" if text else ""
