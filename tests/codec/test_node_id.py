"""A node's id is libp2p's peer id of its key: fixed vectors. More keys: tests/content/test_peer_ids.py."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.node_id import NODE_ID, digest_of, key_id, node_id

# The ECDSA key of the test vectors in libp2p's specification of peer ids (peer-ids.md): the protobuf of the public key.
SPEC_PROTOBUF = bytes.fromhex(
    "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d83abab44abf3161f162a4bc901"
    "d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec034e9f77c409e62"
)
SPEC_ID = "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk"
# The public keys of the private keys 1, 2 and 3 on P-256. These ids, and SPEC_ID, are as go-libp2p 0.43.0 prints them
# (crypto.UnmarshalPublicKey, peer.IDFromPublicKey).
HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
SMALL = {
    "QmQBDSWypmTn4fBckNJfHS2jFvJ4ysijezQeeimXf6vHp9":
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    "QmQ1eZZaY4nkWAzHSw4c9n2aAnRexdVbfDLbnW3hdVjYgM":
        "047cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"
        "07775510db8ed040293d9ac69f7430dbba7dade63ce982299e04b79d227873d1",
    "QmTuQVhsbogYjMp6m8EN8a7rX3qCw4u6NFKZkHnYbqf5Jx":
        "045ecbe4d1a6330a44c8f7ef951d4bf165e6c6b721efada985fb41661bc6e7fd6c"
        "8734640c4998ff7e374b06ce1a64a2ecd82ab036384fb83d9a79b127a27d5032",
}


def test_the_specifications_key() -> None:
    assert SPEC_PROTOBUF[:4] == b"\x08\x03\x12\x5b"
    assert key_id(SPEC_PROTOBUF[4:]) == SPEC_ID


@pytest.mark.parametrize("node", SMALL)
def test_ids_that_go_libp2p_made(node: str) -> None:
    assert key_id(HEAD + bytes.fromhex(SMALL[node])) == node


def test_a_key_longer_than_127_bytes_has_a_length_of_two_bytes() -> None:
    """As on P-384 (120 bytes) it never is; but the protobuf's rule is kept, by a hash made by hand."""
    assert key_id(bytes(200)) == node_id(hashlib.sha256(b"\x08\x03\x12\xc8\x01" + bytes(200)).digest())


def test_base58_by_hand() -> None:
    """The multihash of 32 zero bytes, encoded by hand: 0x12 0x20 in front make it begin with Qm, 46 characters long."""
    assert node_id(bytes(32)) == "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"


@given(st.binary(min_size=32, max_size=32))
def test_every_digest_has_an_id_and_comes_back(digest: bytes) -> None:
    assert NODE_ID.fullmatch(node_id(digest))
    assert digest_of(node_id(digest)) == digest


@pytest.mark.parametrize("text", ["", "Qm", "Qm" + "0" * 44, "Qm" + "z" * 44, "z" * 46, "1" * 46, "Qm" + "1" * 300])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        digest_of(text)


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_none(text: str) -> None:
    try:
        assert node_id(digest_of(text)) == text
    except ValueError:
        pass
