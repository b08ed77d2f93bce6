"""Sorts lines KEY TAB VALUE, KEY of 16 hexadecimal digits: `by_range` makes the parts together one sorted order."""


def map_lines(lines):
    for line in lines:
        key, _, value = line.partition("\t")
        yield key, value


def reduce(key, values):
    for value in values:
        yield key, value


def by_range(key, count):
    return int(key[:4], 16) * count >> 16
