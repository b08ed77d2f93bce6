"""The token of `ipdc-edge invite` as text: who the authority is, the secret, and where to join. Pure.

Owns its form: `ipdc1-` and base64url of: the digest of the authority's id (32 bytes), the secret (16), the
addresses with commas between, and the first 4 bytes of a SHA-256 over all that. So a token that was cut or
mistyped is found out at once, without a connection, and a refused secret is a used one and not a typo. Never
knows whether a token is still valid.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from ..errors import IpdcError
from .messages import ADDRESS
from .node_id import digest_of, node_id

PREFIX = "ipdc1-"
SECRET = 16  # bytes
CHECK = 4  # bytes
MOST_ADDRESSES = 4
MOST_ADDRESS_BYTES = 128  # of all with their commas
MOST_TEXT = 250  # characters of a token


class BadToken(IpdcError):
    """This is not a whole token: {reason}. Copy all of it, from ipdc1- to its end, as `ipdc-edge invite` printed it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says: the authority's id, the secret, and addresses (host:port) of its join port."""

    authority: str
    secret: bytes
    addresses: tuple[str, ...]


def render(token: Token) -> str:
    """The token as one word. ValueError for values that do not go into one."""
    addresses = ",".join(token.addresses)
    if not _are_addresses(token.addresses) or len(addresses) > MOST_ADDRESS_BYTES or len(token.secret) != SECRET:
        raise ValueError(f"{token.addresses!r}: 1 to {MOST_ADDRESSES} addresses, {MOST_ADDRESS_BYTES} bytes together")
    body = digest_of(token.authority) + token.secret + addresses.encode("ascii")
    return PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode("ascii").rstrip("=")


def parse(text: str) -> Token:
    """The values of a token, which may have been broken into lines on its way. Raises BadToken."""
    if len(text) > 2 * MOST_TEXT:
        raise BadToken(reason=f"{len(text)} characters; a token has at most {MOST_TEXT}")
    word = "".join(text.split())
    if not word.startswith(PREFIX):
        raise BadToken(reason=f"it does not begin with {PREFIX}")
    body = word.removeprefix(PREFIX)
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        raise BadToken(reason="it is cut, or has characters that no token has") from None
    data, check = data[:-CHECK], data[-CHECK:]
    # the second condition: spare bits of the last character, and strange ones that the decoder skips
    if check != _check(data) or base64.urlsafe_b64encode(data + check).decode("ascii").rstrip("=") != body:
        raise BadToken(reason="it is cut, or a character of it is wrong")
    addresses = tuple(data[32 + SECRET :].decode("latin-1").split(","))
    if not _are_addresses(addresses):
        raise BadToken(reason="its addresses make no sense; is it of a later version of ipdc-edge?")
    return Token(node_id(data[:32]), data[32 : 32 + SECRET], addresses)


def _are_addresses(addresses: tuple[str, ...]) -> bool:
    return 1 <= len(addresses) <= MOST_ADDRESSES and all(
        ADDRESS.fullmatch(address) and 0 < int(address.rpartition(":")[2]) < 1 << 16 for address in addresses
    )


def _check(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode("ascii") + body).digest()[:CHECK]
