"""Which program a command line names, and how it is started: by itself, by an interpreter, from a descriptor.

Owns the search for programs and interpreters and what is told when one is not there. Never starts anything.
Files that travelled with the job come before those of the node. A script runs by the interpreter of its `#!`
line, found on this node's path where the line names another place, because the working directory may forbid
execution. For the same reason, a native program runs from a descriptor: one that the daemon has opened, or in
run-inline a sealed file without a name (memfd_create(2)).
"""

from __future__ import annotations

import os

from ipdc_edge.codec.open_file import ELF
from ipdc_edge.errors import IpdcError
from ipdc_edge.runner.shipped import OpenFile

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from typing import NoReturn

PATH = "/usr/local/bin:/usr/bin:/bin"
MOST_FIRST_LINE = 512  # bytes of a `#!` line; the kernel takes 256
BY_SUFFIX = {".py": ["python3"], ".sh": ["sh"], ".awk": ["awk", "-f"]}
# ELF e_machine (elf.h), and which machines' kernels commonly run another's programs.
_MACHINES = {3: "i386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64",
             243: "riscv", 258: "loongarch"}
_ALSO = {62: (3,), 183: (40,)}
_PROGRAM_HEADER, _INTERPRETER = 56, 3  # bytes of an Elf64_Phdr; PT_INTERP
_MFD_EXEC = 0x10  # Linux 6.3
_F_ADD_SEALS, _ALL_SEALS = 1033, 0x0F  # fcntl(2): no more sealing, shrinking, growing, writing


class ProgramMissing(IpdcError):
    """the program {program!r} is neither among the job's files nor on this node ({path}): ship it with --file, or
    install it on the nodes"""


class InterpreterMissing(IpdcError):
    """{program} wants the interpreter {interpreter!r} ({why}), which is not on this node: install it there, or change
    {change}"""


class ProgramUnclear(IpdcError):
    """{program} says not what runs it: give it a first line like `#!/usr/bin/env python3`, or a name that ends in
    .py, .sh or .awk"""


class WrongMachine(IpdcError):
    """{program} is a native program for {machine}, and this node is {ours}: ship one that was made for the nodes'
    machine, or a script"""


class ProgramNotStarted(IpdcError):
    """{program} cannot be started on this node: {reason}"""


class Launch:
    """How a program is started: the file, its words, the descriptor to keep open meanwhile (-1: none)."""

    def __init__(self, path: str, words: list[str], descriptor: int = -1) -> None:
        self.path = path
        self.words = words
        self.descriptor = descriptor

    def close(self) -> None:
        """The program has its own copy of the descriptor once it is started."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def find_program(argv: list[str], code: dict[str, bytes]) -> Launch:
    """The launch of a command line. The errors above."""
    name, rest = argv[0].removeprefix("./"), argv[1:]
    if name in code:
        data = code[name]
        if data.startswith(ELF):
            _check_native(name, data)
            if isinstance(data, OpenFile):
                descriptor = _above_two(data.descriptor)
            else:  # run-inline has no daemon that would open it for us
                descriptor = _sealed(name, data)
            return Launch(f"/proc/self/fd/{descriptor}", [name, *rest], descriptor)
        interpreter = _interpreter(name, data)
        return Launch(interpreter[0], [*interpreter, name, *rest])
    found = _on_path(argv[0])
    if found is None:
        raise ProgramMissing(program=argv[0], path=PATH)
    return Launch(found, [argv[0], *rest])


def _on_path(name: str) -> str | None:
    """Where a program of the node lies; `python` is python3 where nothing else is called so."""
    if name.startswith("/"):
        candidates = [name]
    elif "/" in name:
        return None
    else:
        candidates = [f"{directory}/{name}" for directory in PATH.split(":")]
    for path in candidates:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    base = os.path.basename(name)
    return _on_path("python3") if base in ("python", "python2") or (base == "python3" and "/" in name) else None


def _interpreter(program: str, data: bytes) -> list[str]:
    """What stands before the script's name; by its `#!` line as execve(2) has it, else by the end of its name."""
    if not data.startswith(b"#!"):
        words = BY_SUFFIX.get(os.path.splitext(program)[1])
        if words is None:
            raise ProgramUnclear(program=program)
        found = _on_path(words[0])
        if found is None:
            raise InterpreterMissing(program=program, interpreter=words[0], why="by its name", change="its name")
        return [found, *words[1:]]
    line = data[2:MOST_FIRST_LINE].partition(b"\n")[0].decode("utf-8", "replace").strip()
    wanted, _, argument = line.partition(" ")
    words = [argument.strip()] if argument.strip() else []
    if os.path.basename(wanted) == "env":
        words = argument.split()
        if not words or words[0].startswith("-") or "=" in words[0]:
            words = ["/usr/bin/env", *argument.split()]  # what is rare is left to env itself
        wanted, *words = words
    found = _on_path(wanted) or _on_path(os.path.basename(wanted))
    if found is None:
        raise InterpreterMissing(program=program, interpreter=wanted, why="its #! line", change="that line")
    return [found, *words]


def _check_native(program: str, data: bytes) -> None:
    """WrongMachine or InterpreterMissing where the kernel would only say "Exec format error" or "No such file"."""
    with open("/proc/self/exe", "rb") as own:
        ours = own.read(20)
    order = "big" if data[5:6] == b"\x02" else "little"
    machine = int.from_bytes(data[18:20], order)  # type: ignore[arg-type]
    our_machine = int.from_bytes(ours[18:20], order)  # type: ignore[arg-type]
    if machine == our_machine and data[4:6] == ours[4:6]:
        _check_loader(program, data, order)
    elif machine not in _ALSO.get(our_machine, ()) or data[5:6] != ours[5:6]:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise WrongMachine(program=program, machine=name, ours=os.uname().machine)


def _check_loader(program: str, data: bytes, order: str) -> None:
    """The dynamic loader that the program names (elf(5), 64-bit) must be there."""
    if data[4:5] != b"\x02":
        return

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    for header in range(number(32, 8), number(32, 8) + _PROGRAM_HEADER * number(56, 2), _PROGRAM_HEADER):
        if number(header, 4) == _INTERPRETER:
            start = number(header + 8, 8)
            loader = data[start : start + number(header + 32, 8)].rstrip(b"\0")[:200].decode("utf-8", "replace")
            if "\0" not in loader and not os.path.exists(loader):
                change = "how it is linked (cc -static)"
                raise InterpreterMissing(program=program, interpreter=loader, why="its dynamic loader", change=change)


def _sealed(program: str, data: bytes) -> int:
    """A read-only descriptor of a file in memory that nobody can change any more."""
    import fcntl

    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            writable = os.memfd_create(program, flags | _MFD_EXEC)
        except OSError:  # an older kernel
            writable = os.memfd_create(program, flags)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(writable, view) :]
            fcntl.fcntl(writable, _F_ADD_SEALS, _ALL_SEALS)
            with open(f"/proc/self/fd/{writable}", "rb") as sealed:
                return _above_two(sealed.fileno())
        finally:
            os.close(writable)
    except OSError as error:
        _not_started(program, error)


def _above_two(descriptor: int) -> int:
    """Another descriptor of the same file, not 0, 1 or 2, even where the user's code has closed one of these: the
    program's pipes go there."""
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def _not_started(program: str, error: OSError) -> NoReturn:
    raise ProgramNotStarted(program=program, reason=error.strerror or str(error)) from None
