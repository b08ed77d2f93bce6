"""Nearly all values have one key. A line is a word, whose key is rare, and numbers, whose key is not. No combiner, and
a reduce that reads the values one by one."""


def map_lines(lines):
    for line in lines:
        word, *numbers = line.split()
        yield word, len(numbers)
        for number in numbers:
            yield "hot", int(number)


def reduce(key, values):
    count = total = squares = 0
    least, most = 1 << 60, -1
    for value in values:
        count += 1
        total += value
        squares += value * value
        least = value if value < least else least
        most = value if value > most else most
    yield key, [count, total, squares, least, most]
