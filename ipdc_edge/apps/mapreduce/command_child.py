"""A user's program as a child process: started clean, fed and read without ever waiting for the wrong end, ended whole.

Owns the process, its three pipes and its group. Knows nothing of lines. The program gets standard input, output and
error and no other descriptor, default signals, a process group of its own and the environment that it is given.

`subprocess` would cost the runner 0.6 MB of memory, so posix_spawn(3) is used; glibc's neither copies memory
nor runs a line of Python in the child. Where it is there, `setpriv` has the kernel kill the program when the runner
dies (prctl(2), PR_SET_PDEATHSIG), as the daemon does with the runner: a group of its own is out of the reach of the
signal that ends the runner's.
"""

from __future__ import annotations

import fcntl
import os
import signal

from ipdc_edge.apps.mapreduce.command_program import Launch, ProgramNotStarted

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Mapping

SETPRIV = "/usr/bin/setpriv"  # util-linux, essential in Debian
LINKS = ".programs"  # a directory in the runner's own; no shipped file has such a name
_NAMES = {number.value: number.name for number in signal.Signals}


class Child:
    """One program under way. `stdin`, `stdout` and `stderr` are our ends of its pipes (-1: closed), `pidfd` becomes
    readable when it has ended."""

    def __init__(self, launch: Launch, environment: Mapping[bytes, bytes], directory: str) -> None:
        """ProgramNotStarted, with the kernel's reason."""
        self.stdin = self.stdout = self.stderr = self.pidfd = -1
        self.status: int | None = None  # as os.waitid has it: exit status, or minus a signal's number
        self._pid = -1
        theirs: list[int] = []
        try:
            for name in ("stdin", "stdout", "stderr"):
                reader, writer = _pipe()
                theirs.append(reader if name == "stdin" else writer)
                ours = writer if name == "stdin" else reader
                setattr(self, name, ours)
                os.set_blocking(ours, False)
            self._pid = _spawn(launch, environment, directory, theirs)
            self.pidfd = os.pidfd_open(self._pid)
        except (OSError, ValueError) as error:
            self.end()
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ProgramNotStarted(program=launch.words[0], reason=reason) from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def close(self, name: str) -> None:
        """Closes our end of "stdin", "stdout" or "stderr"; twice is fine."""
        descriptor = getattr(self, name)
        if descriptor >= 0:
            setattr(self, name, -1)
            os.close(descriptor)

    def peek(self) -> int:
        """How the program ended: exit status, or minus the number of a signal. It keeps its number, so that its group
        can still be killed. Only after `pidfd` told."""
        if self.status is None:
            ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            self.status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self.status

    def kill(self) -> None:
        """SIGKILL to the program and its group, at once."""
        for kill, number in ((os.killpg, self._pid), (os.kill, self._pid)):
            try:
                kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def end(self) -> None:
        """Nothing is left of it afterwards; twice is fine."""
        for name in ("stdin", "stdout", "stderr", "pidfd"):
            self.close(name)
        if self._pid > 0:
            self.kill()
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:
                pass  # somebody else's code in this process has collected it
            self._pid = -1


def how_it_ended(status: int) -> str:
    """In words."""
    if status >= 0:
        return f"ended with exit status {status}"
    name = _NAMES.get(-status, str(-status))
    return f"was killed by signal {name}" + (" (the memory may have been used up)" if name == "SIGKILL" else "")


def _pipe() -> tuple[int, int]:
    """Both ends, neither of them 0, 1 or 2, even where the user's code has closed one of these."""
    ends = os.pipe()
    if min(ends) <= 2:
        low, ends = ends, tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)  # type: ignore[assignment]
        for end in low:
            os.close(end)
    return ends


def _spawn(launch: Launch, environment: Mapping[bytes, bytes], directory: str, pipes: list[int]) -> int:
    """The program's process id. It has replaced the child's image by then, or OSError tells why not."""
    path, words = launch.path, launch.words
    if os.access(SETPRIV, os.X_OK) and os.environ.get("IPDC_RUNNER") != "unit":
        words = ["setpriv", "--pdeathsig", "KILL", "--", _named(launch, directory), *words[1:]]
        path = SETPRIV
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, pipe, number) for number, pipe in enumerate(pipes)]
    actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()
                if number != launch.descriptor]
    if launch.descriptor >= 0:
        os.set_inheritable(launch.descriptor, True)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)  # the runner's own already; not so in run-inline
        return os.posix_spawn(
            path,
            [os.fsencode(word) for word in words],
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.chdir(before)
        os.close(before)


def _named(launch: Launch, directory: str) -> str:
    """The path for setpriv, which makes it the program's argv[0] as well: a link with the program's own name where the
    path is a descriptor's (a multi-call program like busybox goes by it)."""
    if launch.descriptor < 0:
        return launch.path
    link = f"{directory}/{LINKS}/{os.path.basename(launch.words[0])}"
    os.makedirs(os.path.dirname(link), exist_ok=True)
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(launch.path, link)
    return link


def _inheritable() -> list[int]:
    """Descriptors above 2 that a program would inherit: the runner's socket to the daemon, for one."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            continue  # that of the listing itself
    return found
