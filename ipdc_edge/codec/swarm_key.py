"""The key of the domain's private libp2p network, as the authority signs it and as Kubo reads it. Pure.

Owns the signed form {"payload": text, "signature": base64 of an ECDSA signature over the text's bytes}, its bounds, and
Kubo's `swarm.key`. It is a secret of the members: it stands in no message that passes a broker, and is never printed.
Never verifies a signature: that takes `cryptography`, which drivers/authority.py does in a child.
Source of Kubo's form: https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field

from ..errors import IpdcError
from .messages import BadMessage, Fields
from .node_id import NODE_ID

VERSION = 1  # of the form, not of a key
BYTES = 32  # of a key
MOST_BYTES = 1 << 10  # of a signed key
MOST_VERSION = 1 << 31  # as of a member list
SIGNATURE = range(8, 73)  # bytes: two numbers of at most 33 bytes in DER
HEX_KEY = re.compile(rf"[0-9a-f]{{{2 * BYTES}}}")


class BadSwarmKey(IpdcError):
    """The key of the domain's private network is not one that this node can believe: {reason}."""


@dataclass(frozen=True, slots=True)
class SwarmKey:
    """A key, the authority whose domain it is for, and its version: that of the member list that it was made with. So a
    list and its key fit together. The key itself is not in its repr, which may come into a log."""

    authority: str
    version: int
    key: bytes = field(repr=False)


def payload(key: SwarmKey) -> bytes:
    """The key as the authority signs it: JSON with sorted keys, no spaces, ASCII."""
    value = {"v": VERSION, "authority": key.authority, "version": key.version, "swarm": key.key.hex()}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def signed(payload: bytes, signature: bytes) -> bytes:
    """The key as it is stored and handed over."""
    value = {"payload": payload.decode("ascii"), "signature": base64.b64encode(signature).decode("ascii")}
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def parse(data: bytes) -> tuple[SwarmKey, bytes, bytes]:
    """(key, payload, signature), bounded and checked in every field but NOT verified. Raises BadSwarmKey, which never
    shows what may be a key."""
    if len(data) > MOST_BYTES:
        raise BadSwarmKey(reason=f"{len(data)} bytes; at most {MOST_BYTES}")
    try:
        outer = Fields(json.loads(data), "the signed key")
        text = outer.text("payload", MOST_BYTES).encode("ascii")
        signature = base64.b64decode(outer.text("signature", 100), validate=True)
        inner = Fields(json.loads(text), "the key")
        if inner.number("v") != VERSION:
            raise BadMessage(reason="it is of a later version of ipdc-edge")
        if not isinstance(inner.value.get("swarm"), str) or not HEX_KEY.fullmatch(inner.value["swarm"]):
            raise BadMessage(reason=f"it has no {2 * BYTES} hexadecimal digits")
        found = SwarmKey(inner.text("authority", form=NODE_ID), inner.number("version", MOST_VERSION),
                         bytes.fromhex(inner.value["swarm"]))
    except BadMessage as error:
        reason = str(error.details["reason"])
        raise BadSwarmKey(reason="its payload is no text" if "payload" in reason else reason) from None
    except (ValueError, RecursionError) as error:
        raise BadSwarmKey(reason=f"not as it is signed ({type(error).__name__})") from None
    if len(signature) not in SIGNATURE:
        raise BadSwarmKey(reason=f"a signature of {len(signature)} bytes")
    return found, text, signature


def kubos_file(key: SwarmKey) -> bytes:
    """What Kubo reads as `swarm.key` in its repository."""
    return f"/key/swarm/psk/1.0.0/\n/base16/\n{key.key.hex()}\n".encode("ascii")
