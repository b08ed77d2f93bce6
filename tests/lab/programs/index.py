"""An inverted index of identifiers: in which lines (by the byte offset) of what length they stand. No combiner."""

import re

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")


def setup(args):
    global least
    least = args["least"]


def map_lines(lines):
    for line in lines:
        for name in NAME.findall(line):
            yield name, len(line)


def reduce(key, values):
    lengths = sorted(values)
    if len(lengths) >= least:
        yield key, [len(lengths), lengths[0], lengths[-1]]
