"""The filter of system calls: its numbers, what the program decides for each machine, and that it denies what the unit
does."""

from __future__ import annotations

import ctypes
import errno
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ipdc_edge.drivers import system_calls
from ipdc_edge.drivers.system_calls import AUDIT, DENIED, LAST, MACHINES, SOCKETS, TOLD, filter_program, numbers

CHECKOUT = Path(__file__).resolve().parents[2]
ALLOW, KILL = 0x7FFF0000, 0x80000000
DENY, ABSENT = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def decision(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: the few instructions of classic BPF that the program uses; linux/bpf_common.h."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = list(struct.iter_unpack("=HBBI", program))
    held = at = 0
    for _ in range(len(lines)):
        code, true, false, value = lines[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            (held,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            held &= value
        else:
            at += true if {0x15: held == value, 0x25: held > value, 0x35: held >= value}[code] else false
    raise AssertionError("no answer")


def named(machine: str) -> dict[str, int]:
    return numbers(DENIED + SOCKETS + TOLD, machine)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_denied_and_what_is_not(machine: str, network: bool) -> None:
    program, known, token = filter_program(machine, network), named(machine), AUDIT[machine]

    def ask(name: str, *arguments: int) -> int:
        return decision(program, token, known[name], *arguments)

    for name in numbers(DENIED, machine):
        assert ask(name) == DENY, name
    for name in numbers(SOCKETS, machine):
        assert ask(name) == (ALLOW if network else DENY), name
    for family in (1, 2, 10, 16, 17):  # UNIX, INET, INET6, NETLINK, PACKET
        assert ask("socket", family, 1) == (ALLOW if network and family in (2, 10) else DENY)
    assert ask("clone3") == ABSENT
    assert ask("clone", 17) == ask("clone", 0x3D0F00) == ALLOW  # fork, a thread
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", flag | 17) == DENY
    mmap = "mmap" if "mmap" in known else "mmap2"
    assert [ask(mmap, 0, 4096, protection) for protection in (1, 3, 5, 7, 6)] == [ALLOW, ALLOW, ALLOW, DENY, DENY]
    assert [ask("mprotect", 0, 4096, protection) for protection in (1, 3, 5)] == [ALLOW, ALLOW, DENY]
    assert [ask("personality", value) for value in (0xFFFFFFFF, 0, 0x40000)] == [ALLOW, ALLOW, DENY]
    assert decision(program, token, LAST + 1) == decision(program, token, 0x40000000 + 41) == ABSENT
    taken = set(known.values())
    assert all(decision(program, token, number) == ALLOW for number in range(LAST) if number not in taken)
    assert decision(program, AUDIT["i386" if machine == "x86_64" else "x86_64"], 0) == KILL
    private = [decision(program, token, number) for number in (0xF0000, 0xF0001, 0xF0005, 0xF0006, 0xF0007)]
    assert private == ([ABSENT, ALLOW, ALLOW, ALLOW, ABSENT] if machine == "arm" else [ABSENT] * 5)


def test_the_numbers_are_those_of_libseccomp() -> None:
    """Of apt and systemd, so it is on every Debian."""
    for machine in MACHINES:
        for name, number in named(machine).items():
            assert called(machine, number) == name.removeprefix("old_"), (machine, number)


def called(machine: str, number: int) -> str:
    """A call's name, "" where libseccomp knows of none."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    text = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(AUDIT[machine]), number)
    return ctypes.string_at(text).decode() if text else ""


def test_what_programs_are_made_for(tmp_path: Path) -> None:
    assert system_calls.machine_of() in MACHINES
    program = tmp_path / "program"
    for head, machine in ((b"\x7fELF\1\1" + bytes(12) + b"\x28\0", "arm"), (b"\x7fELF\2\2" + bytes(13) + b"\x15", ""),
                          (b"\x7fELF\1\1" + bytes(12) + b"\x3e\0", ""), (b"#!/bin/sh\n", "")):
        program.write_bytes(head)
        assert system_calls.machine_of(str(program)) == machine


# What libseccomp knows by name and no kernel has.
NEVER = set(
    "afs_syscall break gtty idle lock mpx prof profil putpmsg getpmsg security stty tuxcall vserver ulimit "
    "create_module get_kernel_syms query_module bdflush ftime _sysctl nfsservctl arm_sync_file_range".split())


@pytest.mark.package
@pytest.mark.parametrize("machine", MACHINES)
def test_it_denies_what_the_unit_denies(machine: str) -> None:
    assert shutil.which("systemd-analyze"), "systemd is not installed"
    allowed = group("@system-service") | group("@default")
    unit = (CHECKOUT / "systemd/ipdc-runner@.service").read_text()
    for line in re.findall(r"^SystemCallFilter=~(.*)$", unit, re.M):
        for word in line.split():
            allowed -= group(word)
    known, program, token = set(), filter_program(machine, False), AUDIT[machine]
    for number in range(LAST + 1):
        name = called(machine, number)
        if name and name not in allowed | NEVER:
            known.add(name)
            assert decision(program, token, number) == DENY, name
    print(f"{machine}: {len(known)} calls that the unit denies are denied")
    assert len(known) > 90


def group(name: str) -> set[str]:
    """The calls of a group of systemd's."""
    if not name.startswith("@"):
        return {name}
    said = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    lines = (line.strip() for line in said.stdout.splitlines()[1:])
    return {call for line in lines if line and not line.startswith("#") for call in group(line)}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_role_makes_code_while_it_runs_and_may_do_no_more_than_others_else(machine: str) -> None:
    role, other, token = filter_program(machine, True, True), filter_program(machine, True), AUDIT[machine]
    known = named(machine)
    making = {known[name] for name in ("mmap", "mmap2", "mprotect") if name in known}
    for number in range(LAST):
        if number not in making:
            assert decision(role, token, number, 5) == decision(other, token, number, 5)
    assert all(decision(role, token, number, 0, 4096, 7) == ALLOW for number in making)
