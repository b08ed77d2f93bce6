"""A runner that is a unit of systemd's: ipdc-runner@.service, begun by a connection to its socket.

Owns that connection and what an unprivileged daemon can do about a process of another user: notice its end (pidfd),
have it ended (ipdc-reaper.socket, by the unit's name), and learn how it ended (ipdc-runner-ended@.service leaves a
line). Source: systemd.socket(5), Accept=; unix(7), SCM_CREDENTIALS.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from typing import TYPE_CHECKING

from ipdc_edge.codec import frames
from ipdc_edge.codec.answers import RunnerBroken
from ipdc_edge.drivers.runner import Runner
from ipdc_edge.drivers.runner_socket import Gone

if TYPE_CHECKING:
    from collections.abc import Callable

REAPER = "reaper.sock"  # below /run/ipdc
ENDED = "ended"  # a directory there: a file for each unit that failed, with its name
UNIT = re.compile(r"ipdc-runner(-net|-role)?@[0-9][0-9-]{0,60}\.service")
REPORT = re.compile(r"([a-z-]{1,40}) ([a-z]{1,20}) ([A-Z0-9]{1,20})\s*")
TOLD_WITHIN = 2.0  # seconds from a unit's end to the line that says how
REAPED_WITHIN = 15.0  # seconds for a small board under load
GREETED_WITHIN = 60.0  # seconds until a unit has started: systemd may have much to do on a small board
CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class RunnerUnit(Runner):
    """A runner in systemd's sandbox."""

    kind = "systemd"

    def __init__(
        self, scratch: str, run: str, name: str, note: Callable[[str], None], spill_files: int = 2,
        file_size: int = 1 << 30,
    ) -> None:
        """run: the directory of the sockets; name: which of them begins the unit; note(line) is for the journal."""
        super().__init__(scratch, spill_files, file_size)
        self._programs = os.path.dirname(scratch)  # in scratch nothing can be executed: NoExecPaths= of the daemon
        self._sockets, self._name, self._note = run, name, note
        self.unit = ""
        self._reaping: asyncio.Task[None] | None = None

    def _open(self) -> list[int]:
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            ours.connect(os.path.join(self._sockets, self._name))
        finally:
            self._socket.take(ours)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._hear_prints(reader)
        return [writer]

    async def _greeted(self) -> None:
        """The process is who the kernel says that has spoken; its unit is what it says itself, while nothing of the
        user's is in it."""
        try:
            kind, payload, pid = await asyncio.wait_for(self._hello(), GREETED_WITHIN)
        except TimeoutError:
            raise RunnerBroken(reason=f"no HELLO within {GREETED_WITHIN:g} s") from None
        unit = frames.parse_json(payload).get("unit")
        if kind != frames.HELLO or not isinstance(unit, str) or not UNIT.fullmatch(unit) or not pid:
            raise RunnerBroken(reason="no HELLO of one of our units")
        self.unit = unit
        try:
            self._watch(pid)
        except ProcessLookupError:
            raise Gone from None

    async def _hello(self) -> tuple[int, bytearray, int]:
        """(kind, payload, process id) of the first frame."""
        loop, ours = asyncio.get_running_loop(), self._socket.end
        readable = asyncio.Event()
        loop.add_reader(ours, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(ours)
        try:
            data, ancillary, _, _ = ours.recvmsg(frames.HEADER.size, socket.CMSG_SPACE(CREDENTIALS.size))
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        pid = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = CREDENTIALS.unpack(value[: CREDENTIALS.size])[0]
        rest = bytearray(frames.HEADER.size - len(data))
        await self._socket.fill(rest)
        kind, length = frames.parse_header(data + rest)
        if length > 1024:
            raise RunnerBroken(reason=f"a first frame of {length} bytes")
        payload = bytearray(length)
        await self._socket.fill(payload)
        return kind, payload, pid

    async def _how(self) -> str:
        """What systemd says of the unit, where the process has ended; one that only closed its socket is ended."""
        self._ready = False
        if not self.unit:
            return "before it was ready: see `journalctl -u 'ipdc-runner@*'`; or there are too many runners"
        try:
            await asyncio.wait_for(self.exit(), TOLD_WITHIN)
        except TimeoutError:
            self._kill()
            return "it closed its socket"
        return await self._report() or "without a word"

    async def _report(self) -> str:
        path = os.path.join(self._sockets, ENDED, self.unit)
        for _ in range(int(TOLD_WITHIN / 0.05)):
            try:
                with open(path, encoding="ascii", errors="replace") as file:
                    found = REPORT.fullmatch(file.read(100))
                os.unlink(path)
            except FileNotFoundError:
                await asyncio.sleep(0.05)
                continue
            return described(*found.groups()) if found else ""
        return ""

    def _kill(self) -> None:
        """Its processes are another user's: the reaper ends them."""
        if self.unit and self._reaping is None:
            self._reaping = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        try:
            await asyncio.wait_for(reap(self._sockets, self.unit), REAPED_WITHIN)
        except (OSError, TimeoutError) as error:
            self._note(f"the unit {self.unit} could not be ended: {str(error) or type(error).__name__}")

    async def _cleared(self) -> None:
        if self._reaping is not None:
            await asyncio.shield(self._reaping)
            await self._report()  # nobody asks how it ended, but nothing shall be left


async def reap(run: str, unit: str) -> None:
    """Has a unit ended, or with "all" every runner's. OSError where the reaper does not answer as it should."""
    reader, writer = await asyncio.open_unix_connection(os.path.join(run, REAPER), limit=1024)
    try:
        writer.write(f"{unit}\n".encode())
        await writer.drain()
        answer = await reader.read(100)
    finally:
        writer.close()
    if answer.strip() != b"ended":
        raise OSError(f"the reaper says {answer[:50]!r}")


def forget_ended(run: str) -> None:
    """Removes what was told of units of an earlier start."""
    directory = os.path.join(run, ENDED)
    try:
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
    except FileNotFoundError:
        return


def described(result: str, code: str, status: str) -> str:
    """A unit's end in words; systemd.exec(5), $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS."""
    if result == "oom-kill":
        return "killed for its memory: it took more than a runner may have on this node"
    if code == "exited":
        return f"exit status {status}"
    name = status if status.startswith("SIG") else f"SIG{status}"
    if name == "SIGKILL":  # where the kernel does not tell systemd more
        return "signal SIGKILL, as the system does when memory runs out"
    return f"signal {name}"
