"""Records: keys sort as documented, everything that travels comes back, hostile bytes are told apart."""

from __future__ import annotations

import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.keys import (
    BadRecord,
    ValueNotCarried,
    decode_key,
    encode_key,
    not_plain,
    partition_of,
    partitions_of,
)
from ipdc_edge.codec.records import LINE_TARGET, decode_values, encode_lines

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
RAW_TEXT = st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape"))
FLOATS = st.floats(allow_nan=False)
KEYS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, TEXT, RAW_TEXT, st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=8),
        st.binary(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3).filter(lambda name: name != "/"), inner, max_size=3),
    ),
    max_leaves=6,
)
RANK = {type(None): 0, bool: 1, int: 2, float: 3, str: 4, bytes: 5, tuple: 6}


def documented(first: object, second: object) -> int:
    """The documented order, written once more: -1, 0, 1."""
    ranks = RANK[type(first)] - RANK[type(second)]
    if ranks:
        return ranks
    if isinstance(first, tuple) and isinstance(second, tuple):
        for one, other in zip(first, second):
            if documented(one, other):
                return documented(one, other)
        return len(first) - len(second)
    if isinstance(first, str) and isinstance(second, str):
        first, second = (text.encode("utf-8", "surrogateescape") for text in (first, second))
    if first is None or first == second:
        return 0
    return -1 if first < second else 1  # type: ignore[operator]


@given(st.lists(KEYS, max_size=20))
def test_lines_sort_as_keys_do(keys: list[object]) -> None:
    lines = sorted(encode_lines(encode_key(key), [1])[0] for key in keys)
    back = [decode_key(line.partition("\x00")[0]) for line in lines]
    assert all(documented(one, other) <= 0 for one, other in zip(back, back[1:]))
    expected = sorted(keys, key=functools.cmp_to_key(documented))
    assert all(documented(one, other) == 0 for one, other in zip(back, expected))


@given(KEYS)
def test_keys_come_back(key: object) -> None:
    encoded = encode_key(key)
    assert documented(decode_key(encoded), key) == 0
    assert not set(encoded) & {"\x00", "\n"} and max(encoded) <= "\xff"


def test_numbers_at_the_edges_come_back() -> None:
    for key in (
        0,
        1,
        -1,
        15,
        16,
        -16,
        10**40,
        -(10**40),
        10**9000,
        -(10**9000),
        1.5,
        -0.0,
        math.inf,
        -math.inf,
    ):
        assert decode_key(encode_key(key)) == key


def test_long_ints_keep_their_order() -> None:
    numbers = [sign * 16**power + more for sign in (1, -1) for power in range(28, 36) for more in (-1, 0, 1)]
    assert sorted(numbers, key=encode_key) == sorted(numbers)


def test_types_are_kept_apart() -> None:
    assert len({encode_key(key) for key in (1, 1.0, True, "1", b"1", (1,))}) == 6
    assert encode_key(0.0) == encode_key(-0.0)


@pytest.mark.parametrize(
    ("key", "words"),
    [(float("nan"), "NaN"), ([1], "list"), ({}, "dict"), ((1, [2]), "list"), (1j, "complex"),
     ("\ud800", "surrogate"),
     ("x" * 70_000, "65536"), (functools.reduce(lambda inner, _: (inner,), range(60), ()), "deep")],
)  # fmt: skip
def test_keys_without_a_place_are_refused(key: object, words: str) -> None:
    with pytest.raises(ValueNotCarried, match=words):
        encode_key(key)


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_hostile_keys_are_bad_records_or_canonical(encoded: str) -> None:
    for tag in ("", "A", "B", "I", "R", "S", "X", "Z", "ZZ"):
        try:
            key = decode_key(tag + encoded)
        except BadRecord:
            continue
        assert encode_key(key) == tag + encoded


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "Q",
        "IQ",
        "IR05",
        "Ip00000001f",
        "I+5",
        "IQ_",
        "R12",
        "ZI",
        "ZZ\x01",
        "Z\x01\x01",
        "ZA\x02",
        "Rffffffffffffffff",
    ],
)
def test_other_spellings_of_a_key_are_refused(encoded: str) -> None:
    with pytest.raises(BadRecord):
        decode_key(encoded)


@given(st.lists(VALUES, min_size=1, max_size=10))
def test_values_come_back(values: list[object]) -> None:
    lines = encode_lines("Skey", values)
    assert all("\n" not in line and line.count("\x00") == 1 and max(line) <= "\xff" for line in lines)
    assert sum((decode_values(line.partition("\x00")[2]) for line in lines), []) == values


def test_undecodable_text_stays_as_it_was() -> None:
    text = b"a\xff\xfeb".decode("utf-8", "surrogateescape")
    assert decode_values(encode_lines("Sk", [text])[0].partition("\x00")[2]) == [text]
    assert decode_key(encode_key(text)) == text


def test_a_tuple_becomes_a_list_and_subclasses_their_base() -> None:
    class Name(str):
        pass

    assert decode_values(encode_lines("Sk", [(1, (2, b"x"))])[0].partition("\x00")[2]) == [[1, [2, b"x"]]]
    assert decode_key(encode_key(Name("n"))) == "n"


@pytest.mark.parametrize(
    ("value", "words"),
    [({1}, "type set"), (object(), "type object"), ({1: 2}, "not a str"), ({"/": 1}, "reserved"),
     ([1, {2j}], "type set"),
     ("x" * 1_100_000, "1048576"), (functools.reduce(lambda inner, _: [inner], range(60), []), "deep")],
)  # fmt: skip
def test_what_json_would_change_or_lose_is_refused(value: object, words: str) -> None:
    with pytest.raises(ValueNotCarried, match=words) as caught:
        encode_lines("Sword", [1, value])
    assert "'word'" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,",
        "[",
        "1]",
        "[1],[2",
        "x",
        "\xff",
        '{"/":1}',
        '{"/":{"bytes":"*"}}',
        '{"/":{"bytes":1}}',
        "[" * 100_000,
    ],
)
def test_hostile_values_are_bad_records(text: str) -> None:
    with pytest.raises(BadRecord):
        decode_values(text)


def test_many_values_share_lines_of_bounded_length() -> None:
    lines = encode_lines("Sk", ["x" * 1000] * 100)
    assert 5 < len(lines) < 30 and max(map(len, lines)) < 2 * LINE_TARGET
    assert len(encode_lines("Sk", [1] * 256)) == 1


@given(st.lists(st.one_of(st.text(max_size=5), st.sampled_from(["x" * 70_000, "é" * 3, "\udcff", "a\n", ""]))))
def test_text_that_is_its_own_encoding_is_told_from_other(texts: list[str]) -> None:
    table = dict.fromkeys(texts)
    others = not_plain(table)
    assert len(set(others)) == len(others) and table.keys() >= set(others)
    assert all(len(text) < 65536 and encode_key(text) == "S" + text for text in table.keys() - set(others))
    assert not [text for text in others if text.isascii() and text.isprintable() and len(text) < 65536]


@given(st.lists(KEYS, max_size=20), st.integers(1, 9))
def test_partitions_are_stable(keys: list[object], count: int) -> None:
    names = [encode_key(key) for key in keys]
    assert list(partitions_of("", names, count)) == [partition_of(name, count) for name in names]


def test_partition_is_a_fixed_number() -> None:
    assert [partition_of(encode_key(word), 7) for word in ("the", "é", 12, None)] == [
        __import__("zlib").crc32(data) % 7 for data in (b"Sthe", "Sé".encode(), b"IQc", b"A")
    ]
    assert list(partitions_of("S", ["the"], 7)) == [partition_of("Sthe", 7)]
