"""Where this node is on the network, and who answers at an address.

Owns two questions to the kernel and to a peer's TLS. Remembers nothing.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable

from .tls import forget_errors, peer_id

ANSWER = 5.0  # seconds that an address has to answer
ELSEWHERE = "192.0.2.1"  # of TEST-NET-1 (RFC 5737): nobody's, so the way to it is the default route
LOOPBACK = 127  # the first byte of its addresses; module ipaddress would cost the idle daemon 0.4 MB


def own_address(peers: Iterable[str]) -> str | None:
    """This machine's IPv4 address on its way to the first of the peers ("host:port") that there is a way to, else on
    its default route; None where there is no way to anywhere. Sends nothing."""
    for host in [*(peer.rpartition(":")[0] for peer in peers), ELSEWHERE]:
        try:
            if socket.inet_pton(socket.AF_INET, host)[0] == LOOPBACK:
                continue
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))  # only chooses the way
                return str(probe.getsockname()[0])
        except (ValueError, OSError):  # a name, which would have to be looked up; or no way
            continue
    return None


def who_answers(address: str, context: ssl.SSLContext) -> str:
    """The id of the domain's node that listens at "host:port", by its certificate; "" where none does."""
    host, _, port = address.rpartition(":")
    forget_errors()
    try:
        with socket.create_connection((host, int(port)), ANSWER) as plain, context.wrap_socket(plain) as secure:
            return peer_id(secure)
    except (OSError, ValueError):
        forget_errors()  # this thread may be anybody's next
        return ""
