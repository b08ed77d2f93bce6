"""A line is NAME TAB MEASURE TAB MEASURE...: by name (any text) the sum of those whose sum
is no infinity, and how often each measure (a float) occurs."""

import math


def map(key, line):
    name, *measures = line.split("\t")
    for measure in measures:
        value = float(measure)
        yield value, 1
        if abs(value) < 1e290:
            yield name, value


def reduce(key, values):
    if isinstance(key, str):
        found = list(values)
        yield key, [math.fsum(found), min(found), max(found)]
    else:
        yield key, sum(values)
