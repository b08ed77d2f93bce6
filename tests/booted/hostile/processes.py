"""Attempts on other processes: the daemon, a service of the node's owner, and the runner of another job."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

import raw
from attempts import Refused, Targets, attempt

WHO = {"daemon": "the daemon", "service": "a service", "peer": "another job's runner"}
PTRACE_SEIZE = 0x4206
MANY = 200  # processes or threads


def _seen(pid: int) -> str:
    if str(pid) not in os.listdir("/proc"):
        raise Refused("not in /proc")
    return f"/proc/{pid}"


def _read(name: str) -> object:
    def read(pid: int) -> str:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return f"{len(file.read(4096)) if name != 'mem' else 'open'}"
    return read


def _descriptors(pid: int) -> str:
    return f"{len(os.listdir(f'/proc/{pid}/fd'))} of them"


def _signal(pid: int) -> str:
    os.kill(pid, 0)
    return "signal 0"


def _pidfd(pid: int) -> str:
    return f"descriptor {raw.call('pidfd_open', pid, 0)}"


def _pidfd_signal(pid: int) -> str:
    raw.call("pidfd_send_signal", raw.call("pidfd_open", pid, 0), 0, None, 0)
    return "signal 0"


def _pidfd_getfd(pid: int) -> str:
    return f"descriptor {raw.call('pidfd_getfd', raw.call('pidfd_open', pid, 0), 0, 0)}"


def _trace(pid: int) -> str:
    raw.call("ptrace", PTRACE_SEIZE, pid, 0, 0)
    return "seized"  # let go with the end of this process


def _memory(pid: int) -> str:
    buffer = ctypes.create_string_buffer(8)
    ours = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    theirs = (ctypes.c_void_p * 2)(4096, 8)
    raw.call("process_vm_readv", pid, ours, 1, theirs, 1, 0, reached=(14,))  # EFAULT: nothing lies there
    return "reached"


def _compare(pid: int) -> str:
    return f"{raw.call('kcmp', os.getpid(), pid, 0, 0, 0)}"


def _limits(pid: int) -> str:
    if os.getuid() == 0:  # in the sandbox it is nobody: unsandboxed it is who the other is
        owner = os.stat(f"/proc/{pid}")
        os.setgroups([])
        os.setresgid(*[owner.st_gid] * 3)
        os.setresuid(*[owner.st_uid] * 3)
    return f"{raw.call('prlimit64', pid, 7, None, (ctypes.c_uint64 * 2)())}"


def _priority(pid: int) -> str:
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
    return "the same"


def _namespace(pid: int) -> str:
    with open(f"/proc/{pid}/ns/net", "rb") as file:
        raw.call("setns", file.fileno(), 0)
    return "entered"


HOW = {"sees": _seen, "reads the environment of": _read("environ"), "reads the command line of": _read("cmdline"),
       "reads the memory of (/proc)": _read("mem"), "reads the maps of": _read("maps"),
       "lists the descriptors of": _descriptors, "signals": _signal, "gets a pidfd of": _pidfd,
       "signals by pidfd": _pidfd_signal, "takes a descriptor of (pidfd_getfd)": _pidfd_getfd,
       "traces (ptrace)": _trace, "reads the memory of (process_vm_readv)": _memory,
       "compares itself with (kcmp)": _compare, "reads the limits of": _limits, "sets the priority of": _priority,
       "enters the namespaces of (setns)": _namespace}  # fmt: skip


def _against(how: object, who: str) -> object:
    return lambda targets: how(int(str(targets[who])))  # type: ignore[operator]


for _who, _words in WHO.items():
    for _what, _how in HOW.items():
        attempt(f"{_what} {_words}")(_against(_how, _who))  # type: ignore[arg-type]


@attempt("reads another job's file in its directory")
def peers_file(targets: Targets) -> str:
    with open(f"/proc/{targets['peer']}/cwd/open-to-all", "rb") as file:
        return file.read(100).decode()


@attempt("finds another job's file where it has its own")
def shared_directory(targets: Targets) -> str:
    with open(str(targets["shared"]), "rb") as file:
        return file.read(100).decode()


@attempt("finds another job's abstract socket")
def peers_socket(targets: Targets) -> str:
    import socket

    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect("\0" + str(targets["peers_abstract"]))
    return "connected"


@attempt("finds another job's shared memory (SysV)")
def shared_memory(targets: Targets) -> str:
    return f"{raw.call('shmget', int(str(targets['key'])), 4096, 0)}"


@attempt(f"forks {MANY} processes")
def bomb(_targets: Targets) -> str:
    children = []
    try:
        for _ in range(MANY):
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"{len(children)}"


@attempt(f"starts {MANY} threads")
def threads(_targets: Targets) -> str:
    end = threading.Event()
    threading.stack_size(64 << 10)
    try:
        for _ in range(MANY):
            try:
                threading.Thread(target=end.wait, daemon=True).start()
            except RuntimeError as error:
                raise Refused(str(error)) from None
    finally:
        end.set()
    return f"{MANY}"


@attempt("opens 600 descriptors")
def descriptors(_targets: Targets) -> str:
    found: list[int] = []
    while len(found) < 600:
        found.append(os.dup(0))
    return f"{len(found)}"


@attempt("takes 300 MB of memory that is shared")
def shared_map(_targets: Targets) -> str:
    import mmap

    with mmap.mmap(-1, 300 << 20) as held:
        for at in range(0, 300 << 20, 1 << 20):
            held[at] = 1
    return "300 MB"
