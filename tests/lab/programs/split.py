"""Travels with the programs that import it."""


def words(line):
    return line.split()
