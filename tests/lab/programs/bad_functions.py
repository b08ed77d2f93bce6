"""Maps, reduces and partitions that do what they should not, or hardly should, each by its name."""

import os
import signal
import sys


def nothing(offset, line):
    """No pairs, as a function that returns none."""


def silent(offset, line):
    """No pairs, as a generator that yields none."""
    return
    yield


def no_pair(offset, line):
    yield line


def a_set(offset, line):
    yield "some", {line}


def an_object(offset, line):
    yield line, object()


def list_key(offset, line):
    yield [line], 1


def nan_key(offset, line):
    yield float("nan"), line


def long_key(offset, line):
    yield "k" * (1 << 20), line


def long_value(offset, line):
    yield line, "v" * (2 << 20)


def leaves(offset, line):
    sys.exit(3)


def vanishes(offset, line):
    os._exit(3)


def is_killed(offset, line):
    os.kill(os.getpid(), signal.SIGKILL)


def hoards(offset, line):
    held = []
    while True:
        held.append("x" * 100_000)


def endless(offset, line):
    while True:
        yield line, line


def same(offset, line):
    yield offset, line


def numbers(offset, line):
    """Fails on what is no number."""
    yield "sum", int(line)


def by_length(offset, line):
    yield len(line), 1


def length(offset, line):
    yield offset, len(line)


def total(key, values):
    yield key, sum(values)


def not_two(key, values):
    """Fails on the key 2."""
    if key == 2:
        raise KeyError(f"nobody knows {key}")
    yield key, sum(values)
