"""A node's id has the form of a peer id, stays with its directory, and is never made up over a broken file."""

from __future__ import annotations

import os

import pytest

from ipdc_edge.codec.node_id import NODE_ID, node_id
from ipdc_edge.drivers.identity import IdentityBroken, load_or_make


def test_it_is_made_once_and_stays(tmp_path) -> None:  # type: ignore[no-untyped-def]
    first = load_or_make(str(tmp_path))
    assert NODE_ID.fullmatch(first) and load_or_make(str(tmp_path)) == first
    assert os.listdir(tmp_path) == ["node-id"]


def test_two_nodes_have_two_ids(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_or_make(str(tmp_path / "a")) != load_or_make(str(tmp_path / "b"))


@pytest.mark.parametrize("text", ["", "Qm", "x" * 46, "Qm" + "0" * 44])
def test_a_broken_file_is_named_and_kept(tmp_path, text: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "node-id"
    path.write_text(text)
    with pytest.raises(IdentityBroken, match=str(path)):
        load_or_make(str(tmp_path))
    assert path.read_text() == text


def test_the_form_is_libp2ps() -> None:
    """The multihash of 32 zero bytes, encoded by hand: 0x12 0x20 in front make it begin with Qm, 46 characters long."""
    assert node_id(bytes(32)) == "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51"
