"""How many readings each sensor has, their sum, and which files they came from; little leaves a map. With a gate named
in the arguments a map waits until somebody opens it: a FIFO of the node's own."""


def setup(arguments):
    global gate
    gate = arguments.get("gate")


def map(offset, row, context):
    if gate and not offset:
        with open(gate) as opened:
            opened.read()
    sensor, reading = row
    yield sensor, [1, int(reading), [context.input]]


def combine(sensor, found):
    count = total = 0
    names = set()
    for more, reading, paths in found:
        count += more
        total += reading
        names.update(paths)
    yield sensor, [count, total, sorted(names)]


reduce = combine
