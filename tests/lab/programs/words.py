"""Word count in one file, with a combiner and a module beside it."""

import split


def map(key, line):
    for word in split.words(line):
        yield word, 1


def combine(key, values):
    yield key, sum(values)


def reduce(key, values):
    yield key, sum(values)
