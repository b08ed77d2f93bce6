"""A line is FIRST LAST WEIGHT; each number from FIRST up to LAST is a key, in an order that is not that of keys."""

MULTIPLIER, MODULUS = 7919, 1_000_000


def map_lines(lines):
    for line in lines:
        first, last, weight = [int(word) for word in line.split()]
        for number in range(first, last):
            yield f"key-{number * MULTIPLIER % MODULUS:06d}", weight


def reduce(key, values):
    found = sorted(values)
    yield key, [len(found), *found]
