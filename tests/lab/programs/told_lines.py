"""Prints a numbered line for each line of its input, and after the one that says so nothing more, for ever."""

import sys
import threading


def map(key, line):
    if line == "fail":
        print("about to fail")
        raise ValueError("as asked")
    print("said", line)
    if line.startswith("wait"):
        print("without an end", end="")
        sys.stdout.flush()
        threading.Event().wait()
    yield line, 1
