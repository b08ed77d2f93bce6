"""mrjob's own example, with its combiner; `-r local` runs as many processes as there are processors."""

from mrjob.job import MRJob


class Words(MRJob):
    """Word count."""

    def mapper(self, _key, line):
        for word in line.split():
            yield word, 1

    def combiner(self, word, counts):
        yield word, sum(counts)

    def reducer(self, word, counts):
        yield word, sum(counts)


if __name__ == "__main__":
    Words.run()
