"""The runner's process as the daemon sees it: start it, give it tasks, feed it, hear from it, end it.

Owns one child process, its socket, its prints and its spill files. Never runs user code here, never decides
what a failure means, and trusts nothing that the child says: it may be the user's code that writes on the
socket. Kinds of runners (rlimits here; systemd and bubblewrap later) differ in how the process is started and
share the rest.

A runner serves one job and any number of tasks, one at a time. When a task is cancelled, or one of its
callbacks fails, the child is in the middle of something and of no more use: it is killed, `alive` says so,
start another.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING

from ipdc_edge.codec import frames
from ipdc_edge.codec.answers import RunnerBroken, TaskFailed, parse_count, parse_done, parse_failed
from ipdc_edge.drivers.prints import Output
from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from typing import Any

    Read = Callable[[int], Awaitable[bytes | None]]
    Write = Callable[[int, bytes], Awaitable[None]]
    Progress = Callable[[dict[str, int]], None]

CODE_PIECE = 1024 * 1024
MOST_CONTROL = 256 * 1024  # bytes of a frame of these kinds, which a runner may repeat
SHORT = (frames.READY, frames.READ, frames.PROGRESS, frames.DONE)
LEAVE_WITHIN = 2.0  # seconds between CLOSE and SIGKILL
_SETPRIV = "/usr/bin/setpriv"  # util-linux, essential in Debian


class RunnerDied(IpdcError):
    """the runner's process ended by itself ({how}){output}"""  # how: "exit status 3", "signal SIGKILL"

    retry = True


class RunnerProcess:
    """A runner held by rlimits. Use: start, run as often as wanted, close (or kill)."""

    kind = "rlimits"

    def __init__(self, scratch: str, spill_files: int = 2, file_size: int = 1 << 30) -> None:
        """scratch: directory for unnamed spill files; file_size: bytes that each of them may reach."""
        self._scratch = scratch
        self._spill_files = spill_files
        self._file_size = file_size
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._output = Output()
        self._pipe = -1
        self._pidfd = -1
        self._exited: asyncio.Future[int] | None = None
        self._header = bytearray(frames.HEADER.size)
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether it may be given a task."""
        return self._ready and self._exited is not None and not self._exited.done()

    @property
    def pid(self) -> int | None:
        """The child's process id, for the vitals."""
        return self._process.pid if self._process is not None else None

    def output(self) -> bytes:
        """What the user's code printed, first and last 32 KiB."""
        self._drain()
        return self._output.text()

    def take_output(self) -> bytes:
        """What was printed since it was last taken, for the log of the task that ended."""
        self._drain()
        text, self._output = self._output.text(), Output()
        return text

    async def start(self, spec: dict[str, Any], code: dict[str, bytes]) -> None:
        """Starts the child and loads the user's code. spec: the job's, with "memory" in bytes.

        TaskFailed (where: "load" or "setup") for the user's own errors; RunnerDied, RunnerBroken; OSError.
        After any of these, close() is still due.
        """
        spills: list[int] = []
        try:
            for _ in range(self._spill_files):
                spills.append(_unnamed_file(self._scratch))
            self._spawn()
            job: dict[str, object] = {
                "spec": spec,
                "code": [{"name": name, "size": len(data)} for name, data in code.items()],
                "limits": {"memory": int(spec["memory"]), "file_size": self._file_size},
            }
            await self._guarded(self._send_job(frames.encode_json(frames.JOB, job), code, spills))
        finally:
            for descriptor in spills:
                os.close(descriptor)
        self._ready = True

    async def run(
        self, task_id: str, params: dict[str, Any], read: Read, write: Write, progress: Progress
    ) -> dict[str, Any]:
        """One task. Gives the DONE object: {"counters": {name: int}, "streams": [{"records", "bytes"}, ...]}.

        read(stream) gives the next block of inputs[stream], at most 2 MiB (None or empty: the end);
        write(stream, data) takes the next block of output stream 0 <= stream < params["outputs"]["count"];
        progress({"records", "bytes"}). TaskFailed with all details of the FAILED frame (the runner may be
        used on); RunnerDied, RunnerBroken; what the callbacks raise, after which the runner is dead.
        """
        if not self.alive:
            raise RunnerDied(how="before the task", output="")
        done: dict[str, Any] = await self._guarded(self._run(task_id, params, read, write, progress))
        return done

    async def close(self) -> None:
        """Asks the child to leave, kills it when it does not, frees everything. Safe to call twice."""
        if self._socket is not None and self.alive:
            try:
                self._socket.send(frames.encode(frames.CLOSE))
                await asyncio.wait_for(asyncio.shield(self._exit()), LEAVE_WITHIN)
            except (OSError, TimeoutError):
                self.kill()
        else:
            self.kill()
        if self._process is not None:
            await self._exit()
        self._release()

    def kill(self) -> None:
        """SIGKILL, at once. The exit is collected by close()."""
        self._ready = False
        if self._process is not None and self._exited is not None and not self._exited.done():
            self._kill_group()

    def _kill_group(self) -> None:
        """The child leads a session of its own: what the user's code started goes with it."""
        import signal

        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    # The process

    def _command(self, descriptor: int) -> list[str]:
        """What is started. -P, -s: neither the current directory nor a user's site is looked into."""
        command = [sys.executable, "-P", "-s", "-m", "ipdc_edge.runner", str(descriptor)]
        if os.access(_SETPRIV, os.X_OK):
            # The child dies with the daemon even in a user's endless loop, and no set-uid program gives it
            # more.
            command = [_SETPRIV, "--pdeathsig", "KILL", "--no-new-privs", "--", *command]
        return command

    def _environment(self) -> dict[str, str]:
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        return {
            "LANG": "C.UTF-8",
            "PYTHONPATH": package_root,
            "PYTHONHASHSEED": "0",  # attempts of one task shall give the same bytes
            "PYTHONUNBUFFERED": "1",  # prints survive a crash
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_TRIM_THRESHOLD_": "131072",
            "MALLOC_MMAP_THRESHOLD_": "524288",  # blocks of 1 MiB go back to the system
        }

    def _spawn(self) -> None:
        import subprocess

        ours, theirs = socket.socketpair()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env=self._environment(),
                start_new_session=True,  # a Ctrl-C at the daemon's terminal is the daemon's affair
            )
        except BaseException:
            ours.close()
            os.close(reader)
            raise
        finally:
            theirs.close()
            os.close(writer)
        ours.setblocking(False)
        os.set_blocking(reader, False)
        self._socket, self._pipe = ours, reader
        loop = asyncio.get_running_loop()
        self._exited = loop.create_future()
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._pidfd, self._collect)
        loop.add_reader(self._pipe, self._drain)

    def _collect(self) -> None:
        """The child has ended: its status."""
        assert self._process is not None and self._exited is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._kill_group()  # the number is the child's until it is waited for
        status = self._process.wait()
        self._drain()
        if not self._exited.done():
            self._exited.set_result(status)

    async def _exit(self) -> int:
        assert self._exited is not None
        return await asyncio.shield(self._exited)

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

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _release(self) -> None:
        self._ready = False
        self._drain()
        self._close_pipe()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pidfd >= 0:
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
        except _Gone:
            self.kill()  # it may have closed the socket only
            status = await self._exit()
            raise RunnerDied(how=_how(status), output=_last_words(self.output())) from None
        except BaseException:
            self.kill()
            raise

    async def _send_job(self, job: bytes, code: dict[str, bytes], spills: list[int]) -> None:
        import array

        assert self._socket is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", spills))]
        # Nothing is in the socket's buffer yet, so these few bytes and the descriptors go at once.
        self._socket.sendmsg([job[: frames.HEADER.size]], rights if spills else [])
        await self._send(job[frames.HEADER.size :])
        for data in code.values():
            for start in range(0, len(data), CODE_PIECE):
                await self._send(frames.encode(frames.CODE, data[start : start + CODE_PIECE]))
        kind, payload = await self._receive()
        if kind == frames.FAILED:
            raise parse_failed(payload)
        if kind != frames.READY:
            raise RunnerBroken(reason=f"{frames.NAMES[kind]} where READY was due")

    async def _run(
        self, task_id: str, params: dict[str, Any], read: Read, write: Write, progress: Progress
    ) -> dict[str, Any]:
        inputs, outputs = len(params["inputs"]), int(params["outputs"]["count"])
        await self._send(frames.encode_json(frames.TASK, {"id": task_id, "params": params}))
        while True:
            kind, payload = await self._receive()
            if kind == frames.READ:
                stream = frames.parse_json(payload).get("stream")
                if type(stream) is not int or not 0 <= stream < inputs:
                    raise RunnerBroken(reason="READ of a stream that the task does not have")
                data = await read(stream) or b""
                await self._send(frames.encode_header(frames.DATA, len(data)))
                await self._send(data)
            elif kind == frames.WRITE:
                stream, block = frames.parse_write(payload)
                if stream >= outputs or not block:
                    raise RunnerBroken(reason="WRITE to a stream that the task does not have, or of nothing")
                await write(stream, bytes(block))
                await asyncio.sleep(0)  # a runner that always has more to say must not hold the loop
            elif kind == frames.PROGRESS:
                fields = frames.parse_json(payload)
                progress({"records": parse_count(fields.get("records")), "bytes": parse_count(fields.get("bytes"))})
                await asyncio.sleep(0)
            elif kind == frames.DONE:
                return parse_done(frames.parse_json(payload), outputs)
            elif kind == frames.FAILED:
                raise parse_failed(payload)
            else:
                raise RunnerBroken(reason=f"a {frames.NAMES[kind]} frame within a task")

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        assert self._socket is not None
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            raise _Gone from None

    async def _receive(self) -> tuple[int, bytearray]:
        """One frame. Its length is within bounds before memory is taken for it."""
        await self._fill(self._header)
        kind, length = frames.parse_header(self._header)
        if kind in SHORT and length > MOST_CONTROL:
            raise RunnerBroken(reason=f"a {frames.NAMES[kind]} frame of {length} bytes")
        payload = bytearray(length)
        await self._fill(payload)
        return kind, payload

    async def _fill(self, buffer: bytearray) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        view = memoryview(buffer)
        while view:
            try:
                count = await loop.sock_recv_into(self._socket, view)
            except OSError:
                count = 0
            if not count:
                raise _Gone
            view = view[count:]


class _Gone(Exception):
    """The child's end of the socket is closed."""


def _unnamed_file(directory: str) -> int:
    """A descriptor of a file without a name, which vanishes with its last descriptor."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE (some FUSE, old overlayfs)
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix="spill-", dir=directory)
        os.unlink(path)
        return descriptor


def _how(status: int) -> str:
    import signal

    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _last_words(output: bytes) -> str:
    text = output[-2048:].decode("utf-8", "replace").strip()
    return f"; last output:\n{text}" if text else ""
