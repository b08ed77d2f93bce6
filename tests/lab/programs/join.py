"""Inner join of two files by their first field. Which of the two a line is of, the input's name tells."""


def map(key, line, context):
    ident, _, rest = line.partition("\t")
    yield ident, [context.input.startswith("people"), rest]


def reduce(key, values):
    people, visits = [], []
    for is_person, rest in values:
        (people if is_person else visits).append(rest)
    for person in people:
        for visit in visits:
            yield key, f"{person}\t{visit}"
