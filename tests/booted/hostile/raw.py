"""System calls by their numbers, past every library that could refuse one before the kernel does."""

from __future__ import annotations

import ctypes
import os

# name: (x86_64, aarch64); arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "capset": (126, 91),
    "chroot": (161, 51), "clone": (56, 220), "clock_settime": (227, 112), "clone3": (435, 435),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430), "init_module": (175, 105), "io_uring_setup": (425, 425), "ioprio_set": (251, 30),
    "kcmp": (312, 272), "kexec_load": (246, 104), "keyctl": (250, 219), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "mknodat": (259, 33), "mount": (165, 40), "mq_open": (240, 180),
    "msgget": (68, 186), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prlimit64": (302, 261),
    "process_vm_readv": (310, 270), "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "semget": (64, 190), "setdomainname": (171, 162), "setgid": (106, 144), "setgroups": (116, 159),
    "sethostname": (170, 161), "setns": (308, 268), "setpriority": (141, 140), "settimeofday": (164, 170),
    "setuid": (105, 146), "shmget": (29, 194), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97), "userfaultfd": (323, 282),
}  # fmt: skip
COLUMN = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: object, reached: tuple[int, ...] = ()) -> int:
    """What the kernel answers; OSError for a refusal. `reached` are errors that come only after permission was given,
    for calls whose success would be no harmless thing."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    answer: int = _libc.syscall(ctypes.c_long(NUMBERS[name][COLUMN]), *words)
    if answer < 0 and ctypes.get_errno() not in reached:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def function(name: str) -> object:
    """One of the C library's own, for mmap(2) and what goes with it; `errno` by ctypes.get_errno."""
    found = getattr(_libc, name)
    found.restype = ctypes.c_void_p if name == "mmap" else ctypes.c_int
    return found
