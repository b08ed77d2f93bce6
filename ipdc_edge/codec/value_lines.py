"""How the values of a key stand in its lines: a choice that a job makes once, for all its runs.

Owns the plain way, in which neighbours share a line (records.py); sorted_values.py has the other. Never knows of
files.
"""

from __future__ import annotations

from ipdc_edge.codec.records import decode_values, encode_many, encode_singles

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Encode = Callable[[str, Sequence[str], Sequence[Sequence[object]]], list[str]]
    Decode = Callable[[list[str], int, int, str], list[object]]


def plain_values(lines: list[str], start: int, end: int, encoded: str) -> list[object]:
    """The values of lines[start:end], which all have the key `encoded`."""
    if end == start + 1:
        return decode_values(lines[start][len(encoded) + 1 :])
    # NUL occurs nowhere but after a key, so each occurrence of "key NUL" is the beginning of a line.
    return decode_values("".join(lines[start:end]).replace(encoded + "\x00", ",")[1:])


class Codec:
    """How values stand in lines: `singles` and `many` make the lines of keys (as encode_singles and encode_many),
    `decode` takes the values from lines of one key (as plain_values). `by_line`: each value has a line of its own."""

    def __init__(self, singles: Encode, many: Encode, decode: Decode, by_line: bool) -> None:
        self.singles = singles
        self.many = many
        self.decode = decode
        self.by_line = by_line


PLAIN = Codec(encode_singles, encode_many, plain_values, False)
