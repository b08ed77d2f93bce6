"""Whether the authority of a domain signed what somebody gave: a member list, the key of the Kubo nodes' network.

Owns that one check. Never signs, and touches no file. Loads `cryptography`: only commands and children import it, never
the idle daemon.
"""

from __future__ import annotations

from ..codec import member_list, swarm_key
from ..codec.member_list import BadMemberList
from ..codec.swarm_key import BadSwarmKey, SwarmKey
from ..core.values import MemberList
from . import certificates as x


def verify_swarm_key(data: bytes, authority: bytes) -> SwarmKey:
    """A signed key, if the authority of this certificate (PEM) signed it. Raises BadSwarmKey for anything else."""
    found, payload, signature = swarm_key.parse(data)
    _check_signed(found.authority, payload, signature, authority, BadSwarmKey)
    return found


def verify(data: bytes, authority: bytes) -> MemberList:
    """A signed list, if the authority of this certificate (PEM) signed it. Raises BadMemberList for anything else."""
    members, payload, signature = member_list.parse(data)
    _check_signed(members.authority, payload, signature, authority, BadMemberList)
    return members


def _check_signed(
    named: str, payload: bytes, signature: bytes, authority: bytes, refusal: type[BadSwarmKey | BadMemberList],
) -> None:
    """Raises `refusal` unless what names this authority was signed by that of the certificate (PEM)."""
    try:
        key = x.load_certificate(authority)[1]
    except ValueError as error:
        raise refusal(reason=f"the authority's certificate cannot be read: {error}") from None
    if named != x.id_of(key):
        raise refusal(reason=f"it is of another authority, {named}")
    if not x.is_signed(key, payload, signature):
        raise refusal(reason="its signature is false")
