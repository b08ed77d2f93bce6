"""A runner in bubblewrap: a child with namespaces of its own and few system calls, which sees nothing of this machine
but its programs. For labs and containers, where no systemd makes units.

Owns how that sandbox is built, whether it can be built here (it is tried), and the end of all that is in it. In short:

    setpriv    ends it with the daemon; nothing gains rights any more
    unshare    a mount namespace, in which STAGE makes what bubblewrap cannot: 4 MB where nothing can be executed, and a
               way to Python's directories although their parents may be closed to others (a checkout below /root)
    setpriv    where the daemon is root: nobody's user id, before anything of the job is there
    bwrap      all namespaces, /usr and these directories, read-only, and the filter of `system_calls`

What the sandbox lacks beside the unit: limits for all processes of a runner together (each has the rlimits of its
own, and 512 are the most), and a user id of its own unless the daemon is root. Source: bwrap(1), unshare(1).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from ipdc_edge.codec import frames
from ipdc_edge.drivers.runner_child import ENVIRONMENT, SETPRIV, RunnerProcess, how_it_ended
from ipdc_edge.drivers.runner_socket import Gone

BWRAP = "/usr/bin/bwrap"
UNSHARE = "/usr/bin/unshare"  # util-linux, as is setpriv
NOBODY = 65534
PLACE = "/mnt"  # the one writable directory; where ipdc-runner@.service has it too
VENV = "/var/lib/ipdc/venv"  # from which the code of jobs may import; runner/__main__.py
LARGE = "size=256M"
SMALL, LARGER = "size=4M,nr_inodes=1k", f"{LARGE},nr_inodes=16k"  # of the writable place
PACKAGE = "/ipdc"  # holds the package in the sandbox
# Words: options of the writable place, directories, "--", a command. Nothing that is needed lies below /run.
STAGE = f"""set -e
echo 800 >/proc/self/oom_score_adj
mount -n -t tmpfs -o mode=755,size=64k,nosuid,nodev ipdc /run
mkdir /run{PLACE}
mount -n -t tmpfs -o "$1" ipdc /run{PLACE}
case $1 in *{LARGE}*) mkdir -m 1777 /run{PLACE}/shm ;; esac
shift; number=0
until [ "$1" = -- ]; do mkdir /run/$number; mount -n --rbind "$1" /run/$number; number=$((number + 1)); shift; done
shift; exec "$@"
"""
SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")  # links into /usr in Debian
ETC = ("alternatives", "ld.so.cache", "localtime")
ETC_OF_NETWORK = ("gai.conf", "hosts", "nsswitch.conf", "protocols", "resolv.conf", "services", "ssl/certs",
                  "ssl/openssl.cnf")
DEVICES = ("full", "null", "random", "urandom", "zero")
ENVIRONMENT_THERE = {**ENVIRONMENT, "PYTHONPATH": PACKAGE, "HOME": PLACE, "TMPDIR": PLACE,
                     "IPDC_RUNNER": "unit"}  # whatever is started there ends with it, nobody else need see to it
TRIED_WITHIN = 60.0  # seconds until it counts as not working: a small board under load
TOLD_WITHIN = 10.0  # seconds from the end of a runner to bubblewrap's own, which says how


class RunnerBubblewrap(RunnerProcess):
    """A runner in bubblewrap's sandbox."""

    kind = "bubblewrap"

    def __init__(
        self, scratch: str, network: bool = False, spill_files: int = 2, file_size: int = 1 << 30, alone: bool = False,
        place: str = "", venv: str = "",
    ) -> None:
        """network: whether it has this machine's network, loopback too, instead of none; alone: whether it has one of
        its own, with nothing but a loopback, a writable place that is larger, and the right to make code while it runs;
        place: a directory that it sees; venv: the environment that it sees as VENV."""
        super().__init__(scratch, spill_files, file_size, venv or VENV)
        self._network, self._alone, self._place = network, alone, place
        self._filter = self._told = self._info = -1  # pipes: the filter, what bubblewrap tells, and its end of that
        self._first = -1  # a pidfd of the first process of the sandbox, with which all others end

    def _command(self, descriptor: int) -> list[str]:
        program = [sys.executable, "-P", "-s", "-m", "ipdc_edge.runner", str(descriptor)]
        more = ("--info-fd", str(self._info))
        room = LARGER if self._alone else SMALL
        return sandboxed(program, self._filter, self._network, more, self._place, room, self._venv)

    def _environment(self) -> dict[str, str]:
        return ENVIRONMENT_THERE

    def _also_passed(self) -> tuple[int, ...]:
        return self._filter, self._info

    def _own_directory(self) -> str:
        return ""  # PLACE is in no one else's sight

    def _open(self) -> list[int]:
        self._filter = filter_to_read(self._network or self._alone, self._alone)
        try:
            self._told, self._info = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return super()._open()
            finally:
                os.close(self._info)
        finally:
            os.close(self._filter)

    async def _greeted(self) -> None:
        """Before it let the runner go, bubblewrap has told which process is the sandbox's first."""
        await super()._greeted()
        told = frames.parse_json(os.read(self._told, 4096))
        try:
            self._first = os.pidfd_open(int(told["child-pid"]))
        except ProcessLookupError:
            raise Gone from None

    async def _how(self) -> str:
        """Bubblewrap ends a moment after the runner, with its status: 128 and the number for a signal."""
        self._ready = False
        try:
            await asyncio.wait_for(self.exit(), TOLD_WITHIN)
        except TimeoutError:
            self.kill()
            return "it closed its socket"
        assert self._process is not None
        status = self._process.returncode
        return how_it_ended(128 - status if 128 < status <= 128 + signal.NSIG else status)

    def _kill(self) -> None:
        """Until bubblewrap begins a session of the sandbox's own, all is in one group; from then on the kernel ends
        the sandbox with bubblewrap."""
        assert self._process is not None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self._first >= 0:
            try:
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            except ProcessLookupError:
                pass

    async def _cleared(self) -> None:
        """The first process is the last one to be gone; pid_namespaces(7)."""
        await super()._cleared()
        if self._first >= 0:
            loop, gone = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._first, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(self._first)

    def _release(self) -> None:
        super()._release()
        for descriptor in (self._told, self._first):
            if descriptor >= 0:
                os.close(descriptor)
        self._told = self._first = -1


def sandboxed(
    program: list[str], filter_end: int, network: bool, more: tuple[str, ...] = (), seen: str = "", room: str = SMALL,
    venv: str = "",
) -> list[str]:
    """The command that runs a program in the sandbox. filter_end: a descriptor to read the filter from; more: further
    options for bwrap; seen: a directory that is to be seen, if it is not below /usr; room: of the writable place;
    venv: what is to be seen there as VENV, unless that itself is."""
    root = _may_be_nobody()
    place = f"{room},mode=700,noexec,nosuid,nodev"
    given = _directories() | ({seen: seen} if seen and not f"{seen}/".startswith("/usr/") else {})
    if os.path.isdir(venv or VENV):
        given[venv or VENV] = VENV
    command = [SETPRIV, "--pdeathsig", "KILL", "--no-new-privs", "--", UNSHARE, "--mount"]
    if root:
        place += f",uid={NOBODY},gid={NOBODY}"
    else:
        command += ["--user", "--map-root-user"]
    command += ["--", "/bin/sh", "-c", STAGE, "stage", place, *given, "--"]
    if root:
        user = str(NOBODY)
        command += [SETPRIV, "--reuid", user, "--regid", user, "--clear-groups", "--"]
    command += [BWRAP, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid",
                str(NOBODY), "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", str(filter_end)]
    if network:
        command.append("--share-net")
    command += ["--ro-bind", "/usr", "/usr"]
    for path in SYSTEM:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    for name in ETC + (ETC_OF_NETWORK if network else ()):
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for number, there in enumerate(given.values()):
        command += ["--ro-bind", f"/run/{number}", there]
    command += ["--proc", "/proc"]
    for name in DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        command += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    command += ["--symlink", "/proc/self/fd", "/dev/fd", "--bind", f"/run{PLACE}", PLACE, "--chdir", PLACE]
    if room == LARGER:  # semaphores of Python's multiprocessing, as tf_keras has them; a part of the same place
        command += ["--bind", f"/run{PLACE}/shm", "/dev/shm"]
    return [*command, "--remount-ro", "/", *more, "--", *program]


def _may_be_nobody() -> bool:
    """Whether the daemon is root and can become nobody: in a user namespace of few users, which the container of an
    ordinary one may have, it cannot. user_namespaces(7), /proc/PID/uid_map."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in file]
    return any(first <= NOBODY < first + count for first, count in ranges)


def _directories() -> dict[str, str]:
    """Where Python's own lie, and where they are in the sandbox: the package, and what is not below /usr of an
    interpreter or an environment."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = {package: f"{PACKAGE}/{os.path.basename(package)}"}
    for prefix in (sys.base_prefix, sys.prefix):
        if not f"{prefix}/".startswith("/usr/"):
            found[prefix] = prefix
    return found


def filter_to_read(network: bool, code: bool = False) -> int:
    """A descriptor from which bubblewrap reads the system call filter; a pipe has room for all of it."""
    from ipdc_edge.drivers import system_calls

    program = system_calls.filter_program(system_calls.machine_of(), network, code)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(writer, "wb") as file:
        file.write(program)
    return reader


def compile_ahead() -> None:
    """Keeps what Python compiles of the runner's modules beside them, as no runner in the sandbox can: each would
    compile them anew, which takes as long as the rest of its start. Where nobody may write there, so be it."""
    import subprocess

    package = next(iter(_directories()))
    parts = [os.path.join(package, part) for part in ("runner", "apps", "codec")]
    subprocess.run([sys.executable, "-P", "-s", "-m", "compileall", "-q", *parts], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=ENVIRONMENT, check=False)


def why_not() -> str:
    """Why no runner can be had in bubblewrap on this machine, "" where one can: a program was run in the sandbox."""
    import subprocess

    from ipdc_edge.drivers import system_calls

    if not os.access(BWRAP, os.X_OK):
        return f"{BWRAP} is not there; `sudo apt install bubblewrap`, and restart the node"
    if not system_calls.machine_of():
        return f"no system call filter is known for this kind of processor ({os.uname().machine})"
    program = [sys.executable, "-P", "-s", "-c", "import ipdc_edge.runner.link"]
    filter_end = filter_to_read(False)
    try:
        done = subprocess.run(
            sandboxed(program, filter_end, False), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, pass_fds=(filter_end,), cwd="/", env=ENVIRONMENT_THERE, timeout=TRIED_WITHIN)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        os.close(filter_end)
    words = done.stdout.decode("utf-8", "replace").strip()[-300:]
    return "" if done.returncode == 0 else f"{words or 'without a word'} (exit status {done.returncode})"
