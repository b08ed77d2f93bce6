"""Hard limits of the runner's process, set before a byte of the user's code is loaded.

Owns the rlimits. Never loosens one. Memory is held by RLIMIT_DATA (heap and private anonymous memory),
counted from what the interpreter already has; RLIMIT_AS is a second, wider fence for shared mappings, wide
because libraries map far more than they use. The systemd runner adds a cgroup; where the kernel has none,
these limits are what holds.
"""

from __future__ import annotations

import resource

MEGABYTE = 1024 * 1024
LEAST_MEMORY = 8 * MEGABYTE
SPARE = 4 * MEGABYTE  # between the soft and the hard limit: what it takes to report a MemoryError
ADDRESS_SPACE = 256 * MEGABYTE  # beyond the budget
PROCESSES = 512  # of the whole user; root is not bound by it
MANY_PROCESSES = 8192  # where a program begins some hundred threads; those of other roles here may be the same user's
FILES = 512  # every file of a job may travel as a descriptor


def apply_limits(memory: int, file_size: int, processes: int = PROCESSES) -> None:
    """memory: bytes that the job may use above the interpreter's own; file_size: bytes of one spill file."""
    memory = max(memory, LEAST_MEMORY)
    data, space = _own_memory()
    _lower(resource.RLIMIT_DATA, data + memory, data + memory + SPARE)
    _lower(resource.RLIMIT_AS, space + memory + ADDRESS_SPACE)
    _lower(resource.RLIMIT_FSIZE, file_size)
    _lower(resource.RLIMIT_NOFILE, FILES)
    _lower(resource.RLIMIT_NPROC, processes)
    _lower(resource.RLIMIT_CORE, 0)


def with_spare() -> tuple[int, int]:
    """Opens the spare memory, so that a failure can be reported; gives the limits to go back to."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (before[1], before[1]))
    return before


def without_spare(before: tuple[int, int]) -> None:
    """Closes the spare memory again."""
    resource.setrlimit(resource.RLIMIT_DATA, before)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    highest = resource.getrlimit(kind)[1]
    wanted = soft if hard is None else hard
    if highest != resource.RLIM_INFINITY:
        wanted = min(wanted, highest)
    resource.setrlimit(kind, (min(soft, wanted), wanted))


def _own_memory() -> tuple[int, int]:
    """(private writable memory, address space) of this process in bytes; proc(5), /proc/self/status."""
    found = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, rest = line.partition(":")
            if name in ("VmData", "VmSize"):
                found[name] = int(rest.split()[0]) * 1024
    return found["VmData"], found["VmSize"]
