"""A backup's file: damaged ones, and those that a stranger made."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec import member_list
from ipdc_edge.core.values import MemberList
from ipdc_edge.drivers import sealed

PASSPHRASE = b"correct horse battery"
SEALED = sealed.Domain(b"key", b"certificate", member_list.signed(member_list.payload(MemberList(
    "home", "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51", 1, (), (),
    "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n")), bytes(70)))
BACKUP = sealed.seal(SEALED, PASSPHRASE)


@given(st.data())
def test_a_damaged_backup_is_told_from_a_wrong_passphrase(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(BACKUP) - 2))
    for broken in (BACKUP[:at], BACKUP[:at] + bytes([BACKUP[at] ^ data.draw(st.integers(1, 255))]) + BACKUP[at + 1 :]):
        try:
            assert sealed.unseal(broken, PASSPHRASE) == SEALED  # a space became a tab, or a hexadecimal digit a capital
        except sealed.BackupDamaged:
            pass


@given(st.binary(max_size=300) | st.dictionaries(st.text(max_size=6), st.text(max_size=6)).map(
    lambda value: json.dumps({"form": sealed.FORM, **value}).encode()))
def test_any_bytes_are_a_backup_or_damaged(data: bytes) -> None:
    with pytest.raises(sealed.BackupDamaged):
        sealed.unseal(data, PASSPHRASE)


def resealed(change: dict[str, object], inside: object = None) -> bytes:
    """A backup with other words in it, whose digest and passphrase are right."""
    body = json.loads(BACKUP)
    del body["digest"]
    body.update(change)
    if inside is not None:
        salt, nonce = bytes.fromhex(body["salt"]), bytes.fromhex(body["nonce"])
        head = {name: value for name, value in body.items() if name != "sealed"}
        key = AESGCM(sealed._key(PASSPHRASE, salt, sealed.PASSES))
        cipher = key.encrypt(nonce, json.dumps(inside).encode(), sealed._bytes(head))
        body["sealed"] = base64.b64encode(cipher).decode()
    return json.dumps({**body, "digest": sealed._digest(body)}).encode()


@pytest.mark.parametrize("change, inside", [
    ({"domain": "\x1b[2J"}, None), ({"domain": "a\nb"}, None), ({"domain": 5 * "x" * 63}, None), ({"nonce": ""}, None),
    ({"passes": "0"}, None), ({"passes": "17"}, None), ({"passes": "x"}, None), ({"passes": "9" * 5000}, None),
    ({}, []), ({}, {"key": 1}), ({}, {"key": "k", "authority": "\xe4", "members": "m"}),
    ({}, {"key": "k", "authority": "a", "members": "m", "holder": "", "swarm": "{}"}),
    ({}, {"key": "k", "authority": "a", "members": "m", "holder": "", "swarm": 5}),
])
def test_what_a_strangers_backup_says_is_bounded(change: dict[str, object], inside: object) -> None:
    """Its text reaches a terminal before the passphrase is known to fit."""
    with pytest.raises(sealed.BackupDamaged):
        sealed.unseal(resealed(change, inside), PASSPHRASE)
