"""Map-only: the lines of at least 76 characters with their offsets."""


def map(key, line):
    if len(line) >= 76:
        print("found one")
        yield key, line
