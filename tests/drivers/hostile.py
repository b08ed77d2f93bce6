"""A hostile Map.py, and the daemon's side that runs it in a kind of runner.

As a job's code: `map` gets a JSON object of targets and yields for each attempt what came of it, "allowed" or why not.
As a program, `python3 -m tests.drivers.hostile bubblewrap|rlimits DIRECTORY TARGETS`, it is that job's daemon, for
whatever user runs it, and prints {attempt: outcome}. tests/booted has the fuller suite, for the installed package.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ipdc_edge.drivers.system_calls import DENIED, TOLD, machine_of, numbers

Targets = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Targets], object]] = {}
NEWUSER, SEIZE, SIZE_OF_PERF = 0x10000000, 0x4206, 112
SHM = 0o1600  # IPC_CREAT and rights
CALLS = numbers(DENIED + TOLD, machine_of())


class Denied(Exception):
    """By other means than an error of the system."""


def attempt(what: str) -> Callable[[Callable[[Targets], object]], None]:
    def keep(function: Callable[[Targets], object]) -> None:
        ATTEMPTS[what] = function
    return keep


def call(name: str, *words: object, reached: int = 0) -> int:
    """A system call past every library; OSError. reached: an error that comes only after permission was given."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    answer: int = library.syscall(ctypes.c_long(CALLS[name]), *given)
    if answer < 0 and ctypes.get_errno() != reached:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def in_child(action: Callable[[], object]) -> None:
    """What the process itself should not be changed by. OSError with the child's."""
    pid = os.fork()
    if not pid:
        try:
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, os.strerror(status))


def reader(path: Callable[[Targets], str]) -> Callable[[Targets], object]:
    def read(targets: Targets) -> object:
        with open(path(targets), "rb") as file:
            return file.read(100)
    return read


def writer(place: Callable[[Targets], str]) -> Callable[[Targets], object]:
    def write(targets: Targets) -> None:
        path = os.path.join(place(targets), "left-by-a-job")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(path)
    return write


attempt("read a private key of the node")(reader(lambda targets: targets["key"]))
attempt("read /etc/shadow")(reader(lambda targets: "/etc/shadow"))
attempt("read /etc/passwd")(reader(lambda targets: "/etc/passwd"))
attempt("read the environment of another process")(reader(lambda targets: f"/proc/{targets['victim']}/environ"))
attempt("read the memory of another process")(reader(lambda targets: f"/proc/{targets['victim']}/maps"))
attempt("list the home of root")(lambda targets: os.listdir("/root"))
attempt("see another process")(lambda targets: os.stat(f"/proc/{targets['victim']}"))
for _place in ("/", "/usr", "/usr/local/bin", "/tmp", "/var/tmp", "/run", "/dev", "/dev/shm", "/etc", "/root"):
    attempt(f"write to {_place}")(writer(lambda targets, place=_place: place))  # type: ignore[misc]
attempt("write to the package")(writer(lambda targets: os.path.dirname(sys.modules["ipdc_edge"].__file__ or "")))
attempt("write to the node's directory")(writer(lambda targets: os.path.dirname(targets["key"])))


@attempt("find the daemon's secret in some environment")
def _(targets: Targets) -> None:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if targets["secret"].encode() in file.read():
                    return
        except OSError:
            continue
    raise Denied("in none")


@attempt("change a setting of the kernel")
def _(targets: Targets) -> None:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))


@attempt("execute a script that it wrote")
def _(targets: Targets) -> None:
    with open("script", "w") as file:
        file.write("#!/bin/sh\nexit 0\n")
    os.chmod("script", 0o700)
    in_child(lambda: os.execv("./script", ["script"]))


@attempt("load a library that it wrote")
def _(targets: Targets) -> None:
    library = os.path.realpath("/lib64/ld-linux-x86-64.so.2" if machine_of() == "x86_64" else sys.executable)
    with open(library, "rb") as source, open("library.so", "wb") as copy:
        copy.write(source.read(1 << 20))
    import mmap

    with open("library.so", "rb") as file:
        mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def spilled(data: bytes) -> int:
    """A descriptor to read what was written to one of its spill files."""
    for number in range(3, 30):
        path = f"/proc/self/fd/{number}"
        if os.path.lexists(path) and os.readlink(path).endswith(" (deleted)"):
            os.pwrite(number, data, 0)
            return os.dup(number)
    raise Denied("it has none")


@attempt("load what it spilled")
def _(targets: Targets) -> None:
    import mmap

    mmap.mmap(spilled(bytes(4096)), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


@attempt("get memory that is writable and executable")
def _(targets: Targets) -> None:
    import mmap

    mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_WRITE | mmap.PROT_EXEC).close()


@attempt("execute a file in memory")
def _(targets: Targets) -> None:
    os.close(call("memfd_create", b"x", 0))


for _name, _family in (("INET", 2), ("INET6", 10), ("UNIX", 1), ("NETLINK", 16), ("PACKET", 17)):
    attempt(f"get a socket of {_name}")(
        lambda targets, family=_family: socket.socket(family, socket.SOCK_RAW if family > 15 else 1).close()
    )  # type: ignore[misc]
attempt("get a pair of sockets")(lambda targets: [end.close() for end in socket.socketpair()])


def _connect(family: int, address: object) -> None:
    with socket.socket(family) as ours:
        ours.connect(address)  # type: ignore[arg-type]


attempt("speak to a socket at a path")(lambda targets: _connect(1, targets["path"]))
attempt("speak to an abstract socket")(lambda targets: _connect(1, "\0" + targets["abstract"]))
attempt("speak to a port of this machine")(lambda targets: _connect(2, ("127.0.0.1", targets["port"])))
attempt("give a signal to another process")(lambda targets: os.kill(targets["victim"], 0))
attempt("trace another process")(lambda targets: in_child(lambda: call("ptrace", SEIZE, targets["victim"], 0, 0)))
attempt("compare with another process")(lambda targets: call("kcmp", os.getpid(), targets["victim"], 0, 0, 0))
attempt("trace its parent")(lambda targets: in_child(lambda: call("ptrace", SEIZE, os.getppid(), 0, 0)))
attempt("get a user namespace (unshare)")(lambda targets: in_child(lambda: call("unshare", NEWUSER)))
attempt("get a namespace of mounts")(lambda targets: in_child(lambda: call("unshare", 0x20000)))
attempt("enter a namespace")(lambda targets: call("setns", -1, 0, reached=errno.EBADF))
attempt("mount")(lambda targets: call("mount", b"none", b"/proc/self", b"nosuchfs", 0, None, reached=errno.ENODEV))
attempt("open a tree of mounts")(lambda targets: os.close(call("open_tree", -100, b"/", 1)))
attempt("change its root")(lambda targets: in_child(lambda: call("chroot", b"/")))
attempt("load a program into the kernel (bpf)")(
    lambda targets: os.close(call("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128)))
attempt("get a ring (io_uring)")(lambda targets: os.close(call("io_uring_setup", 1, (ctypes.c_uint32 * 30)())))
attempt("ask the keyrings (keyctl)")(lambda targets: call("keyctl", 0, -2, 1))
attempt("add a key")(lambda targets: call("add_key", b"user", b"job", b"x", 1, -2))
attempt("count events (perf)")(
    lambda targets: os.close(call("perf_event_open", (ctypes.c_uint64 * 16)(1 | SIZE_OF_PERF << 32), 0, -1, -1, 0)))
attempt("handle page faults (userfaultfd)")(lambda targets: os.close(call("userfaultfd", 1)))
attempt("get shared memory (SysV)")(lambda targets: call("shmctl", call("shmget", 0, 4096, SHM), 0, None))
attempt("set the clock")(lambda targets: call("clock_settime", 0, None, reached=errno.EFAULT))
attempt("name this machine")(lambda targets: call("sethostname", os.uname().nodename.encode(),
                                                  len(os.uname().nodename.encode())))
attempt("become another user")(lambda targets: in_child(lambda: call("setuid", 12346)))
attempt("read the kernel's log")(lambda targets: call("syslog", 10, None, 0))
attempt("be scheduled in real time")(lambda targets: in_child(
    lambda: call("sched_setscheduler", 0, 1, ctypes.byref(ctypes.c_int(1)))))


@attempt("clone into a user namespace")
def _(targets: Targets) -> None:
    pid = call("clone", NEWUSER | signal.SIGCHLD, None, None, None, None)
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


@attempt("run 600 processes at once")
def _(targets: Targets) -> None:
    children: list[int] = []
    try:
        for _ in range(600):
            pid = os.fork()
            if not pid:
                signal.pause()
            children.append(pid)
    except OSError as error:
        raise Denied(f"{error.strerror} after {len(children)}") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


@attempt("fill 5 MB of its directory")
def _(targets: Targets) -> None:
    try:
        with open("big", "wb", buffering=0) as file:
            for _ in range(80):
                file.write(bytes(1 << 16))
    finally:
        os.unlink("big")


@attempt("leave 1,100 files in its directory")
def _(targets: Targets) -> None:
    for number in range(1100):
        os.close(os.open(f"left-{number}", os.O_WRONLY | os.O_CREAT))


@attempt("execute what it spilled")  # last: afterwards it has no spill files any more
def _(targets: Targets) -> None:
    held = spilled(b"#!/bin/sh\nexit 0\n")
    os.fchmod(held, 0o700)
    again = os.open(f"/proc/self/fd/{held}", os.O_RDONLY)
    for number in range(3, 30):  # what is open for writing is not executed
        path = f"/proc/self/fd/{number}"
        if number != again and os.path.lexists(path) and os.readlink(path).endswith(" (deleted)"):
            os.close(number)
    os.set_inheritable(again, True)
    in_child(lambda: os.execv(f"/proc/self/fd/{again}", ["spilled"]))


def map(key: int, line: str) -> Iterator[tuple[str, str]]:
    """Every attempt on the targets of a line."""
    targets = json.loads(line)
    for what, function in ATTEMPTS.items():
        try:
            function(targets)
            yield what, "allowed"
        except OSError as error:
            yield what, errno.errorcode.get(error.errno or 0, str(error))
        except Denied as reason:
            yield what, str(reason)


async def run(kind: str, directory: str, targets: str) -> dict[str, str]:
    from ipdc_edge.drivers.runner_bubblewrap import RunnerBubblewrap
    from ipdc_edge.drivers.runner_child import RunnerProcess
    from tests.drivers.test_runner import MAP_FILE, MODULE, do, in_pieces, spec

    runner = {"bubblewrap": RunnerBubblewrap, "rlimits": RunnerProcess}[kind](directory)
    try:
        with open(__file__, "rb") as file:
            await runner.start(spec(), in_pieces({"Map.py": file.read()}), MODULE, "job")
        _, streams = await do(runner, MAP_FILE, [[targets.encode()]])
    finally:
        await runner.close()
    text = b"".join(streams.written[0]).decode()
    return dict(line.split("\t") for line in text.splitlines())


if __name__ == "__main__":
    import asyncio

    began = time.monotonic()
    print(json.dumps(asyncio.run(run(*sys.argv[1:4]))))
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
