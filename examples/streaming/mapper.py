#!/usr/bin/env python3
"""Word count: one pair for each word."""

import sys

for line in sys.stdin:
    for word in line.split():
        print(word, 1, sep="\t")
