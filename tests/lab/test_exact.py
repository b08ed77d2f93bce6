"""Jobs over three real nodes that are hard to get right, byte for byte against plain Python that shares no code with
ours: what follows is bytes, dicts and `sorted`."""

from __future__ import annotations

import collections
import json
import math
import random
import struct
from collections.abc import Iterable
from pathlib import Path

from tests.lab.conftest import Lab, difference, in_order
from tests.lab.test_jobs import program

ODD_NAMES = [
    b"plain",
    "\u00e9t\u00e9".encode(), "e\u0301te\u0301".encode(),  # the same for people, composed and decomposed
    "stra\u00dfe".encode(), b"STRASSE", "\u0130stanbul".encode(), b"istanbul",
    "\u05e2\u05d1\u05e8\u05d9\u05ea".encode(), "\u4e2d\u6587".encode(), "\U0001d54f".encode(), "\uffff".encode(),
    "\U0010ffff".encode(), "\ue000".encode(),  # beyond what UTF-16 sorts as UTF-8 does
    "\U0001f468\u200d\U0001f469\u200d\U0001f467".encode(),
    "\ufeffmark".encode(), b"a\x00b", b"a\x01b", b"a\x02", b"a\x03\x41", b"a\x1cb", b"a\x0bb\x0cc", b"a", b"a b", b"",
    "a\u2028b\u2029c\x85d".encode(),  # where str.splitlines would cut
    b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80",  # no UTF-8: Latin-1, a surrogate
    b"quote\"back\\slash", b"return\r",
]


def write(path: Path, lines: Iterable[bytes]) -> str:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_join_of_two_files(lab: Lab, tmp_path: Path) -> None:
    """Keys with none, one and several lines on either side, in two files of different size."""
    chance = random.Random(1)
    people = [(chance.randrange(30_000), f"n\u00e4me {chance.getrandbits(40):x}") for _ in range(20_000)]
    visits = [(chance.randrange(40_000), f"{chance.randrange(86400)}\tpage-{chance.randrange(50)}")
              for _ in range(150_000)]
    names = [write(tmp_path / name, (f"{ident}\t{rest}".encode() for ident, rest in rows))
             for name, rows in (("people.tsv", people), ("visits.tsv", visits))]
    job = lab.submit(1, program("join.py"), "--input", *names, "-k", "3")
    by_ident: dict[int, list[str]] = {}
    for ident, rest in people:
        by_ident.setdefault(ident, []).append(rest)
    expected = [f"{ident}\t{person}\t{visit}\n" for ident, visit in visits for person in by_ident.get(ident, ())]
    assert len(expected) > 70_000
    assert not difference(in_order(b"".join(lab.parts(1, job))), in_order("".join(expected).encode()))


def test_a_million_records_sorted_as_they_stand(lab: Lab, tmp_path: Path) -> None:
    """Partitioned by range, the parts one after the other are the whole order: keys by --partition, the values of
    a key that occurs twice by --sort-values."""
    chance = random.Random(2)
    keys = chance.randbytes(8 * 1_000_000)
    lines = [b"%016x\t%05d" % (key >> 12 << 12 if number % 10 else key & 0xFFF0000000000003, number % 99_991)
             for number, (key,) in enumerate(struct.iter_unpack(">Q", keys))]
    job = lab.submit(2, program("sorting.py"), "--input", write(tmp_path / "records", lines), "-k", "3",
                     "--partition", "by_range", "--sort-values")
    lines.sort()
    parts = lab.parts(2, job)
    assert not difference(b"".join(parts), b"\n".join(lines) + b"\n")
    assert [part.count(b"\n") > 250_000 for part in parts] == [True] * 3, "the ranges are even"


def test_a_key_with_99_percent_of_ten_million_values(lab: Lab, tmp_path: Path) -> None:
    chance = random.Random(3)
    small = [b"%d" % number for number in range(256)]
    expected: dict[bytes, list[int]] = {}
    lines, counts = [], collections.Counter[int]()
    for _ in range(100_000):
        numbers = chance.randbytes(99)
        counts.update(numbers)
        word = b"rare-%d" % chance.randrange(1000)
        lines.append(b" ".join([word, *[small[number] for number in numbers]]))
        expected.setdefault(word, []).append(99)
    job = lab.submit(3, program("hot.py"), "--input", write(tmp_path / "values", lines), "-k", "3")
    pairs = {word: [len(v), sum(v), sum(n * n for n in v), min(v), max(v)] for word, v in expected.items()}
    pairs[b"hot"] = [counts.total(), sum(n * c for n, c in counts.items()),
                     sum(n * n * c for n, c in counts.items()), min(counts), max(counts)]
    assert pairs[b"hot"][0] == 9_900_000
    found = in_order(b"".join(lab.parts(3, job)))
    assert not difference(found, in_order(b"".join(b"%s\t%s\n" % (k, as_json(v)) for k, v in pairs.items())))


def test_a_million_distinct_keys_under_a_sort_budget_of_16_mb(lab: Lab, tmp_path: Path) -> None:
    """An input of a few kilobytes: one map makes all keys, twice, and one reduce sees them all. Their table alone
    would be more than the 64 MB of a runner."""
    steps = range(0, 1_000_000, 10_000)
    lines = [b"%d %d %d" % (first, first + 10_000, weight) for weight in (1, 2) for first in steps]
    ranges = write(tmp_path / "ranges", lines)
    job = lab.submit(1, program("many_keys.py"), "--input", ranges, "-k", "1", "--sort-budget", "16M",
                     "--memory", "64M")
    view = lab.json(1, "status", job)
    assert view["maps"]["total"] == view["reduces"]["total"] == 1
    (found,) = lab.parts(1, job)
    assert not difference(found, b"".join(b"key-%06d\t[2,1,2]\n" % number for number in range(1_000_000)))


def test_floats_and_unicode_in_their_documented_order(lab: Lab, tmp_path: Path) -> None:
    """Floats by value before text by its bytes, whatever is in either; in one part as it stands, and in three."""
    chance = random.Random(4)
    odd = [0.0, -0.0, 1.0, -1.0, 0.1, 0.1 + 0.2, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308,
           -1e300, 1e16, 9007199254740993.0, 1 / 3, 123456789.125]
    odd += [float(value) for (value,) in struct.iter_unpack("<d", chance.randbytes(8 * 500))
            if math.isfinite(value) and abs(value) < 1e300]
    lines, counts = [], collections.Counter[float]()
    sums: dict[bytes, list[float]] = {}
    for number in range(20_000):
        name = ODD_NAMES[number % len(ODD_NAMES)]
        measures = [chance.choice(odd) for _ in range(3)]
        lines.append(b"\t".join([name, *[repr(value).encode() for value in measures]]))
        counts.update(value + 0.0 for value in measures)  # -0.0 is 0.0
        sums.setdefault(name, []).extend(value for value in measures if abs(value) < 1e290)
    path = write(tmp_path / "measures", lines)
    expected = b"".join(b"%s\t%d\n" % (as_json(value), counts[value]) for value in sorted(counts))
    expected += b"".join(b"%s\t%s\n" % (name, as_json([math.fsum(sums[name]), min(sums[name]), max(sums[name])]))
                         for name in sorted(sums))
    (whole,) = lab.parts(2, lab.submit(2, program("measures.py"), "--input", path, "-k", "1"))
    assert not difference(whole, expected)
    three = lab.parts(2, lab.submit(2, program("measures.py"), "--input", path, "-k", "3"))
    assert all(three)
    assert not difference(in_order(b"".join(three)), in_order(expected))


def test_combining_and_the_number_of_parts_change_no_line(lab: Lab, book: str, tmp_path: Path) -> None:
    with open(book, "rb") as file:
        text = file.read(6 << 20)
    (tmp_path / "text").write_bytes(text)
    expected = in_order(b"".join(b"%s\t%d\n" % pair for pair in _python_words(text).items()))
    shuffled = {}
    for combines, words in ((True, ["words.py"]), (False, ["words.py:map", "words.py:reduce"])):
        for count in (1, 3):
            given = [program(word) for word in words]
            job = lab.submit(3, *given, "--input", str(tmp_path / "text"), "-k", str(count))
            parts = lab.parts(3, job)
            assert len(parts) == count
            assert not difference(in_order(b"".join(parts)), expected), (combines, count)
            shuffled[combines, count] = lab.json(3, "status", job)["shuffle_bytes"]
    assert shuffled[True, 3] < shuffled[False, 3], "the combiner was there, and was not"


def _python_words(text: bytes) -> dict[bytes, int]:
    words = text.decode("utf-8", "surrogateescape").split()
    return {word.encode("utf-8", "surrogateescape"): count for word, count in collections.Counter(words).items()}
