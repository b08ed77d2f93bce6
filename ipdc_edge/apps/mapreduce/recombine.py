"""Combining once more while spills are merged (lines of one key that come from several spills become one), whose the
values are that combine gives, and a combiner command's lines.

Owns which lines are worth it. Never calls combine itself: it is handed a function that folds lists in place.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import islice, repeat

from ipdc_edge.apps.mapreduce.merge import group_end, key_of
from ipdc_edge.codec.keys import decode_key, encode_key
from ipdc_edge.errors import IpdcError

TYPE_CHECKING = False  # importing typing would cost every runner 1 MB
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipdc_edge.codec.value_lines import Codec

    Pairs = Iterator[tuple[object, object]]
    Fold = Callable[[list[str], list[list[object]]], None]  # replaces the lists of these encoded keys, in place

WRITE_LINES = 2048  # lines made at a time
LOOK = 16 * 1024  # lines after which it shows whether combining them once more is worth it:
GAIN = 3  # it is when it removes one line of so many
FOLD_LINES = 256  # lines of one key beyond which merging does not try to combine them


class CombineChangedKey(IpdcError):
    """combine was called for the key {key} and gave a pair with the key {other}: it must keep the key"""


def recombined(batches: Iterator[list[str]], fold: Fold, codec: Codec) -> Iterator[list[str]]:
    """The batches' lines, combined. A batch's last key waits for the next.

    A key with very many lines passes as it is, and then all of it, or its lines would lose their order. And everything
    passes from where combining once more shows to remove few lines: to look at each costs more than it saves a reduce.
    """
    held: list[str] = []
    passing = ""
    seen = given = 0
    for batch in batches:
        if seen > LOOK and (seen - given) * GAIN < seen:
            yield held + batch
            yield from batches
            return
        seen += len(batch)
        lines = held + batch
        if passing:
            end = bisect_left(lines, passing + "\x01")
            if end:
                given += end
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
            given += len(done)
            yield done
    done = _combined(held, fold, codec)
    if done:
        yield done


def _combined(lines: list[str], fold: Fold, codec: Codec) -> list[str]:
    """Few keys have more than one line: those are found by one comparison a line, and only they are touched."""
    heads = [line[: line.find("\x00") + 1] for line in lines]
    doubled = [number for number, (head, after) in enumerate(zip(heads, islice(heads, 1, None))) if head == after]
    names: list[str] = []
    lists: list[list[object]] = []
    result: list[str] = []
    end = 0
    for start in doubled:
        if start < end:
            continue
        result += lines[end:start]
        name = key_of(lines[start])
        end = group_end(lines, start, name)
        if end - start < FOLD_LINES:
            names.append(name)
            lists.append(codec.decode(lines, start, end, name))
        else:
            result += lines[start:end]
    if not names:
        return lines
    fold(names, lists)
    result += lines[end:]
    result += codec.singles("", names, lists) or codec.many("", names, lists)
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


def through_command(lines: list[str], combiner: Callable[[Pairs], Pairs], codec: Codec) -> list[str]:
    """Sorted lines through the combiner command, and sorted again. They are given back on the way."""
    lines.reverse()

    def pairs() -> Pairs:
        while lines:
            batch = lines[-WRITE_LINES:]
            del lines[-WRITE_LINES:]
            batch.reverse()
            start, count = 0, len(batch)
            while start < count:
                encoded = key_of(batch[start])
                end = group_end(batch, start, encoded)
                yield from zip(repeat(decode_key(encoded)), codec.decode(batch, start, end, encoded))
                start = end

    made: list[str] = []
    combined = combiner(pairs())
    while several := list(islice(combined, WRITE_LINES)):
        table: dict[str, list[object]] = {}
        for key, value in several:
            table.setdefault(encode_key(key), []).append(value)
        made += codec.many("", list(table), list(table.values()))
    made.sort()
    return made
