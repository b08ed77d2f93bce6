"""Fails with a great deal of text that is long in every encoding."""


def map(key, line):
    print("\u8aad" * 4000)
    print("\x00" * 4000)
    raise ValueError("\u574f" * 2000 + line)
