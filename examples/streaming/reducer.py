#!/usr/bin/env python3
"""Adds up the numbers of each key. All pairs of a key come in a row; so this serves as the combiner too."""

import sys
from itertools import groupby


def pairs(lines):
    for line in lines:
        key, _, number = line.rstrip("\n").partition("\t")
        yield key, int(number)


for key, group in groupby(pairs(sys.stdin), key=lambda pair: pair[0]):
    print(key, sum(number for _, number in group), sep="\t")
