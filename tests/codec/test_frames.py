"""Frames: pure encoding and decoding. The blocking socket is tested in tests/drivers/test_runner.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import frames

KINDS = st.sampled_from(sorted(frames.NAMES))


@given(st.lists(st.tuples(KINDS, st.binary(max_size=300)), max_size=20), st.integers(1, 50))
def test_frames_survive_any_cut(sent: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(frames.encode(kind, payload) for kind, payload in sent)
    decoder = frames.Decoder()
    got: list[tuple[int, bytes]] = []
    for start in range(0, len(stream), step):
        got += decoder.feed(stream[start : start + step])
    assert got == sent
    assert decoder.pending == 0


def test_a_frame_is_kind_length_payload() -> None:
    assert frames.encode(frames.DATA, b"abc") == b"\x04\x00\x00\x00\x03abc"
    assert frames.encode_write(7, 2) + b"xy" == b"\x12\x00\x00\x00\x06\x00\x00\x00\x07xy"


def test_json_carries_undecodable_bytes() -> None:
    frame = frames.encode_json(frames.FAILED, {"record": "a\udcffb", "n": 1})
    [(kind, payload)] = frames.Decoder().feed(frame)
    assert kind == frames.FAILED
    assert frames.parse_json(payload) == {"record": "a\udcffb", "n": 1}


def test_a_hostile_length_is_refused_before_its_payload_comes() -> None:
    decoder = frames.Decoder()
    with pytest.raises(frames.BadFrame, match="4294967295"):
        decoder.feed(b"\x04\xff\xff\xff\xff")
    with pytest.raises(frames.BadFrame, match="no frame kind 99"):
        frames.parse_header(b"\x63\x00\x00\x00\x00")
    assert frames.parse_header(frames.encode_header(frames.DATA, frames.MAX_PAYLOAD))[1] == frames.MAX_PAYLOAD


def test_an_unfinished_frame_is_pending() -> None:
    decoder = frames.Decoder()
    assert decoder.feed(frames.encode(frames.DATA, b"abc")[:-1]) == []
    assert decoder.pending == 7


@pytest.mark.parametrize("payload", [b"[1]", b"{", b"", b"\xff", b"[" * 100_000, b'"x"'])
def test_what_is_not_an_object_is_refused(payload: bytes) -> None:
    with pytest.raises(frames.BadFrame):
        frames.parse_json(payload)


def test_our_own_mistakes_are_not_the_peers() -> None:
    with pytest.raises(ValueError, match="no frame kind 0"):
        frames.encode(0)
    with pytest.raises(ValueError, match="at most 2097152"):
        frames.encode(frames.DATA, bytes(frames.MAX_PAYLOAD + 1))


def test_a_write_needs_its_stream() -> None:
    stream, data = frames.parse_write(b"\x00\x00\x00\x02hello")
    assert (stream, bytes(data)) == (2, b"hello")
    with pytest.raises(frames.BadFrame):
        frames.parse_write(b"\x00\x00")


@pytest.mark.parametrize("char", ["x", "é", "\udcff", "\U0001f600"])
def test_what_is_set_aside_fits_into_its_frame(char: str) -> None:
    texts = {"where": "map", "input": char * 9000, "record": char * 500, "error": char * 5000}
    record: dict[str, object] = {**texts, "offset": 1 << 62, "more": 1}
    fields = frames.bounded_aside(record)
    [(kind, payload)] = frames.Decoder().feed(frames.encode_json(frames.ASIDE, fields))
    assert kind == frames.ASIDE and 200 < len(payload) <= frames.MAX_ASIDE
    assert set(fields) == {"where", "input", "offset", "record", "error"}
    assert frames.bounded_aside({"where": "reduce"}) == {
        "where": "reduce", "input": None, "offset": None, "record": None, "error": None}  # fmt: skip
