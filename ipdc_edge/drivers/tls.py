"""TLS between nodes: contexts made of this node's identity, and who a verified peer is.

Owns what both sides demand of each other: a certificate that the domain's authority issued. Never compares host
names, since a peer is known by its id and not by its address: the caller compares `peer_id` with the id that it
meant. Never asks whether that id is still a member: the caller does, by the present member list. So a context
outlives every change of the list, and no revocations are loaded into it. (An expelled node's certificate is good for
a handshake here, and for nothing behind it. Brokers cannot look ids up and have the list's CRL instead.)
"""

from __future__ import annotations

import asyncio.sslproto
import ssl
from typing import TYPE_CHECKING

from ipdc_edge.codec.node_id import NODE_ID

if TYPE_CHECKING:
    from ipdc_edge.drivers.identity import Identity

READ_BUFFER = 32 << 10  # bytes; a TLS record holds at most 16 KiB. asyncio's own 256 KiB are taken for every connection


def server_context(identity: Identity) -> ssl.SSLContext:
    """For the side that accepts: it demands a certificate of the domain."""
    context = _context(identity, ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # each connection proves anew who it is, and a session costs no memory
    context.options |= ssl.OP_NO_TICKET  # the same for TLS 1.2
    asyncio.sslproto.SSLProtocol.max_size = READ_BUFFER
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """For the side that connects: it demands a certificate of the domain and shows its own."""
    context = _context(identity, ssl.PROTOCOL_TLS_CLIENT)
    asyncio.sslproto.SSLProtocol.max_size = READ_BUFFER
    return context


def peer_id(connection: ssl.SSLObject | ssl.SSLSocket | None) -> str:
    """The node id in the peer's verified certificate; "" where there is none, which no node's id equals."""
    certificate = connection.getpeercert() if connection is not None else None
    names = [value for part in (certificate or {}).get("subject", ()) for name, value in part if name == "commonName"]
    return names[0] if len(names) == 1 and NODE_ID.fullmatch(names[0]) else ""


def forget_errors() -> None:
    """Empties this thread's queue of OpenSSL errors. To be called after a TLS socket (not asyncio's) failed: with
    OpenSSL 3.5 and Python 3.13 a reset leaves an error there, and the next read of another connection in the same
    thread fails with it (400 of 400 tries). `set_ciphers` empties it, when it refuses its argument."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("NONE-OF-THIS-NAME")
    except ssl.SSLError:
        return


def _context(identity: Identity, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=identity.authority_certificate)
    context.load_cert_chain(identity.certificate, identity.key)
    return context
