"""Fuzzing one target: inputs that reach new branches are kept and damaged further, until the time is over.

Owns the bounds under which a target runs (memory, seconds for one input), what counts as a crash, and where a crashing
input is kept. A target runs in a process of its own (`python3 -m tests.fuzz --child`), so that its bounds are its own
and a parser that hangs inside C, or takes the interpreter with it, is found out too: the input of the moment stands in
a shared file. The same seed gives the same inputs.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.mutation import LONGEST, damaged

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
INPUT_SECONDS = 5.0
MEMORY = 96 << 20  # bytes of address space that one input may take, beyond what was taken before
KEPT = 2000  # inputs in a corpus


@dataclass(frozen=True)
class Target:
    """A parser: `run` takes bytes that a peer may send, and raises `refuses` for what it does not take, nothing else.

    `seeds` are good encodings. `traced` are the files (below ipdc_edge/) whose branches count as progress. `unpack` and
    `pack` reach what a checksum or a compression would hide: inputs are damaged inside too. `words` are pieces of the
    format.
    """

    name: str
    run: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...]
    seeds: tuple[bytes, ...]
    traced: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    unpack: Callable[[bytes], bytes] | None = None
    pack: Callable[[bytes], bytes] | None = None


class Crash(Exception):
    """An input that a target did not survive: neither taken nor refused as documented."""

    def __init__(self, data: bytes, reason: str) -> None:
        self.data, self.reason = data, reason
        super().__init__(f"{reason}\ninput: {data[:200]!r}")


class TooSlow(BaseException):
    """Not an Exception: no handler of the target may take it for one of its own."""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def check(target: Target, data: bytes) -> None:
    """Runs one input under the bound on time. Raises Crash."""
    before = signal.signal(signal.SIGALRM, _too_slow)
    begun = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS)
    try:
        target.run(data)
    except target.refuses:
        pass
    except TooSlow:
        raise Crash(data, f"more than {INPUT_SECONDS:g} s for one input") from None
    except MemoryError:
        raise Crash(data, f"more than {MEMORY >> 20} MB for one input") from None
    except Exception as error:
        raise Crash(data, "".join(traceback.format_exception(error))) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - begun > INPUT_SECONDS:  # inside C no signal is heard
        raise Crash(data, f"more than {INPUT_SECONDS:g} s for one input")


class Branches:
    """Which line follows which in the traced files: an input that shows a new pair is worth keeping."""

    def __init__(self, files: tuple[str, ...]) -> None:
        paths = [os.path.normpath(os.path.join(ROOT, "ipdc_edge", file)) for file in files]
        self._files = {path: number for number, path in enumerate(paths)}
        self.seen: set[tuple[int, int, int]] = set()
        self.new = False

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = self._files.get(frame.f_code.co_filename)
        if file is None:
            return None
        last = frame.f_code.co_firstlineno

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            edge = (file, last, frame.f_lineno)
            last = frame.f_lineno
            if edge not in self.seen:
                self.seen.add(edge)
                self.new = True
            return line

        return line

    def run(self, target: Target, data: bytes) -> bool:
        """Runs an input; whether it was worth keeping. Raises Crash."""
        self.new = False
        sys.settrace(self.trace)
        try:
            check(target, data)
        finally:
            sys.settrace(None)
        return self.new


@dataclass
class Fuzz:
    """One target's corpus under one seed."""

    target: Target
    seed: int
    current: Any = None  # where the input of the moment is left for who finds this process dead
    inputs: int = 0
    corpus: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(f"{self.target.name} {self.seed}")
        self.branches = Branches(self.target.traced)

    def run(self, seconds: float) -> str:
        """Until the time is over; says how far it came. Raises Crash."""
        end = time.monotonic() + seconds
        for data in (*self.target.seeds, b""):
            self._try(data)
            self.corpus.append(data)
        while time.monotonic() < end:
            data = self._next()
            if self._try(data) and len(self.corpus) < KEPT:
                self.corpus.append(data)
        return f"{self.inputs} inputs, {len(self.corpus)} kept, {len(self.branches.seen)} branches"

    def _try(self, data: bytes) -> bool:
        self.inputs += 1
        if self.current is not None:
            self.current[: 4 + len(data)] = len(data).to_bytes(4, "big") + data
        return self.branches.run(self.target, data)

    def _next(self) -> bytes:
        random, target = self.random, self.target
        # half of the time one of those found last, which reach deepest
        recent = max(0, len(self.corpus) - 20) if random.random() < 0.5 else 0
        data = self.corpus[random.randrange(recent, len(self.corpus))]
        if target.unpack is not None and target.pack is not None and random.random() < 0.7:
            inner = [target.unpack(each) for each in (data, random.choice(target.seeds))]
            return target.pack(damaged(random, inner[0], inner, target.words))[:LONGEST]
        return damaged(random, data, self.corpus, target.words)


def bounded() -> None:
    """Bounds this process's memory to what it has and MEMORY more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def child(target: Target, seconds: float, seed: int, shared: str) -> int:
    """The process of one target. 0, or 1 after a crash, of which the input is in `shared` and the reason printed."""
    with open(shared, "r+b") as file, mmap.mmap(file.fileno(), 4 + 2 * LONGEST) as current:
        fuzz = Fuzz(target, seed, current)
        try:
            for data in target.seeds:  # what is imported late is not the parser's memory
                check(target, data)
            bounded()
            print(fuzz.run(seconds))
        except Crash as crash:
            current[: 4 + len(crash.data)] = len(crash.data).to_bytes(4, "big") + crash.data
            print(f"after {fuzz.inputs} inputs: {crash}")
            return 1
    return 0


def run_apart(name: str, seconds: float, seed: int, targets: str = "tests.fuzz.targets") -> tuple[bool, str, bytes]:
    """Fuzzes a target of the module `targets` in a process of its own: (whether it survived, what it said, the last
    input)."""
    with tempfile.NamedTemporaryFile() as shared:
        shared.truncate(4 + 2 * LONGEST)
        words = ["--child", shared.name, "--targets", targets, "--seconds", str(seconds), "--seed", str(seed), name]
        environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONHASHSEED": "0"}
        try:
            done = subprocess.run([sys.executable, "-m", "tests.fuzz", *words], cwd=ROOT, env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + 60)
            survived, said = done.returncode == 0, done.stdout.strip()
            if done.returncode < 0:
                said += f"\nthe process died of signal {-done.returncode}"
        except subprocess.TimeoutExpired:
            survived, said = False, "an input for which no signal is heard any more"
        shared.seek(0)
        data = shared.read()
    return survived, said, data[4 : 4 + int.from_bytes(data[:4], "big")]


def keep(name: str, data: bytes) -> str:
    """Keeps a crashing input, to be tried by every run of the tests from now on; its path."""
    directory = os.path.join(HERE, "found", name)
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, hashlib.sha256(data).hexdigest()[:12])
    with open(path, "wb") as file:
        file.write(data)
    return path


def found(name: str) -> list[bytes]:
    """The inputs that once crashed a target."""
    directory = os.path.join(HERE, "found", name)
    inputs = []
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        with open(os.path.join(directory, entry), "rb") as file:
            inputs.append(file.read())
    return inputs
