"""Joining a domain with a token: the newcomer's side of drivers/join_server.py, run in the command's process.

Owns the checks before and after: nothing is sent before the other side has proved the authority's key by TLS, and
nothing becomes current before all that came was verified. Loads `cryptography`: never imported by the idle
daemon.
"""

from __future__ import annotations

import hmac
import os
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..codec import join_messages as m
from ..codec import member_list, swarm_key
from ..codec.join_token import Token
from ..core.values import MemberList
from ..errors import IpdcError
from ..home import Home
from . import authority, signatures
from . import certificates as x
from . import identity as files
from .durable import sync_directory

CONNECT = 4.0  # seconds for each address, handshake included
ANSWER = 15.0  # seconds: the authority waits up to 2 for its daemon, and its disk may be a slow one


class NotReachable(IpdcError):
    """Nobody answers where the token says: {tried}. Is the token older than ten minutes, or used already? Then the port
    is closed. Is a firewall between? The inviter can name another address: `ipdc-edge invite --address HOST`."""

    retry = True


class SomebodyInTheMiddle(IpdcError):
    """At {address} answers {found}, not the authority {expected} that the token names. Nothing was sent to it. Either
    another machine has that address now, or somebody sits between you and the domain. Ask for another token where you
    trust the network."""


class JoinBrokenOff(IpdcError):
    """{address} closed the connection before it answered. Try again; if the token is used up then, ask for another."""

    retry = True


class BadAdmission(IpdcError):
    """What the authority answered is refused, and this node stays where it was: {reason}."""


class OlderDomain(IpdcError):
    """The authority's member list is of version {version}, but this node has seen version {known} of domain {domain}:
    the authority was set back. Where it runs: `ipdc-edge domain restore FILE`, which makes a later version."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of it."""

    id: str
    domain: str
    authority: str
    members: MemberList
    peers: dict[str, tuple[str, str]]


def join(home: Home, token: Token, *, name: str, memory: int) -> Joined:
    """Makes this node a member of the token's domain, which becomes the current one. Raises NotReachable,
    SomebodyInTheMiddle, JoinBrokenOff, BadAdmission, OlderDomain, what JoinRefused and its kinds say, or
    BadJoinMessage; the node then stays where it was."""
    signed = authority.signing_request(home, token.authority).decode("ascii")
    request = m.JoinRequest(token.secret, signed, name, memory)
    answer = m.parse_answer(_ask(token, m.encode_request(request)))
    members = _check(files.own_id(home), token, answer)
    with files.locked(home):
        _keep(home, answer, members)
    return Joined(files.own_id(home), members.domain, members.authority, members, dict(answer.peers))


def _ask(token: Token, line: bytes) -> bytes:
    """The authority's line, from the first address where it answers."""
    tried: list[str] = []
    stranger: SomebodyInTheMiddle | None = None
    for address in token.addresses:
        try:
            connection = _connect(address)
        except ssl.SSLError as error:
            if error.reason != "BAD_SIGNATURE":
                tried.append(f"{address} ({error.reason or error})")
                continue
            found = "somebody who shows a certificate and has not its key (bad signature)"
            stranger = SomebodyInTheMiddle(address=address, found=found, expected=token.authority)
            continue
        except OSError as error:
            tried.append(f"{address} ({error.strerror or error})")
            continue
        with connection:
            found = _id_shown(connection)
            if not hmac.compare_digest(found, token.authority):
                stranger = SomebodyInTheMiddle(address=address, found=found or "a stranger", expected=token.authority)
                continue
            try:
                return _exchange(connection, line)
            except OSError as error:
                raise JoinBrokenOff(address=address) from error
    raise stranger or NotReachable(tried=", ".join(tried))


def _connect(address: str) -> ssl.SSLSocket:
    """TLS 1.3 to whoever answers there; the caller looks at who it is. Raises OSError."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # a closed domain has no other root than the fingerprint in the token
    try:
        plain = socket.create_connection((host.strip("[]"), int(port)), CONNECT)
    except UnicodeError as error:  # a host name that IDNA does not take
        raise OSError(str(error)) from None
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _id_shown(connection: ssl.SSLSocket) -> str:
    """The peer id of the key that the other side proved; "" for a key that has none."""
    try:
        return x.id_of_der(connection.getpeercert(binary_form=True) or b"")
    except ValueError:
        return ""


def _exchange(connection: ssl.SSLSocket, line: bytes) -> bytes:
    """Sends the request and reads the answer, up to its end of line. Raises OSError."""
    end = time.monotonic() + ANSWER
    connection.settimeout(ANSWER)
    connection.sendall(line)
    answer = bytearray()
    while not answer.endswith(b"\n"):
        connection.settimeout(max(0.01, end - time.monotonic()))
        piece = connection.recv(64 << 10)
        if not piece or time.monotonic() > end:
            raise OSError("no whole answer")
        answer += piece
        if len(answer) > m.MOST_ANSWER:
            break  # parse_answer says that it is too long
    return bytes(answer)


def _check(own: str, token: Token, answer: m.JoinAnswer) -> MemberList:
    """The list in the answer, once everything in the answer fits the token and this node's key."""
    try:
        signer = x.load_certificate(answer.authority.encode("ascii"))[1]
        certificate, key = x.load_certificate(answer.certificate.encode("ascii"))
        members = signatures.verify(answer.members, answer.authority.encode("ascii"))
        if answer.swarm:
            signatures.verify_swarm_key(answer.swarm, answer.authority.encode("ascii"))
    except (ValueError, member_list.BadMemberList, swarm_key.BadSwarmKey) as error:
        raise BadAdmission(reason=str(error)[:300]) from None
    mine = members.member(own)
    for fits, reason in (
        (x.id_of(signer) == token.authority, "the certificate of another authority came"),
        (x.id_of(key) == own and x.common_name(certificate) == own, "the certificate is not for this node's key"),
        (x.is_issued(certificate, signer), "the certificate is not signed by the authority"),
        (mine is not None and int(mine.serial, 16) == certificate.serial_number, "the list does not have this node"),
    ):
        if not fits:
            raise BadAdmission(reason=reason)
    return members


def _keep(home: Home, answer: m.JoinAnswer, members: MemberList) -> None:
    """Writes the domain's directory and makes it the current one. The caller holds the lock."""
    directory = os.path.join(files.domains(home), members.authority)
    known = authority.known(directory)
    if known is not None and known.version >= members.version:
        raise OlderDomain(version=members.version, known=known.version, domain=members.domain)
    authority.make_directory(home, members.authority)
    written: Iterable[tuple[str, bytes]] = (
        (files.AUTHORITY, answer.authority.encode("ascii")),
        (files.CERTIFICATE, answer.certificate.encode("ascii")),
        *([(files.SWARM, answer.swarm)] if answer.swarm else []),
        (files.MEMBERS, answer.members),
    )
    files.write_peers(directory, answer.peers)
    for name, data in written:
        files.write_file(os.path.join(directory, name), data)
    _hand_over(directory)
    files.switch(home, members.authority)


def _hand_over(directory: str) -> None:
    """A node that once held this authority's key holds it no more when it comes back as a member: another node has the
    key, or nobody could have answered, and two would sign two lists of one version."""
    try:
        os.unlink(os.path.join(directory, files.AUTHORITY_KEY))
    except FileNotFoundError:
        return
    sync_directory(directory)
