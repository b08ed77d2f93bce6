"""A runner that is a child of the daemon, held by rlimits: for machines without systemd and without bubblewrap.

Owns the child's process and session, its private directory, and its exit status.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from ipdc_edge.drivers.runner import Runner
from ipdc_edge.drivers.scratch import remove, runner_directory
from ipdc_edge.drivers.sessions import kill_session

if TYPE_CHECKING:
    import subprocess

SETPRIV = "/usr/bin/setpriv"  # util-linux, essential in Debian


class RunnerProcess(Runner):
    """A runner held by rlimits."""

    kind = "rlimits"

    def __init__(
        self, scratch: str, spill_files: int = 2, file_size: int = 1 << 30, venv: str = "/var/lib/ipdc/venv"
    ) -> None:
        """venv: the environment from which the code of jobs may import too."""
        super().__init__(scratch, spill_files, file_size)
        self._venv = venv
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid if self._process is not None else None

    # What another kind of child does in its own way

    def _command(self, descriptor: int) -> list[str]:
        """What is started. -P, -s: neither the current directory nor a user's site is looked into."""
        command = [sys.executable, "-P", "-s", "-m", "ipdc_edge.runner", str(descriptor)]
        if os.access(SETPRIV, os.X_OK):
            # The child dies with the daemon even in a user's endless loop, and no set-uid program gives it
            # more.
            command = [SETPRIV, "--pdeathsig", "KILL", "--no-new-privs", "--", *command]
        return command

    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": package_root(), "IPDC_VENV": self._venv, **ENVIRONMENT}

    def _also_passed(self) -> tuple[int, ...]:
        """Descriptors that the command needs beside the runner's socket."""
        return ()

    def _own_directory(self) -> str:
        """A new directory for it, removed with it, in which it starts; "" where the command has one."""
        return runner_directory(self._scratch)

    # The process

    def _open(self) -> list[int]:
        import subprocess

        self.directory = self._own_directory()
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=(theirs.fileno(), *self._also_passed()),
                cwd=self.directory or "/",
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
        self._socket.take(ours)
        self._hear_prints(reader)
        self._watch(self._process.pid)
        return []

    def _kill(self) -> None:
        """The child leads a session of its own: what the user's code started goes with it."""
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # at once, the child itself first
        except ProcessLookupError:
            pass
        kill_session(self._process.pid)

    def _ended(self) -> None:
        assert self._process is not None
        self._kill()  # the number is the child's until it is waited for
        self._process.wait()
        super()._ended()

    async def _how(self) -> str:
        self.kill()  # it may have closed the socket only
        await self.exit()
        assert self._process is not None
        return how_it_ended(self._process.returncode)

    async def _cleared(self) -> None:
        await self.exit()
        if self.directory:  # there may be very much in it: others need the loop meanwhile
            await asyncio.to_thread(remove, self.directory)
            self.directory = ""


ENVIRONMENT = {  # of every runner; ipdc-runner@.service sets the same
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # attempts of one task shall give the same bytes
    "PYTHONUNBUFFERED": "1",  # prints survive a crash
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "524288",  # blocks of 1 MiB go back to the system
}


def package_root() -> str:
    """The directory that holds the package `ipdc_edge`."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
