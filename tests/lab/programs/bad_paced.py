"""Takes as long as it is told, whatever the machine: a pause for each record, or no end in map or in reduce."""

import threading
import time


def setup(arguments):
    global pause, hold
    pause, hold = arguments.get("pause", 0), arguments.get("hold")


def _wait(here):
    if hold == here:
        threading.Event().wait()
    time.sleep(pause)


def map(offset, line, context):
    if hold == "map":
        context.status("holds on")
    _wait("map")
    yield line[:3], 1


def reduce(key, values, context):
    if hold == "reduce":
        context.status("holds on")
    _wait("reduce")
    yield key, sum(values)


def swells(offset, line):
    """A hundred times its input."""
    for number in range(100):
        yield number, line
