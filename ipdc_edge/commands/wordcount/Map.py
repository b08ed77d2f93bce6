"""Word count: one pair for every word of a line. `key` is the line's byte offset in its file."""

import re

WORD = re.compile(r"[a-z']+")


def map(key, line):
    for word in WORD.findall(line.lower()):
        yield word, 1


def combine(key, values):
    yield key, sum(values)
