"""How a search becomes tasks: the range of numbers, cut into chunks. Pure; the daemon's core calls it.

Owns what a job's arguments may be, the channels `do-search` and `found`, and when there is enough. Hashes nothing:
`work.py` does, in the runner.

Arguments of a job (JSON):
    header   block header in hexadecimal, 76 bytes without its nonce or 80 with one (which is not looked at)
    first    first nonce to try (0)
    last     last nonce to try (4294967295)
    chunk    nonces of a task (1048576): about a second of a desktop's core, five of a Raspberry Pi's
    target   how hard: "header" (what the header's own bits demand, the default), {"bits": "1d00ffff"} (the same compact
             form), {"zero_bits": 20} (so many leading zero bits)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ipdc_edge.core.architecture import Architecture, BadSpec
from ipdc_edge.core.values import JobSpec, Json, Result, Task

HEADER, NONCE = 76, 4  # bytes
LAST_NONCE = (1 << 32) - 1
CHUNK = 1 << 20
MOST_TASKS = 10_000
ALLOWED = ("header", "first", "last", "chunk", "target")


class Wanted(NamedTuple):
    """A job's arguments, read: `header` without its nonce; a hash must be at most `target`."""

    header: bytes
    first: int
    last: int
    chunk: int
    target: int


class Search(Architecture):
    """The architecture `search`: `do-search` answered by `found`."""

    name = "search"
    module = "app_search.work"
    commands: tuple[str, ...] = ("do-search",)
    reports: tuple[str, ...] = ("found",)

    def check(self, spec: JobSpec) -> None:
        """BadSpec unless the arguments are as above, and the tasks not too many; makes none."""
        if spec.body.get("inputs"):
            raise BadSpec(reason="a search has no inputs: all it needs is in --args")
        wanted = read_arguments(spec.body.get("arguments"))
        tasks = -(-(wanted.last - wanted.first + 1) // wanted.chunk)
        if tasks > MOST_TASKS:
            raise BadSpec(reason=f"{tasks} chunks, more than {MOST_TASKS}: give a larger 'chunk' than {wanted.chunk}")

    def plan(self, spec: JobSpec) -> tuple[Task, ...]:
        """A task for each chunk. Every one is final: it writes a part, which is empty where nothing was found."""
        wanted = read_arguments(spec.body["arguments"])
        tasks = []
        for index, first in enumerate(range(wanted.first, wanted.last + 1, wanted.chunk)):
            last = min(first + wanted.chunk - 1, wanted.last)
            tasks.append(Task(f"search-{index:05d}", 0, "do-search", "found", index, True, last - first + 1,
                              {"first": first, "last": last}))
        return tuple(tasks)

    def params(self, spec: JobSpec, task: Task, results: Mapping[str, Result], holder: str) -> Json:
        """The chunk, and the target as a number; the header stands in the job's description, which a runner has."""
        assert task.data is not None
        target = f"{read_arguments(spec.body['arguments']).target:064x}"
        return {**task.data, "target": target, "inputs": [], "outputs": {"kind": "files", "count": 1}}

    def enough(self, spec: JobSpec, results: Mapping[str, Result]) -> bool:
        """One answer is."""
        return any(result.size for result in results.values())

    def stage_name(self, spec: JobSpec, stage: int) -> str:
        """There is one stage."""
        return "searches"


def read_arguments(arguments: Any) -> Wanted:
    """What the arguments say, each within its bounds; BadSpec names the one that is not."""
    if not isinstance(arguments, dict):
        raise BadSpec(reason="'arguments' is not an object")
    strange = sorted(set(arguments) - set(ALLOWED))
    if strange:
        raise BadSpec(reason=f"there is no argument {strange[0]!r:.50}; a search has {', '.join(ALLOWED)}")
    header = _header(arguments.get("header"))
    first = _number(arguments, "first", 0, 0, LAST_NONCE)
    last = _number(arguments, "last", LAST_NONCE, first, LAST_NONCE)
    chunk = _number(arguments, "chunk", CHUNK, 1, LAST_NONCE + 1)
    return Wanted(header[:HEADER], first, last, chunk, _target(arguments.get("target", "header"), header))


def _header(text: object) -> bytes:
    try:
        header = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        header = b""
    if len(header) not in (HEADER, HEADER + NONCE):
        raise BadSpec(reason=f"header {text!r:.200} is not {HEADER} or {HEADER + NONCE} bytes in hexadecimal")
    return header


def _number(arguments: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = arguments.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise BadSpec(reason=f"{name} {value!r:.50} is not a whole number from {least} to {most}")
    return value


def _target(wanted: object, header: bytes) -> int:
    """The highest hash that will do, as a number."""
    if wanted == "header":
        return from_bits(int.from_bytes(header[72:76], "little"))
    if isinstance(wanted, dict) and len(wanted) == 1:
        bits, zeros = wanted.get("bits"), wanted.get("zero_bits")
        if type(zeros) is int and 0 <= zeros <= 256:
            return (1 << (256 - zeros)) - 1
        if isinstance(bits, str) and len(bits) == 8:
            try:
                return from_bits(int.from_bytes(bytes.fromhex(bits)))
            except ValueError:
                pass  # refused below
    raise BadSpec(reason=f'target {wanted!r:.100} is not "header", {{"bits": 8 hexadecimal digits}} or '
                         '{"zero_bits": 0 to 256}')


def from_bits(bits: int) -> int:
    """A target from its compact form: a byte of length and three of mantissa
    (https://developer.bitcoin.org/reference/block_chain.html#target-nbits)."""
    size, mantissa = bits >> 24, bits & 0x7FFFFF
    target = mantissa << 8 * (size - 3) if size > 3 else mantissa >> 8 * (3 - size)
    if bits & 0x800000 or not 0 < target < 1 << 256:
        raise BadSpec(reason=f"bits {bits:08x} are no target: it would be negative, zero or beyond 256 bits")
    return target
