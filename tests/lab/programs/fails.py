"""Breaks on one line of the input, far into it."""


def map(key, line):
    if "Zythum" in line:
        raise ValueError(f"no beer here: {len(line)} characters")
    yield "lines", 1


def reduce(key, values):
    yield key, sum(values)
