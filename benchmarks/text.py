"""Real text of any size for benchmarks, made from the dictionary that Debian's package dict-gcide ships.

Owns how a text longer than the dictionary is made. Never measures anything.
"""

from __future__ import annotations

import gzip
import os
import random

DICTIONARY = "/usr/share/dictd/gcide.dict.dz"  # 40 MB when unpacked
RARE = b"jqxzkvw"


class NoDictionary(Exception):
    """The package with the text is not installed."""


def count_words(part: bytes) -> int:
    """As a Map.py with `line.split()` counts them."""
    return len(part.decode("utf-8", "surrogateescape").split())


def make_text(path: str, size: int) -> int:
    """Writes `size` bytes, less what would be a broken last line; returns the number of words.

    Every copy after the first swaps some of the rarer letters, so that many of its words are new: repeated as
    it is, a text of any size would have the vocabulary of 40 MB, and tables that grow would not show.
    No letter becomes white space, so every copy has the same number of words.
    """
    if not os.path.exists(DICTIONARY):
        raise NoDictionary(f"no {DICTIONARY}: apt-get install --no-install-recommends dict-gcide")
    with gzip.open(DICTIONARY) as file:
        text = file.read()
    chance, swap = random.Random(1), bytes.maketrans(b"", b"")
    whole, words, left = count_words(text), 0, size
    with open(path, "wb") as out:
        while left >= len(text):
            out.write(text.translate(swap))
            words, left = words + whole, left - len(text)
            swapped = bytes(chance.sample(RARE, len(RARE)))
            swap = bytes.maketrans(RARE + RARE.upper(), swapped + swapped.upper())
        rest = text[: text.rfind(b"\n", 0, left) + 1]
        out.write(rest.translate(swap))
    return words + count_words(rest)
