"""The member list as bytes, and the rules by which it changes. Pure.

Owns the signed form {"payload": text, "signature": base64 of an ECDSA signature over the text's bytes}, every
bound on what may stand in it, who becomes a portal, and how a person's word finds a member. Never verifies a
signature: that takes `cryptography`, which drivers/authority.py does in a child.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import asdict, replace

from ..core.values import Member, MemberList
from ..errors import IpdcError
from .messages import MOST_PARAMS, NAME, BadMessage, Fields
from .node_id import NODE_ID

VERSION = 1  # of the form, not of a list
MOST_BYTES = 64 << 10  # of a signed list
MOST_MEMBERS = 256
MOST_REVOKED = 512
MOST_VERSION = 1 << 31  # it is seconds since 1950 in the CRL's date
MOST_PORTALS = 3  # the authority's node and two more
SIGNATURE = range(8, 73)  # bytes: two numbers of at most 33 bytes in DER
SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,39}")
CRL = re.compile(r"-----BEGIN X509 CRL-----\n([A-Za-z0-9+/=]{1,64}\n)+-----END X509 CRL-----\n")


class BadMemberList(IpdcError):
    """The member list is not one that this node can believe: {reason}."""


class UnknownMember(IpdcError):
    """No member of domain {domain} is called {node!r}, or has an id that begins or ends with it. Its members:
    `ipdc-edge domain show`."""


class AmbiguousMember(IpdcError):
    """{node!r} is not one member but {count}: {candidates}. Give more of the id."""

    exit_code = 2


def payload(members: MemberList) -> bytes:
    """The list as the authority signs it: JSON with sorted keys, no spaces, ASCII."""
    value = {"v": VERSION, **asdict(members)}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def signed(payload: bytes, signature: bytes) -> bytes:
    """The list as it is stored and travels."""
    value = {"payload": payload.decode("ascii"), "signature": base64.b64encode(signature).decode("ascii")}
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def pack(data: bytes) -> str:
    """A signed list as text for a message; "" where it would be too long for one."""
    text = base64.b64encode(zlib.compress(data, 9)).decode("ascii")
    return text if len(text) <= MOST_PARAMS else ""


def unpack(text: str) -> bytes:
    """The signed list that was packed. Raises BadMemberList."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    except (ValueError, zlib.error) as error:
        raise BadMemberList(reason=f"it cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise BadMemberList(reason=f"it is cut off, or has more than {MOST_BYTES} bytes")
    return data


def parse(data: bytes) -> tuple[MemberList, bytes, bytes]:
    """(list, payload, signature), bounded and checked in every field but NOT verified. Raises BadMemberList."""
    if len(data) > MOST_BYTES:
        raise BadMemberList(reason=f"{len(data)} bytes; at most {MOST_BYTES}")
    try:
        outer = Fields(json.loads(data), "the signed list")
        text = outer.text("payload", MOST_BYTES).encode("ascii")
        signature = base64.b64decode(outer.text("signature", 100), validate=True)
        members = _members(Fields(json.loads(text), "the list"))
    except BadMessage as error:
        raise BadMemberList(reason=error.details["reason"]) from None
    except (ValueError, RecursionError) as error:
        raise BadMemberList(reason=f"not JSON: {str(error)[:100]}") from None
    if len(signature) not in SIGNATURE:
        raise BadMemberList(reason=f"a signature of {len(signature)} bytes")
    return members, text, signature


def _members(fields: Fields) -> MemberList:
    if fields.number("v") != VERSION:
        raise BadMessage(reason="it is of a later version of ipdc-edge")
    members = tuple(_member(Fields(item, "a member")) for item in fields.items("members", MOST_MEMBERS))
    for what, values in (("id", [m.id for m in members]), ("serial", [m.serial for m in members])):
        if len(set(values)) != len(values):
            raise BadMessage(reason=f"two members have one {what}")
    revoked = fields.items("revoked", MOST_REVOKED)
    if not all(isinstance(serial, str) and SERIAL.fullmatch(serial) for serial in revoked):
        raise BadMessage(reason="a revoked serial is none")
    if {member.serial for member in members} & set(revoked):
        raise BadMessage(reason="a member's certificate is revoked")
    return MemberList(
        fields.text("domain", form=NAME), fields.text("authority", form=NODE_ID),
        fields.number("version", MOST_VERSION), members, tuple(revoked), fields.text("crl", MOST_BYTES, CRL),
    )


def _member(fields: Fields) -> Member:
    portal = fields.value.get("portal")
    if not isinstance(portal, bool):
        raise BadMessage(reason="a member: portal is neither true nor false")
    return Member(
        fields.text("id", form=NODE_ID), fields.text("name", form=NAME), fields.number("memory"), portal,
        fields.text("serial", form=SERIAL),
    )


def with_member(members: tuple[Member, ...], newcomer: Member, own: str) -> tuple[Member, ...]:
    """The members with `newcomer` among them, in place of an earlier entry of the same id. `own` is the node of the
    authority, always a portal. The two with the most memory are portals too; since a change of portal costs the
    others connections, a newcomer takes a place from one only with at least twice its memory."""
    before = next((member for member in members if member.id == newcomer.id), None)
    portals = {member.id for member in members if member.portal} | {own}
    if before is None:
        members = (*members, newcomer)
    else:
        members = tuple(newcomer if member.id == newcomer.id else member for member in members)
    others = [member for member in members if member.id in portals and member.id not in (own, newcomer.id)]
    weakest = min(others, key=lambda member: member.memory, default=None)
    if newcomer.id not in portals and weakest is not None and newcomer.memory >= 2 * weakest.memory:
        portals.add(newcomer.id)
    return _with_portals(members, portals, own)


def without_member(members: tuple[Member, ...], node: str, own: str) -> tuple[Member, ...]:
    """The members without this one; a portal that is missing then is replaced by who has the most memory."""
    left = tuple(member for member in members if member.id != node)
    return _with_portals(left, {member.id for member in left if member.portal} | {own}, own)


def _with_portals(members: tuple[Member, ...], portals: set[str], own: str) -> tuple[Member, ...]:
    """Marks MOST_PORTALS of them: own, then those in `portals`, then others; those with the most memory first."""
    ranked = sorted(members, key=lambda m: (m.id != own, m.id not in portals, -m.memory))
    chosen = {member.id for member in ranked[:MOST_PORTALS]}
    return tuple(replace(member, portal=member.id in chosen) for member in members)


def find_member(members: MemberList, text: str) -> Member:
    """The one member whose name this is, or whose id begins or ends with it. Raises UnknownMember, AmbiguousMember."""
    exact = members.member(text)
    if exact is not None:
        return exact
    # by both at once: members choose their names, and one like the end of another's id must not stand in for it
    found = [m for m in members.members
             if m.name == text or (len(text) >= 3 and (m.id.startswith(text) or m.id.endswith(text)))]
    if not found:
        raise UnknownMember(node=text[:100], domain=members.domain)
    if len(found) > 1:
        named = ", ".join(f"{member.name} {member.id}" for member in found[:5])
        raise AmbiguousMember(node=text[:100], count=len(found), candidates=named)
    return found[0]
