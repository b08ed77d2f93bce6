"""The operators of a model, read from bytes of anybody."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.apps.tflite import tiny
from ipdc_edge.codec.tflite_model import MOST_NAME, MOST_OPERATORS, NAMES, BadModel, Operator, operators

MODEL = tiny.model(9, 12)


def of(*kinds: tiny.Table) -> bytes:
    """A model that has nothing but these kinds of operators."""
    return tiny.written(tiny.Table(f0=("I", 3), f1=tiny.Vector("", list(kinds))))


def test_operators_have_the_names_and_versions_that_the_file_says() -> None:
    assert [str(found) for found in operators(MODEL)] == ["FULLY_CONNECTED version 12"]
    assert operators(tiny.model(150, 2)) == [Operator(150, 2)] and NAMES[150] == "GELU", "beyond what a byte holds"
    assert operators(tiny.model(32, 1, "FlexErf")) == [Operator(32, 1, "FlexErf")]
    assert str(Operator(900, 1)) == "number 900 version 1", "of a time to come"
    assert (len(NAMES), NAMES[tiny.RELU], NAMES[32]) == (210, "RELU", "CUSTOM")


def test_defaults_of_fields_that_are_not_written_count() -> None:
    assert operators(of(tiny.Table(f0=("b", 3)))) == [Operator(3, 1)], "as models of 2018 are"
    assert operators(of(tiny.Table())) == [Operator(0, 1)], "ADD, of which nothing is written"
    assert len(operators(of(*[tiny.Table(f0=("b", 3))] * 3))) == 1, "each once"


@pytest.mark.parametrize("data, reason", [
    (b"", "TFL3"),
    (b"not a model but a text of some length", "TFL3"),
    (MODEL[:40], "should stand at byte"),
    (struct.pack("<I4s8x", 0xFFFFFFFF, b"TFL3"), "should stand at byte"),
    (tiny.written(tiny.Table(f0=("I", 3))), "no operators"),
    (of(), "0 kinds"),
    (of(*[tiny.Table()] * (MOST_OPERATORS + 1)), f"{MOST_OPERATORS + 1} kinds"),
    (of(tiny.Table(f3=("i", -5), f0=("b", -5))), "number -5"),
    (of(tiny.Table(f3=("i", 1 << 30))), "number 1073741824"),
    (of(tiny.Table(f2=("i", 0))), "version 0"),
    (of(tiny.Table(f3=("i", 32))), "has no name"),
    (of(tiny.Table(f3=("i", 32), f1=b"a" * (MOST_NAME + 1))), "bytes, and at most"),
    (of(tiny.Table(f3=("i", 32), f1="größer".encode())), "name is b'gr"),
    (of(tiny.Table(f3=("i", 32), f1=b"\x1b[2J")), "name is b'"),
])
def test_what_is_no_model_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadModel, match=reason):
        operators(data)


@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), max_size=8),
       st.integers(0, len(MODEL)))
def test_damaged_models_are_read_or_refused_and_nothing_else(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(MODEL)
    for place, value in changes:
        data[place] = value
    try:
        found = operators(bytes(data[:length]))
    except BadModel:
        return
    assert 1 <= len(found) <= MOST_OPERATORS
