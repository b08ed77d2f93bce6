"""Which words stand in which inputs, and how often."""


def map(offset, line, context):
    for word in line.split():
        yield word, context.input


def reduce(word, inputs):
    counts = {}
    for name in inputs:
        counts[name] = counts.get(name, 0) + 1
    yield word, counts and [[name, counts[name]] for name in sorted(counts)]
