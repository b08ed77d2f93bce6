"""Values of every kind, for the forms of results; `text` gives only what the form raw has a place for."""


def map(offset, line):
    yield line, offset


def reduce(key, offsets):
    offset = sum(offsets)
    yield key, {"offset": offset, "of": [None, True, 1.5, "\u00e9\t\u4e2d"]}
    yield (key, offset), b"\x00\xff"
    yield offset, key


def text(key, offsets):
    yield offsets, f"{key}|"
    yield offsets, b"\xfe\n"
