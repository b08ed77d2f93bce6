"""Attempts at what the kernel gives to root alone, and at its doors that were broken in often.

Where success would do harm, an error that comes only after permission was given stands for it (`reached`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time

import raw
from attempts import Targets, attempt

ZEROS = bytes(256)
NAMESPACES = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "network": 0x40000000, "ipc": 0x8000000,
              "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}  # fmt: skip


class Time(ctypes.Structure):
    """struct timespec and timeval."""

    _fields_ = [("seconds", ctypes.c_long), ("rest", ctypes.c_long)]


def _unshare(flag: int) -> object:
    return lambda targets: raw.call("unshare", flag)


def _clone(flag: int) -> object:
    def clone(_targets: Targets) -> str:
        arguments = (ctypes.c_uint64 * 8)(flag, 0, 0, 0, 17)  # struct clone_args; SIGCHLD
        child = raw.call("clone3", arguments, 64)
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return "a process in it"
    return clone


def _clone_of_old(flag: int) -> object:
    def clone(_targets: Targets) -> str:
        child = raw.call("clone", flag | 17, 0, 0, 0, 0)
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return "a process in it"
    return clone


for _name, _flag in NAMESPACES.items():
    attempt(f"makes a {_name} namespace (unshare)")(_unshare(_flag))  # type: ignore[arg-type]
for _name, _flag in list(NAMESPACES.items())[:4]:
    attempt(f"makes a {_name} namespace (clone)")(_clone_of_old(_flag))  # type: ignore[arg-type]
    attempt(f"makes a {_name} namespace (clone3)")(_clone(_flag))  # type: ignore[arg-type]

CALLS: dict[str, tuple[object, ...]] = {  # what: (call, arguments..., errors that come after permission)
    "mounts": ("mount", b"none", b"/mnt", b"nosuchfs", 0, None, (errno.ENODEV,)),
    "mounts by the new calls (fsopen)": ("fsopen", b"tmpfs", 0, ()),
    "copies a mount (open_tree)": ("open_tree", -100, b"/", 1, ()),
    "unmounts": ("umount2", b"/usr", 0, (errno.EINVAL,)),
    "changes its root (chroot)": ("chroot", b"/", ()),
    "changes its root (pivot_root)": ("pivot_root", b"/", b"/", (errno.EINVAL, errno.EBUSY)),
    "loads a program into the kernel (bpf)": ("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128, ()),
    "gets a ring (io_uring)": ("io_uring_setup", 1, (ctypes.c_uint32 * 30)(), ()),
    "asks the keyrings (keyctl)": ("keyctl", 0, -2, 1, ()),
    "adds a key": ("add_key", b"user", b"job", b"x", 1, -2, ()),
    "requests a key": ("request_key", b"user", b"nosuchkey", None, 0, (errno.ENOKEY,)),
    "counts events (perf)": ("perf_event_open", (ctypes.c_uint64 * 16)(1 | 112 << 32, 0), 0, -1, -1, 0, ()),
    "handles page faults (userfaultfd)": ("userfaultfd", 1, ()),
    "loads another kernel (kexec)": ("kexec_load", 0, 0, None, 0xFF00, (errno.EINVAL,)),
    "loads a module": ("init_module", None, 0, b"", (errno.EFAULT, errno.ENOEXEC)),
    "reboots": ("reboot", 0, 0, 0, None, (errno.EINVAL,)),
    "gives swap": ("swapon", b"/nowhere", 0, (errno.ENOENT,)),
    "makes a device file": ("mknodat", -100, b"device-left-by-a-job", 0o60600, 7 << 8, (errno.EEXIST,)),
    "makes SysV shared memory": ("shmget", 0, 4096, 0o1600, ()),
    "makes SysV semaphores": ("semget", 0, 1, 0o1600, ()),
    "makes a SysV message queue": ("msgget", 0, 0o1600, ()),
    "makes a POSIX message queue": ("mq_open", b"left-by-a-job", os.O_CREAT | os.O_RDWR, 0o600, None, ()),
    "becomes root": ("setuid", 0, ()),
    "becomes another user": ("setuid", 1, ()),
    "enters root's group": ("setgid", 0, ()),
    "enters more groups": ("setgroups", 1, (ctypes.c_uint32 * 1)(0), ()),
    "takes capabilities": ("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[1 << 21] * 2), ()),
    "takes a better priority": ("setpriority", 0, 0, -5, ()),
    "takes a better place at the disk (ioprio)": ("ioprio_set", 1, 0, 1 << 13, ()),
    "runs in real time": ("sched_setscheduler", 0, 1, (ctypes.c_int * 1)(1), ()),
    "chooses its processors": ("sched_setaffinity", 0, 8, (ctypes.c_uint64 * 1)(1), ()),
    "reads the kernel's messages (syslog)": ("syslog", 10, None, 0, ()),
    "looks at all files (fanotify)": ("fanotify_init", 0, 0, ()),
    "opens by handle": ("open_by_handle_at", -100, ZEROS, 0, (errno.EINVAL, errno.ESTALE)),
    "names a handle": ("name_to_handle_at", -100, b"/dev/null", (ctypes.c_uint32 * 40)(128), (ctypes.c_int * 1)(), 0,
                       ()),
    "sets quotas": ("quotactl", 0x800001 << 8, b"/nowhere", 0, None, (errno.ENOENT, errno.ENOTBLK, errno.EINVAL)),
    "ends accounting": ("acct", None, ()),
    "hides memory from the kernel (memfd_secret)": ("memfd_secret", 0, ()),
    "sets the clock's time zone": ("settimeofday", None, (ctypes.c_int * 2)(0, 0), ()),
}


def _call(name: str, *rest: object) -> object:
    *arguments, reached = rest
    return lambda targets: raw.call(name, *arguments, reached=reached)  # type: ignore[arg-type]


for _name, _words in CALLS.items():
    attempt(_name)(_call(*_words))  # type: ignore[arg-type]


@attempt("sets the clock")
def clock(_targets: Targets) -> str:
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    raw.call("clock_settime", 0, ctypes.byref(Time(now // 10**9, now % 10**9)))
    return "to the present"


@attempt("corrects the clock (adjtimex)")
def adjust(_targets: Targets) -> str:
    timex = (ctypes.c_long * 32)()  # struct timex; 0 in `modes` only reads
    raw.call("adjtimex", timex)
    timex[0] = 0x4000  # ADJ_TICK: as it is
    raw.call("adjtimex", timex)
    return "as it is"


@attempt("names the machine")
def name(_targets: Targets) -> str:
    own = socket.gethostname().encode()
    raw.call("sethostname", own, len(own))
    return "as it is"


@attempt("names the machine's domain")
def domain(_targets: Targets) -> str:
    raw.call("setdomainname", b"(none)", 6)
    return "(none)"
