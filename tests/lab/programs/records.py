"""A record of any input format as a pair: where it is and what it is."""


def map(key, record):
    yield repr(key), record
