"""Damaged inputs from good ones: bytes changed at random, and JSON changed where it stays JSON.

Pure and deterministic: all chance comes from the `Random` that is handed in. Never knows what an input means.
"""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

LONGEST = 64 << 10  # bytes of an input
NUMBERS = (0, 1, 2, 7, 8, 0x10, 0x12, 0x20, 0x22, 0x55, 0x70, 0x7F, 0x80, 0xFE, 0xFF)
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1 << 31, 1 << 53, 1 << 63, -(1 << 63), 1 << 64, 10**400, 0.5, -0.0, 1e308,
    float("inf"), float("nan"), "", "a", "\0", "é", "\ud800", "\U0001f600", "Qm", "/", "..", "a" * 300, "9" * 5000,
    "\n", " ", "{}", [], {}, [[]], [None], {"": {}}, {"/": "b"}, {"/": {"bytes": "AA"}}, [0] * 2000,
)


def damaged(random: Random, data: bytes, corpus: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """One input made of `data`, now and then with parts of others or of `words`."""
    if random.random() < 0.5:
        value = _as_json(data)
        if value is not None:
            return _json_damaged(random, value, corpus)
    out = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        _change(random, out, corpus, words)
    return bytes(out[:LONGEST])


def _change(random: Random, out: bytearray, corpus: list[bytes], words: tuple[bytes, ...]) -> None:
    at = random.randrange(len(out) + 1)
    end = min(len(out), at + (1 << random.randrange(8)))
    kind = random.randrange(9)
    if kind == 0 and at < len(out):
        out[at] ^= 1 << random.randrange(8)
    elif kind == 1 and at < len(out):
        out[at] = random.choice(NUMBERS)
    elif kind == 2:
        out[at:at] = random.randbytes(1 + random.randrange(8))
    elif kind == 3:
        del out[at:end]
    elif kind == 4:
        out[at:at] = out[at:end] * (1 + random.randrange(4))
    elif kind == 5:
        del out[at:]
    elif kind == 6 and words:
        word = random.choice(words)
        out[at : at + random.choice((0, len(word)))] = word
    elif kind == 7:
        other = random.choice(corpus)
        start = random.randrange(len(other) + 1)
        out[at : at + random.choice((0, 64))] = other[start : start + (1 << random.randrange(10))]
    else:
        out[at:end] = bytes((random.choice(NUMBERS),)) * (end - at)


def _as_json(data: bytes) -> Any:
    """An object or a list; None for all else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _json_damaged(random: Random, value: Any, corpus: list[bytes]) -> bytes:
    holder = [value]
    for _ in range(1 + random.randrange(3)):
        places = _places(holder)
        where, key = random.choice(places)
        kind = random.randrange(8)
        if kind < 3:
            where[key] = copy.deepcopy(random.choice(ODD))
        elif kind == 3 and where is not holder:
            del where[key]
        elif kind == 4:
            other, name = random.choice(places)
            where[key] = copy.deepcopy(other[name])
        elif kind == 5 and isinstance(where[key], list) and where[key]:
            where[key] = where[key] * random.choice((2, 33, 1100)) if len(str(where[key])) < 100 else where[key] * 2
        elif kind == 6 and isinstance(where[key], str):
            where[key] = _other_text(random, where[key])
        elif kind == 7:
            other = _as_json(random.choice(corpus))
            name, found = random.choice(_places([other]))
            where[key] = copy.deepcopy(name[found])
        if len(str(holder)) > LONGEST:
            break
    try:
        text = json.dumps(holder[0], ensure_ascii=random.random() < 0.5, separators=(",", ":"))
    except (ValueError, RecursionError):  # it stands in itself, or too deep
        text = "[" * 3000
    if random.random() < 0.02:
        text = '{"v":' * 1500 + text
    return text.encode("utf-8", "surrogatepass")[:LONGEST]


def _other_text(random: Random, text: str) -> str:
    at = random.randrange(len(text) + 1)
    piece = random.choice(("", "\0", "/", ".", "\n", "é", "\ud800", "a" * 200, "-", "0", "A", "="))
    return text[:at] + piece + text[at + random.randrange(2) :]


def _places(value: Any, most: int = 400) -> list[tuple[Any, Any]]:
    """(container, key or index) of everything inside."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < most:
        here = waiting.pop()
        items = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, inner in items:
            found.append((here, key))
            if isinstance(inner, dict | list):
                waiting.append(inner)
    return found
