"""Two steps in one file: counts words, then the ten most frequent ones with their rank."""

import heapq

import split


def words(offset, line):
    for word in split.words(line):
        yield word, 1


def total(word, counts):
    yield word, sum(counts)


def together(word, count):
    yield None, (-count, word)


def top(nothing, found):
    for rank, (count, word) in enumerate(heapq.nsmallest(10, map(tuple, found)), 1):
        yield rank, [word, -count]


steps = [{"map": words, "combine": total, "reduce": total}, {"map": together, "reduce": top}]
