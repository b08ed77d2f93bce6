"""Combining once more while spills are merged (lines of one key that come from several spills become one), and whose
the values are that combine gives.

Owns which lines are worth it. Never calls combine itself: it is handed a function that folds lists in place.
"""

from __future__ import annotations

from bisect import bisect_left

from ipdc_edge.apps.mapreduce.merge import group_end, key_of
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipdc_edge.codec.value_lines import Codec

    Fold = Callable[[list[str], list[list[object]]], None]  # replaces the lists of these encoded keys, in place

FOLD_LINES = 256  # lines of one key beyond which merging does not try to combine them


class CombineChangedKey(IpdcError):
    """combine was called for the key {key} and gave a pair with the key {other}: it must keep the key"""


def recombined(batches: Iterator[list[str]], fold: Fold, codec: Codec) -> Iterator[list[str]]:
    """The batches' lines, combined. A batch's last key waits for the next.

    A key with very many lines passes as it is, and then all of it, or its lines would lose their order.
    """
    held: list[str] = []
    passing = ""
    for batch in batches:
        lines = held + batch
        if passing:
            end = bisect_left(lines, passing + "\x01")
            if end:
                yield lines[:end]
                lines = lines[end:]
            if not lines:
                continue
            passing = ""
        encoded = key_of(lines[-1])
        last = bisect_left(lines, encoded + "\x00")
        done = _combined(lines[:last], fold, codec)
        held = lines[last:]
        if len(held) >= FOLD_LINES:
            passing = encoded
            done += held
            held = []
        if done:
            yield done
    done = _combined(held, fold, codec)
    if done:
        yield done


def _combined(lines: list[str], fold: Fold, codec: Codec) -> list[str]:
    names: list[str] = []
    lists: list[list[object]] = []
    result: list[str] = []
    start, count = 0, len(lines)
    while start < count:
        encoded = key_of(lines[start])
        end = group_end(lines, start, encoded)
        if 1 < end - start < FOLD_LINES:
            names.append(encoded)
            lists.append(codec.decode(lines, start, end, encoded))
        else:
            result += lines[start:end]
        start = end
    if names:
        fold(names, lists)
        result += codec.many("", names, lists)
        result.sort()
    return result


def regrouped(keys: list[object], pairs: list[tuple[object, object]]) -> list[list[object]]:
    """The values of pairs by the keys they were made for. CombineChangedKey when a pair has a key of its own."""
    result: list[list[object]] = [[] for _ in keys]
    number = 0
    for key, value in pairs:
        begun = number
        while number < len(keys) and keys[number] != key:
            number += 1
        if number == len(keys):
            raise CombineChangedKey(key=ascii(keys[begun])[:200], other=ascii(key)[:200])
        result[number].append(value)
    return result
