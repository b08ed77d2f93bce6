"""Which system calls a runner in bubblewrap may make: a filter for the kernel, as data.

Owns the denied names with their numbers on each kind of processor, and the program for seccomp(2) made of them. It
denies what systemd/ipdc-runner@.service does; tests/drivers/test_system_calls.py holds the two together. Never loads a
filter and never opens anything but the interpreter's own file: bubblewrap loads it, see --seccomp in bwrap(1).

Calls that are younger than the list do not exist for a runner (ENOSYS), so that the C library takes an older one.
Source: linux/filter.h, linux/seccomp.h, linux/audit.h; numbers as libseccomp has them.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

# Machine word in which the list below says its numbers, and what ELF and the kernel call it: ((class, e_machine),
# AUDIT_ARCH_...). elf(5), linux/elf-em.h.
MACHINES = ("x86_64", "aarch64", "arm", "i386")
ELF = {(2, 62): "x86_64", (2, 183): "aarch64", (1, 40): "arm", (1, 3): "i386"}
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028, "i386": 0x40000003}
LAST = 450  # the youngest number that the list knows of, the same on all: set_mempolicy_home_node, Linux 5.17
PRIVATE = {"arm": (0xF0001, 0xF0006)}  # numbers beyond it that every program there needs: set_tls, cacheflush

# name:number on each of MACHINES, - where there is none
DENIED = """
acct:163,89,51,51 add_key:248,217,309,286 adjtimex:159,171,124,124 bpf:321,280,386,357 capset:126,91,185,185
chown32:-,-,212,212 chown:92,-,182,182 chroot:161,51,61,61 clock_adjtime64:-,-,405,405 clock_adjtime:305,266,372,343
clock_settime64:-,-,404,404 clock_settime:227,112,262,264 delete_module:176,106,129,129 fanotify_init:300,262,367,338
fanotify_mark:301,263,368,339 fchown32:-,-,207,207 fchown:93,55,95,95 fchownat:260,54,325,298
finit_module:313,273,379,350 fsconfig:431,431,431,431 fsmount:432,432,432,432 fsopen:430,430,430,430
fspick:433,433,433,433 init_module:175,105,128,128 io_uring_enter:426,426,426,426 io_uring_register:427,427,427,427
io_uring_setup:425,425,425,425 ioperm:173,-,-,101 iopl:172,-,-,110 ioprio_set:251,30,314,289 ipc:-,-,-,117
kcmp:312,272,378,349 kexec_file_load:320,294,401,- kexec_load:246,104,347,283 keyctl:250,219,311,288
landlock_add_rule:445,445,445,445 landlock_create_ruleset:444,444,444,444 landlock_restrict_self:446,446,446,446
lchown32:-,-,198,198 lchown:94,-,16,16 lookup_dcookie:212,18,249,253 mbind:237,235,319,274
memfd_create:319,279,385,356 memfd_secret:447,447,-,447 migrate_pages:256,238,400,294 mincore:27,232,219,218
modify_ldt:154,-,-,123 mount:165,40,21,21 mount_setattr:442,442,442,442 move_mount:429,429,429,429
move_pages:279,239,344,317 mq_open:240,180,274,277 msgctl:71,187,304,402 msgget:68,186,303,399 msgrcv:70,188,302,401
msgsnd:69,189,301,400 name_to_handle_at:303,264,370,341 nice:-,-,34,34 old_mmap:-,-,-,90
open_by_handle_at:304,265,371,342 open_tree:428,428,428,428 pciconfig_iobase:-,-,271,- pciconfig_read:-,-,272,-
pciconfig_write:-,-,273,- perf_event_open:298,241,364,336 pidfd_getfd:438,438,438,438 pivot_root:155,41,218,217
pkey_alloc:330,289,395,381 pkey_free:331,290,396,382 pkey_mprotect:329,288,394,380 process_mrelease:448,448,448,448
process_vm_readv:310,270,376,347 process_vm_writev:311,271,377,348 ptrace:101,117,26,26 quotactl:179,60,131,131
quotactl_fd:443,443,443,443 reboot:169,142,88,88 request_key:249,218,310,287 sched_setaffinity:203,122,241,241
sched_setattr:314,274,380,351 sched_setparam:142,118,154,154 sched_setscheduler:144,119,156,156
seccomp:317,277,383,354 semctl:66,191,300,394 semget:64,190,299,393 semop:65,193,298,- semtimedop:220,192,312,-
set_mempolicy:238,237,321,276 set_mempolicy_home_node:450,450,450,450 setdomainname:171,162,121,121
setfsuid32:-,-,215,215 setfsuid:122,151,138,138 setgroups32:-,-,206,206 setgroups:116,159,81,81
sethostname:170,161,74,74 setns:308,268,375,346 setpriority:141,140,97,97 setresuid32:-,-,208,208
setresuid:117,147,164,164 setreuid32:-,-,203,203 setreuid:113,145,70,70 setrlimit:160,164,75,75
settimeofday:164,170,79,79 setuid32:-,-,213,213 setuid:105,146,23,23 sgetmask:-,-,-,68 shmat:30,196,305,397
shmctl:31,195,308,396 shmget:29,194,307,395 socketcall:-,-,-,102 ssetmask:-,-,-,69 stime:-,-,-,25
swapoff:168,225,115,115 swapon:167,224,87,87 sysfs:139,-,135,135 syslog:103,116,103,103 umount2:166,39,52,52
umount:-,-,-,22 unshare:272,97,337,310 uselib:134,-,86,86 userfaultfd:323,282,388,374 ustat:136,-,62,62
vhangup:153,58,111,111 vm86:-,-,-,166 vm86old:-,-,-,113
"""
# Denied where there is no network, beside socket(2) itself.
SOCKETS = "accept:43,202,285,- accept4:288,242,366,364 bind:49,200,282,361 connect:42,203,283,362 " \
    "listen:50,201,284,363 socketpair:53,199,288,360"
# Denied, or not, by what they are told.
TOLD = """
clone:56,220,120,120 clone3:435,435,435,435 mmap:9,222,-,- mmap2:-,-,192,192 mprotect:10,226,125,125
personality:135,92,136,136 socket:41,198,281,359
"""

MAKING_CODE = ("mmap", "mmap2", "mprotect")

NAMESPACES = 0x7E020000  # CLONE_NEW* of clone(2), but CLONE_NEWTIME, which only unshare and clone3 take
WRITE, EXECUTE = 2, 4  # PROT_* of mmap(2)
PERSONALITY_ASKED, PERSONALITY_NONE = 0xFFFFFFFF, 0  # personality(2)
FAMILIES = (2, 10)  # AF_INET, AF_INET6

# struct sock_filter: code, jumps when true and false, constant; offsets in struct seccomp_data
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _AND, _EQUAL, _ABOVE, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
_DENY = _ERROR | errno.EPERM

Instruction = tuple[int, int, int, int]


def machine_of(program: str = sys.executable) -> str:
    """The word of MACHINES for what a program is made for; "" for any other. The kernel's own may differ: 32-bit
    programs run on 64-bit ones. OSError."""
    with open(os.path.realpath(program), "rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or head[5] != 1:  # all in the list are little-endian
        return ""
    return ELF.get((head[4], int.from_bytes(head[18:20], "little")), "")


def numbers(text: str, machine: str) -> dict[str, int]:
    """{name: number} of a list above on one machine."""
    column = MACHINES.index(machine)
    found = {}
    for word in text.split():
        name, _, columns = word.partition(":")
        number = columns.split(",")[column]
        if number != "-":
            found[name] = int(number)
    return found


def filter_program(machine: str, network: bool, code: bool = False) -> bytes:
    """The filter, as an array of struct sock_filter. network: whether sockets of the Internet's families may be; code:
    whether a program may make code while it runs, as TensorFlow's kernels do."""
    denied = set(numbers(DENIED, machine).values())
    if not network:
        denied |= set(numbers(SOCKETS, machine).values())
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),  # another machine's numbers mean other calls
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine in PRIVATE:
        low, high = PRIVATE[machine]
        lines += [(_AT_LEAST, 0, 2, low), (_ABOVE, 1, 0, high), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_AT_LEAST, 0, 1, LAST + 1), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    for number in sorted(denied):
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _DENY)]
    for name, number in numbers(TOLD, machine).items():
        if code and name in MAKING_CODE:
            continue
        answer = _told(name, network)
        lines += [(_EQUAL, 0, len(answer), number), *answer]  # each answer ends the program
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*line) for line in lines)


def _told(name: str, network: bool) -> list[Instruction]:
    """What is answered to a call by what it is told."""
    if name == "clone3":  # its flags lie in memory, where no filter looks; without it clone is taken
        return [(_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    if name == "clone":
        return [_argument(0), (_AND, 0, 0, NAMESPACES), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _DENY),
                (_RETURN, 0, 0, _ALLOW)]
    if name == "mprotect":
        return [_argument(2), (_AND, 0, 0, EXECUTE), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _DENY),
                (_RETURN, 0, 0, _ALLOW)]
    if name in ("mmap", "mmap2"):
        return [_argument(2), (_AND, 0, 0, WRITE | EXECUTE), (_EQUAL, 0, 1, WRITE | EXECUTE), (_RETURN, 0, 0, _DENY),
                (_RETURN, 0, 0, _ALLOW)]
    allowed = (PERSONALITY_ASKED, PERSONALITY_NONE) if name == "personality" else FAMILIES if network else ()
    checks: list[Instruction] = []
    for value in allowed:
        checks += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [_argument(0), *checks, (_RETURN, 0, 0, _DENY)]


def _argument(number: int) -> Instruction:
    """Loads the low half of an argument; all of these are ints there."""
    return _LOAD, 0, 0, _ARGUMENTS + 8 * number
