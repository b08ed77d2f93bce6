"""The authority's own word to members that do not know the node which has it now.

Owns the connections of that announcement: after `domain restore` on a new node the members' brokers do not let that
node say anything, but they let the authority itself tell of a newer list. Never makes what is said, and never decides
to whom. Runs in a child (authority_child.py), since it shows the authority's certificate and uses its key.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..home import Home
from . import identity as files
from .authority import NotTheAuthority
from .broker_client import SUCCESS, Client, Unkicked
from .broker_files import announcement_topic
from .tls import client_context, forget_errors, peer_id

LIMIT = 5.0  # seconds for one member
THREADS = 8


def announce(home: Home, members: Mapping[str, str], payload: bytes) -> list[str]:
    """Publishes the payload as the authority at the brokers of these members (id -> "host:port"); the ids of those that
    took it. Blocks, at most about LIMIT for every THREADS members. Raises NotTheAuthority."""
    own = files.load(home)
    if not own.has_authority:
        raise NotTheAuthority(domain=own.domain)
    key = os.path.join(files.domains(home), own.authority, files.AUTHORITY_KEY)
    context = client_context(replace(own, certificate=own.authority_certificate, key=key))
    topic = announcement_topic(own.members)

    def tell(member: tuple[str, str]) -> str:
        forget_errors()  # of whatever this thread connected to before
        try:
            return _tell(*member, context, own.authority, topic, payload)
        except (OSError, ValueError, Unkicked) as error:
            return str(error) or type(error).__name__

    with ThreadPoolExecutor(THREADS) as threads:
        failures = dict(zip(members, threads.map(tell, members.items())))
    for node, failure in failures.items():
        if failure:
            print(f"{node} could not be told of the restored authority: {failure[:200]}", file=sys.stderr)
    return [node for node, failure in failures.items() if not failure]


def _tell(node: str, address: str, context: ssl.SSLContext, authority: str, topic: str, payload: bytes) -> str:
    """Tells one member; why it did not take it, "" if it did."""
    deadline = time.monotonic() + LIMIT
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), LIMIT) as plain:
        plain.settimeout(max(0.1, deadline - time.monotonic()))
        with context.wrap_socket(plain) as secure:
            if peer_id(secure) != node:
                return f"another node answers at {address}"
            with Client(secure, authority, deadline=deadline) as client:
                reason = client.publish(topic, payload)
    return "" if reason in SUCCESS else f"its broker refused the message (reason {reason:#x})"
