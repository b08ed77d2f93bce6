"""A second step after a word count: which words occur how often. And a step without a reduce: only short words."""


def map(word, count):
    yield count, word


def reduce(count, words):
    yield count, " ".join(sorted(words))


def short(word, count):
    if len(word) <= 5:
        yield word, count


def crowd(count, words):
    yield (len(words.split()) > 1, len(str(count))), count


def crowds(group, counts):
    yield group, sorted(counts)
