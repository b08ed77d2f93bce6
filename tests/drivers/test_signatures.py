"""What counts as signed by an authority, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipdc_edge.codec import member_list
from ipdc_edge.codec.member_list import BadMemberList
from ipdc_edge.drivers import identity, signatures
from tests.drivers.nodes import make_creator


def test_a_list_counts_only_as_its_authority_signed_it(tmp_path: Path) -> None:
    home, other = make_creator(tmp_path, "one"), make_creator(tmp_path, "two")
    present = identity.load(home)
    certificate = Path(present.authority_certificate).read_bytes()
    assert signatures.verify(present.signed, certificate) == present.members
    _, payload, signature = member_list.parse(present.signed)
    for changed in (
        member_list.signed(payload.replace(b'"memory":1', b'"memory":2'), signature),
        member_list.signed(payload, signature[:-1] + bytes([signature[-1] ^ 1])),
        member_list.signed(payload, bytes(70)),
    ):
        with pytest.raises(BadMemberList, match="false"):
            signatures.verify(changed, certificate)
    with pytest.raises(BadMemberList, match="another authority"):
        signatures.verify(present.signed, Path(identity.load(other).authority_certificate).read_bytes())
    for broken in (b"", b"x", certificate[:200]):
        with pytest.raises(BadMemberList, match="certificate"):
            signatures.verify(present.signed, broken)
