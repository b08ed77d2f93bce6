"""A domain's backup: its key, certificate and member list in one file under a passphrase.

Owns that file's form: JSON, whose `sealed` is AES-256-GCM under a key that scrypt made of the passphrase, with
everything else authenticated: the form, the domain's name, salt, nonce and scrypt's passes. A digest in the clear
tells a damaged file from a wrong passphrase. Never writes a file, and loads `cryptography`: never imported by the idle
daemon.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ..codec import swarm_key
from ..codec.member_list import parse
from ..codec.messages import NAME
from ..codec.node_id import NODE_ID
from ..errors import IpdcError

FORM = "ipdc-edge domain backup 1"
MOST_BYTES = 1 << 20
COST = 1 << 15  # of scrypt: 32 MiB of memory for a moment, which a board of 128 MB has
PASSES = 3  # of scrypt, one after the other: a guess costs time three times, the board's memory only once
MOST_PASSES = 16  # that a file may ask for


class BackupDamaged(IpdcError):
    """This is not a whole backup of a domain: {reason}. Take another copy of the file."""


class WrongPassphrase(IpdcError):
    """The passphrase is not the one that this backup of domain {domain} was made with."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What a backup holds: the authority's private key and certificate (PEM), the signed list, the id of the node
    that it was made on, and the signed key of the Kubo nodes' private network (b"" in one of an earlier version)."""

    key: bytes = field(repr=False)
    authority: bytes
    members: bytes
    holder: str = ""
    swarm: bytes = field(default=b"", repr=False)


def seal(domain: Domain, passphrase: bytes) -> bytes:
    """The backup as a file's bytes."""
    salt, nonce = os.urandom(16), os.urandom(12)
    inside = {"key": domain.key, "authority": domain.authority, "members": domain.members}
    words = {name: value.decode("ascii") for name, value in inside.items()}
    text = json.dumps({**words, "holder": domain.holder, "swarm": domain.swarm.decode("ascii")}).encode("ascii")
    head = {"form": FORM, "domain": parse(domain.members)[0].domain, "salt": salt.hex(), "nonce": nonce.hex(),
            "passes": str(PASSES)}
    cipher = AESGCM(_key(passphrase, salt, PASSES)).encrypt(nonce, text, _bytes(head))
    body = {**head, "sealed": base64.b64encode(cipher).decode("ascii")}
    return json.dumps({**body, "digest": _digest(body)}, indent=1).encode("ascii") + b"\n"


def unseal(data: bytes, passphrase: bytes) -> Domain:
    """What is in a backup. Raises BackupDamaged, WrongPassphrase."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("form") != FORM:
            raise ValueError(f"it does not say {FORM!r}")
        if body.pop("digest", None) != _digest(body):
            raise ValueError("its digest differs: it was cut or changed")
        head = {name: str(value) for name, value in body.items() if name != "sealed"}
        salt, nonce = bytes.fromhex(head["salt"]), bytes.fromhex(head["nonce"])
        cipher = base64.b64decode(body["sealed"], validate=True)
        passes = int(head["passes"])
        if not 1 <= passes <= MOST_PASSES:
            raise ValueError(f"it asks for {passes} passes of scrypt; at most {MOST_PASSES} are made")
        if not NAME.fullmatch(head["domain"]):  # what somebody's file says is shown before it is authenticated
            raise ValueError("its domain has no name")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BackupDamaged(reason=str(error)[:200]) from None
    try:
        inside = json.loads(AESGCM(_key(passphrase, salt, passes)).decrypt(nonce, cipher, _bytes(head)))
        holder = str(inside["holder"])
        parts = [inside[name].encode("ascii") for name in ("key", "authority", "members")]
        swarm = inside.get("swarm", "").encode("ascii")
        if swarm:
            swarm_key.parse(swarm)
    except InvalidTag:
        raise WrongPassphrase(domain=head["domain"]) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, swarm_key.BadSwarmKey) as error:
        raise BackupDamaged(reason=str(error)[:200]) from None
    return Domain(*parts, holder if NODE_ID.fullmatch(holder) else "", swarm)


def _key(passphrase: bytes, salt: bytes, passes: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=COST, r=8, p=passes).derive(passphrase)


def _bytes(value: dict[str, str]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _digest(body: dict[str, str]) -> str:
    return hashlib.sha256(_bytes(body)).hexdigest()
