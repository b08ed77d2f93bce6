"""What the context knows and is told: in setup, in map, in combine, in reduce."""

import threading


def setup(arguments, context):
    global suffix
    suffix = arguments["suffix"] + str(context.arguments == arguments)


def map(offset, line, context):
    context.count("lines")
    context.count("lengths: all", len(line))
    context.counters["blank"] += not line
    yield f"{context.input} {context.step}{suffix}", context.task.partition("-")[0]


def reduce(key, tasks, *, context):
    context.count("keys")
    found = set(tasks)
    yield key, [sorted(found), context.task.partition("-")[0], context.input, bool(context.job)]


def waits(offset, line, context):
    context.status(f"at line {offset}")
    threading.Event().wait()
