"""A greedy job: takes too much, or lets nobody go on. What it does stands in its input."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

MEGABYTE = 1 << 20
WRITE, PROGRESS = 18, 19  # kinds of frames: ipdc_edge/codec/frames.py
kept: list[object] = []


def _fill(size: int) -> None:
    """Memory that is shared counts for the cgroup, and not as the data of the process."""
    held = mmap.mmap(-1, size)
    kept.append(held)
    for at in range(0, size, mmap.PAGESIZE):
        held[at] = 1


def objects(_words: list[str]) -> None:
    while True:
        kept.append(bytes(1000))


def maps(_words: list[str]) -> None:
    while True:
        _fill(16 * MEGABYTE)


def files(_words: list[str]) -> None:
    with open("much", "wb") as file:
        while True:
            file.write(bytes(MEGABYTE))


def children(words: list[str]) -> None:
    """Each within its limits, all together beyond the unit's."""
    _fill(int(words[0]) * MEGABYTE)  # the fattest is who the kernel ends
    while True:
        if os.fork() == 0:
            kept.append(b"x" * (20 * MEGABYTE))
            signal.pause()


def shared(words: list[str]) -> None:
    """So much, and holds it."""
    _fill(int(words[0]) * MEGABYTE)
    print("holds it")
    hold(words)


def everybody(_words: list[str]) -> None:
    os.kill(-1, signal.SIGKILL)  # all but itself
    os.kill(0, signal.SIGKILL)


def spills(_words: list[str]) -> None:
    """Fills every file that the daemon gave, until somebody says no."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if "scratch/" not in os.readlink(f"/proc/self/fd/{name}"):
                continue
            while True:
                os.write(int(name), b"x" * MEGABYTE)
        except OSError as error:
            print(name, error)
    print("filled")
    hold([])


def hold(_words: list[str]) -> None:
    """The socket, and the task, for ever; and makes what another job may look for."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)
    with open("open-to-all", "w") as file:
        file.write("for my peer")
    try:
        kept.append(socket.socket(socket.AF_UNIX))
        kept[-1].bind("\0of-a-peer")  # type: ignore[attr-defined]
    except OSError as error:
        print(error)
    while True:
        time.sleep(1000)


def spin(_words: list[str]) -> None:
    while True:
        pass


def prints(_words: list[str]) -> None:
    while True:
        os.write(1, b"nothing of interest " * 3000)


def garbage(_words: list[str]) -> None:
    os.write(3, os.urandom(MEGABYTE))


def huge(_words: list[str]) -> None:
    os.write(3, struct.pack(">BI", WRITE, 0xFFFFFFFF))
    hold([])


def writes(_words: list[str]) -> None:
    """Output without an end, in frames as they should be."""
    frame = struct.pack(">BII", WRITE, 4 + 32768, 0) + bytes(32768)
    while True:
        os.write(3, frame)


def progress(_words: list[str]) -> None:
    frame = struct.pack(">BI", PROGRESS, 24) + b'{"records":1,"bytes":10}'
    while True:
        os.write(3, frame * 100)


def shuts(_words: list[str]) -> None:
    """Leaves the daemon alone, and stays."""
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
    hold([])


def closes(_words: list[str]) -> None:
    """The same, unnoticed: systemd has the socket too, as long as the unit lives."""
    os.close(3)
    hold([])


def sorts(words: list[str]) -> Iterator[tuple[str, str]]:
    """Honest work that needs its spills, and in the end waits until the test lets it go on."""
    for number in range(100_000):
        yield os.urandom(8).hex(), str(number)
    print("has spilled")
    while not os.path.exists(words[0]):
        time.sleep(0.02)


def map(key: object, line: str) -> Iterator[tuple[str, str]]:
    what, *words = line.split()
    yield from globals()[what](words) or ()
    yield what, "went through"


def reduce(key: object, values: Iterator[object]) -> Iterator[tuple[object, int]]:
    yield key, sum(1 for _ in values)
