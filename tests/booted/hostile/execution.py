"""Attempts to execute what the job itself wrote, wherever it can write, and to get more rights by a program."""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import subprocess

import raw
from attempts import Refused, Targets, attempt

READ, WRITE, EXECUTE = 1, 2, 4
SHARED, PRIVATE, ANONYMOUS = 1, 2, 32
READ_IMPLIES_EXEC = 0x0400000
PAGE = 4096


def _map(length: int, protection: int, flags: int, descriptor: int = -1) -> int:
    address: int | None = raw.function("mmap")(None, length, protection, flags, descriptor, 0)  # type: ignore[operator]
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def _protect(address: int, protection: int) -> None:
    if raw.function("mprotect")(ctypes.c_void_p(address), PAGE, protection):  # type: ignore[operator]
        raise OSError(ctypes.get_errno(), "mprotect")


def _written(path: str = "program-left-by-a-job") -> str:
    shutil.copyfile("/bin/true", path)
    os.chmod(path, 0o755)
    return os.path.abspath(path)


def _ran(words: list[str]) -> str:
    child = os.posix_spawn(words[0], words, {})
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise Refused(f"exit status {status}")
    return "it ran"


def _spill() -> int:
    """A file that the daemon gave to the runner; elsewhere one of the same kind."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if "scratch/" in os.readlink(f"/proc/self/fd/{name}"):
                return int(name)
        except OSError:
            continue
    return os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)


@attempt("runs a program that it wrote")
def own_file(_targets: Targets) -> str:
    return _ran([_written()])


@attempt("runs a program that it wrote by the loader")
def by_loader(_targets: Targets) -> str:
    return _ran([glob.glob("/lib*/ld-linux-*.so.*")[0], _written()])


@attempt("runs a script that it wrote")
def own_script(_targets: Targets) -> str:
    with open("script-left-by-a-job", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod("script-left-by-a-job", 0o755)
    return _ran([os.path.abspath("script-left-by-a-job")])


@attempt("runs a script that it wrote by its interpreter")
def interpreted(_targets: Targets) -> str:
    with open("script-left-by-a-job", "w") as file:
        file.write("true\n")
    return _ran(["/bin/sh", "script-left-by-a-job"])


@attempt("runs a program from memory (memfd)")
def in_memory(_targets: Targets) -> str:
    memory = raw.call("memfd_create", b"program", 0)
    with open("/bin/true", "rb") as true:
        os.write(memory, true.read())
    return _ran([f"/proc/self/fd/{memory}"])


@attempt("runs a program from a spill file")
def from_spill(_targets: Targets) -> str:
    spill = _spill()
    with open("/bin/true", "rb") as true:
        os.pwrite(spill, true.read(), 0)
    os.chmod(spill, 0o755)
    readable = os.open(f"/proc/self/fd/{spill}", os.O_RDONLY)
    os.close(spill)
    return _ran([f"/proc/self/fd/{readable}"])


@attempt("maps a spill file as code")
def map_spill(_targets: Targets) -> str:
    spill = _spill()
    os.pwrite(spill, bytes(PAGE), 0)
    return hex(_map(PAGE, READ | EXECUTE, PRIVATE, spill))


@attempt("maps a file that it wrote as code")
def map_file(_targets: Targets) -> str:
    with open(_written(), "rb") as file:
        return hex(_map(PAGE, READ | EXECUTE, PRIVATE, file.fileno()))


@attempt("maps memory for writing and executing")
def writable_code(_targets: Targets) -> str:
    return hex(_map(PAGE, READ | WRITE | EXECUTE, PRIVATE | ANONYMOUS))


@attempt("makes code of memory that it wrote (mprotect)")
def protect(_targets: Targets) -> str:
    address = _map(PAGE, READ | WRITE, PRIVATE | ANONYMOUS)
    _protect(address, READ | EXECUTE)
    return hex(address)


@attempt("has all memory executable (personality)")
def personality(_targets: Targets) -> str:
    raw.call("personality", READ_IMPLIES_EXEC)
    return "set"


@attempt("changes its own code by /proc/self/mem")
def own_memory(_targets: Targets) -> str:
    address = ctypes.cast(raw.function("getppid"), ctypes.c_void_p).value  # type: ignore[arg-type]
    with open("/proc/self/mem", "r+b", buffering=0) as file:
        file.seek(address or 0)
        byte = file.read(1)
        file.seek(address or 0)
        file.write(byte)
    return "a byte, as it was"


@attempt("gets root's rights by a set-user-id program")
def set_user_id(_targets: Targets) -> str:
    user = 1 if os.getuid() == 0 else None  # for root it would be nothing new
    said = subprocess.run(["/usr/local/bin/set-user-id", "-u"], capture_output=True, user=user).stdout
    if said.strip() != b"0":
        raise Refused(f"it runs as {said.decode().strip()}")
    return "user 0"
