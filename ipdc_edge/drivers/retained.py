"""What the own broker retains: every topic below the domain's, asked for with the daemon's own password, and forgetting
what is of nodes that are members no more.

Both block, in a thread of their caller's. mosquitto sends what it retains for a subscription before it answers the next
one, so the answer to a second subscription says that all has come.

Source: MQTT Version 5.0, sections 3.3, 3.8 and 3.9.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from ipdc_edge.drivers.broker_client import PATIENCE, SUCCESS, Client, Unkicked
from ipdc_edge.drivers.broker_files import PACKET_BYTES, RETAINED
from ipdc_edge.settings import LOOPBACK

Found = TypeVar("Found")
PUBLISH, SUBACK, RETAIN = 0x30, 0x90, 0x01
NO_RETAINED = 0x20  # option of a subscription: send nothing that is retained
REFUSED = 0x80  # the least reason of a subscription that is none
MOST = 10_000  # topics that are listed
TRIES = 3  # mosquitto 2.0.21 with OpenSSL 3.5 ends whatever connection follows one whose TLS failed


def forget(port: int, login: tuple[str, str], top: str, nodes: Collection[str]) -> None:
    """Has the broker retain no record and no last will of these nodes. Raises as `retained` does."""
    _again(lambda: _forget(port, login, top, nodes))


def _forget(port: int, login: tuple[str, str], top: str, nodes: Collection[str]) -> None:
    wanted = {f"{top}/{node}/{channel}" for node in nodes for channel in RETAINED}
    topics = [text for text in _retained(port, login, top) if text in wanted]
    if not topics:
        return
    connection = socket.create_connection((LOOPBACK, port), PATIENCE)
    with Client(connection, f"forget-{time.monotonic_ns()}", login) as client:
        for text in topics:
            if (reason := client.publish(text, retain=True)) not in SUCCESS:
                raise Unkicked(f"it goes on retaining {text} (reason {reason:#x})")


def retained(port: int, login: tuple[str, str], top: str) -> list[str]:
    """The topics below `top` of which the broker at this local port retains a message, at most MOST. OSError when it
    cannot be spoken with, Unkicked when it refuses."""
    return _again(lambda: _retained(port, login, top))


def _again(ask: Callable[[], Found]) -> Found:
    for _ in range(TRIES - 1):
        try:
            return ask()
        except ConnectionRefusedError:
            raise  # nobody is there
        except ConnectionError:
            continue
    return ask()


def _retained(port: int, login: tuple[str, str], top: str) -> list[str]:
    connection = socket.create_connection((LOOPBACK, port), PATIENCE)
    found: list[str] = []
    with Client(connection, f"doctor-{time.monotonic_ns()}", login, time.monotonic() + PATIENCE) as client:
        client.subscribe(1, f"{top}/#", 0)
        client.subscribe(2, f"{top}/nothing", NO_RETAINED)
        while True:
            first, body = client.packet(2 * PACKET_BYTES)
            kind = first & 0xF0
            if kind == SUBACK:
                if body[-1] >= REFUSED:
                    raise Unkicked(f"it refused a subscription (reason {body[-1]:#x})")
                if body[:2] == b"\0\2":
                    return found
            elif kind == PUBLISH and first & RETAIN and len(found) < MOST:
                length = int.from_bytes(body[:2], "big")
                found.append(body[2 : 2 + length].decode("utf-8", "replace"))
