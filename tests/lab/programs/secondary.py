"""Secondary sort: each station's readings as they come, with what changed since the one before."""


def map(offset, line):
    station, day, reading = line.split(",")
    yield station, (int(day), float(reading), station[::-1])


def reduce(station, readings):
    before = None
    for day, reading, _ in readings:
        if before is not None:
            yield station, [before[0], day, reading - before[1]]
        before = day, reading


def by_host(station, count):
    return -int(station.rpartition("-")[2])


def by_name(station, count):
    return station
