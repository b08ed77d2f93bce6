"""Word count: the sum of what the maps counted for a word. `values` is an iterator that is never held in memory."""


def reduce(key, values):
    yield key, sum(values)
