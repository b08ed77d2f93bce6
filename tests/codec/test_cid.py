"""CIDs against the specifications' own examples, and against every kind of text that is none."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import (
    DAG_PB,
    IDENTITY,
    RAW,
    BadCid,
    BlockMismatch,
    Cid,
    canonical,
    cid_from_bytes,
    cid_from_parts,
    cid_to_bytes,
    decode_varint,
    encode_varint,
    inlined,
    is_cid,
    make_cid,
    parse_cid,
    raw_cid,
    verify,
    verify_digest,
)

EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"  # UnixFS specification: empty raw block
HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"  # IPIP-0499: "hello world", raw leaf
EMPTY_DIRECTORY = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
EMPTY_DIRECTORY_0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
# the UnixFS specification's identity CIDs of 128 'B' and of 129 'A'
IDENTITY_128 = "bafkqbaab" + "ijbeeqsc" * 25 + "ijbee"
IDENTITY_129 = "bafkqbaib" + "ifaucqkb" * 25 + "ifaucqi"


def test_the_specifications_examples():
    assert raw_cid(b"") == EMPTY
    assert raw_cid(b"hello world") == HELLO
    assert make_cid(DAG_PB, hashlib.sha256(b"\n\x02\x08\x01").digest()) == EMPTY_DIRECTORY


def test_buffers_of_all_kinds_have_the_same_cid():
    assert raw_cid(bytearray(b"hello world")) == raw_cid(memoryview(b"hello world")) == HELLO


def test_parse_takes_apart():
    assert parse_cid(HELLO) == Cid(RAW, hashlib.sha256(b"hello world").digest())
    assert parse_cid("bafkqaaa") == Cid(RAW, b"", IDENTITY)


def test_version_0_is_the_same_block_as_version_1():
    assert parse_cid(EMPTY_DIRECTORY_0) == parse_cid(EMPTY_DIRECTORY)
    assert canonical(EMPTY_DIRECTORY_0) == EMPTY_DIRECTORY
    assert canonical(EMPTY_DIRECTORY) == EMPTY_DIRECTORY
    assert cid_to_bytes(EMPTY_DIRECTORY_0) == b"\x12\x20" + hashlib.sha256(b"\n\x02\x08\x01").digest()


def test_identity_cids_up_to_the_specifications_limit():
    assert inlined("bafkqaaa") == b""
    assert inlined(IDENTITY_128) == b"B" * 128
    assert inlined(HELLO) is None
    with pytest.raises(BadCid, match="128"):
        parse_cid(IDENTITY_129)


def _spell(data: bytes) -> str:
    return "b" + base64.b32encode(data).decode().rstrip("=").lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "x",
        HELLO[:-1],
        HELLO + "a",
        HELLO.upper(),
        HELLO[:-1] + "f",  # a bit set in the padding: a second spelling of the same CID
        "z" + HELLO[1:],
        " " + HELLO,
        HELLO + "\n",
        HELLO.replace("r", "1"),
        "b" + "a" * 10_000_000,
        "../../etc/passwd",
        "bafk/../..",
        "b\N{ARABIC-INDIC DIGIT ONE}",
        EMPTY_DIRECTORY_0[:-1],
        EMPTY_DIRECTORY_0 + "n",
        "Qm" + "z" * 44,
        "Qm" + "0" * 44,
        _spell(b"\x01\x55\x12\x20" + b"h" * 31),
        _spell(b"\x01\x55\x12\x1f" + b"h" * 31),
        _spell(b"\x01\x55\x12\x21" + b"h" * 33),
        _spell(b"\x01\x55\x13\x40" + b"h" * 64),  # sha2-512
        _spell(b"\x02\x55\x12\x20" + b"h" * 32),
        _spell(b"\x01\xd5\x00\x12\x20" + b"h" * 32),  # a number longer than needed
        _spell(b"\x01" + b"\xff" * 12),
        _spell(b"\x01\x55"),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_everything_else_is_refused_in_a_short_message(text):
    assert not is_cid(text)
    with pytest.raises(BadCid) as caught:
        parse_cid(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_verify():
    verify(HELLO, b"hello world")
    verify("bafkqaaa", b"")
    verify_digest(HELLO, hashlib.sha256(b"hello world").digest(), b"")
    for cid, data in (
        (HELLO, b"hello world!"),
        (EMPTY, b"x"),
        ("bafkqaaa", b"x"),
        (EMPTY_DIRECTORY, b"hello world"),
    ):
        with pytest.raises(BlockMismatch, match=cid):
            verify(cid, data)
    with pytest.raises(BlockMismatch):
        verify_digest(HELLO, bytes(32), b"hello world")


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_made_cids_are_read_again_and_spelt_as_base32_says(codec, digest):
    text = make_cid(codec, digest)
    assert parse_cid(text) == Cid(codec, digest)
    assert cid_from_parts(Cid(codec, digest)) == text
    assert text == _spell(cid_to_bytes(text))
    assert cid_from_bytes(cid_to_bytes(text)) == Cid(codec, digest)


@given(st.binary(max_size=128))
def test_identity_cids_are_read_again(data):
    text = cid_from_parts(Cid(RAW, data, IDENTITY))
    assert inlined(text) == data
    verify(text, data)


@given(st.binary(max_size=80))
def test_bytes_are_a_cid_or_a_bad_one(data):
    try:
        assert cid_to_bytes(cid_from_parts(cid_from_bytes(data)))[-8:] == data[-8:]
    except BadCid:
        assert not is_cid(_spell(data))


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_read_again(number):
    data = encode_varint(number)
    assert decode_varint(b"x" + data + b"x", 1) == (number, 1 + len(data))
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="cut"):
            decode_varint(data[:cut], 0)


def test_a_number_over_64_bits_is_refused():
    with pytest.raises(ValueError, match="64"):
        decode_varint(encode_varint(2**64), 0)
    with pytest.raises(ValueError, match="64"):
        decode_varint(b"\xff" * 1000, 0)


def test_a_digest_of_a_wrong_length_is_our_own_bug():
    with pytest.raises(ValueError, match="32"):
        make_cid(RAW, b"short")
