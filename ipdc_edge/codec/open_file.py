"""A file of a job's, as a runner has it that does not hold its bytes: a descriptor to read it from, or to run it.

Owns what both sides agree on. Native programs travel so, because a sandbox forbids to execute anything that was written
in it, and big files, because a sandbox has no disk, and a small board no memory, for another copy of them. The daemon
writes such a file, and nobody can change it any more.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Iterable

ELF = b"\x7fELF"  # how a native program begins; elf(5)
HEAD = 64 * 1024  # bytes in which an ELF file says what machine and which loader it is for
MOST_HELD = 1 << 20  # bytes of all files, beside modules, that a runner holds in its memory and writes to its directory


def not_held(files: Iterable[tuple[str, int]]) -> set[str]:
    """Which of the files (name, bytes) travel open though they are no programs: of those that are no modules, the
    biggest, until the rest is no more than MOST_HELD."""
    sizes = sorted((size, name) for name, size in files if not name.endswith(".py"))
    held, names = 0, set()
    for size, name in sizes:
        held += size
        if held > MOST_HELD:
            names.add(name)
    return names
