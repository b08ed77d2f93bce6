"""Nodes on the same LAN, found by mDNS (`_ipdc._tcp`) through Avahi, where that is installed.

Owns the service file that Avahi publishes for this node, and the look for others by Avahi's short-lived tools, so
that neither costs memory while nothing is looked for. What is found was said by anybody on the LAN: it is a hint
where to knock, and whoever connects checks the certificate. IPv4 only, as everything here.
"""

from __future__ import annotations

import ipaddress
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ..codec.node_id import NODE_ID

if TYPE_CHECKING:
    from ..settings import Settings
    from .identity import Identity

SERVICE = "_ipdc._tcp"
DIRECTORY = "/etc/avahi/services"
FILE = "ipdc-edge.service"
MOST_OUTPUT = 256 << 10  # bytes of avahi-browse's output that are looked at
MOST_FOUND = 64
MOST_LINE = 4096  # characters; a real one has about 250
LOOK_UP = 1.0  # seconds kept for the addresses of hosts; Avahi knows them from the announcements
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\.local", re.ASCII)  # never an option of the tool that is asked
_TEXT = re.compile(r'"([a-z]{1,16})=([^"\\]{0,100})"')
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


class Found(NamedTuple):
    """What somebody on the LAN announces: a node's id, where its broker is, and the id of its domain's authority."""

    node: str
    address: str
    port: int
    domain: str


def browse(timeout: float = 4.0) -> list[Found]:
    """Who announces a node now, once each; empty where there is no Avahi. Blocks for `timeout` seconds at the most."""
    until = time.monotonic() + timeout
    options = ("--parsable", "--resolve", "--terminate", "--no-db-lookup", SERVICE)
    output = _ask("avahi-browse", options, until - min(LOOK_UP, timeout / 2))
    hosts = unresolved(output)
    return parse(output, addresses(_ask("avahi-resolve", ("-4", "--name", *hosts), until)) if hosts else {})


def _ask(tool: str, arguments: tuple[str, ...], until: float) -> bytes:
    """What one of Avahi's tools prints until it ends, or until then; nothing where it is not installed."""
    program = shutil.which(tool)
    if program is None:
        return b""
    try:
        child = subprocess.Popen(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:  # no process to be had now; the next look comes
        return b""
    with child:
        try:
            assert child.stdout is not None
            return _read(child.stdout.fileno(), until)
        finally:
            child.kill()  # however far it is: --terminate waits for answers that never come


def _read(descriptor: int, until: float) -> bytes:
    """All that comes until the end, the deadline or the bound."""
    data = bytearray()
    while len(data) < MOST_OUTPUT:
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            break
        piece = os.read(descriptor, 16 << 10)
        if not piece:
            break
        data += piece
    return bytes(data[:MOST_OUTPUT])


def parse(output: bytes, known: Mapping[str, str] = MappingProxyType({})) -> list[Found]:
    """The nodes in avahi-browse's parsable output; every line that is not a whole answer is passed over, and so is one
    whose address is not IPv4 and whose host is not in `known`, host names to addresses."""
    found: dict[Found, None] = {}
    for hint, host in _answers(output):
        address = hint.address if _is_host(hint.address) else known.get(host, "")
        if address:
            found[hint._replace(address=address)] = None
            if len(found) == MOST_FOUND:
                break
    return list(found)


def unresolved(output: bytes) -> tuple[str, ...]:
    """The names of the hosts in avahi-browse's output whose IPv4 address it does not tell: it tells one address of a
    host, whichever it heard first, and every host with IPv6 has one of that too."""
    hosts: dict[str, None] = {}
    for hint, host in _answers(output):
        if not _is_host(hint.address) and _HOST.fullmatch(host):
            hosts[host] = None
            if len(hosts) == MOST_FOUND:
                break
    return tuple(hosts)


def addresses(output: bytes) -> dict[str, str]:
    """Host names to IPv4 addresses, of avahi-resolve's output: a name, a tab and an address in each line."""
    known = {}
    for line in output.decode("utf-8", "replace").split("\n")[:MOST_FOUND]:
        host, _, address = line.partition("\t")
        if _HOST.fullmatch(host) and _is_host(address):
            known[host] = address
    return known


def _answers(output: bytes) -> Iterator[tuple[Found, str]]:
    """Each whole answer in avahi-browse's output, its address unchecked, with its host's name. Fields:
    =;interface;protocol;name;type;domain;host name;address;port;text, of which only the text may hold a `;`."""
    for line in output.decode("utf-8", "replace").split("\n"):
        fields = line.split(";", 9)
        if len(line) > MOST_LINE or len(fields) != 10 or fields[0] != "=" or fields[4] != SERVICE:
            continue
        text = dict(_TEXT.findall(fields[9]))
        node, domain = text.get("id", ""), text.get("domain", "")
        if not NODE_ID.fullmatch(node) or not NODE_ID.fullmatch(domain):
            continue
        if _PORT.fullmatch(fields[8]) and 0 < int(fields[8]) < 1 << 16:
            yield Found(node, fields[7], int(fields[8]), domain), fields[6]


def _is_host(text: str) -> bool:
    """Whether this is an IPv4 address that one other machine can have."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved)


def service_file(identity: Identity, settings: Settings) -> str:
    """What Avahi publishes for this node, see avahi.service(5). Nobody but the node itself chooses anything in it: ids
    are of a form without XML's special characters, and %h is replaced by the host's name."""
    return (
        '<?xml version="1.0" standalone="no"?>\n'
        '<!DOCTYPE service-group SYSTEM "avahi-service.dtd">\n'
        "<!-- written by ipdc-edge when the node's domain changes -->\n"
        "<service-group>\n"
        '  <name replace-wildcards="yes">ipdc-edge on %h</name>\n'
        '  <service protocol="ipv4">\n'
        f"    <type>{SERVICE}</type>\n"
        f"    <port>{settings.mqtt_port:d}</port>\n"
        f"    <txt-record>id={_checked(identity.id)}</txt-record>\n"
        f"    <txt-record>domain={_checked(identity.authority)}</txt-record>\n"
        "  </service>\n"
        "</service-group>\n"
    )


def _checked(text: str) -> str:
    if not NODE_ID.fullmatch(text):
        raise ValueError(f"no node id: {text!r}")
    return text


def publish(identity: Identity, settings: Settings, directory: str = DIRECTORY) -> bool:
    """Has Avahi announce this node, at once and after every boot; it watches the directory. Says whether it could be:
    not without Avahi, nor by one who may not write there, nor for a node that nobody reaches from outside."""
    if settings.bind(identity.alone).startswith("127."):
        withdraw(directory)
        return False
    path = os.path.join(directory, FILE)
    try:
        with open(path + ".new", "w", encoding="ascii") as file:  # .new: Avahi reads *.service only
            file.write(service_file(identity, settings))
            os.fchmod(file.fileno(), 0o644)  # Avahi's own user reads it
        os.rename(path + ".new", path)
    except OSError:
        return False
    return True


def withdraw(directory: str = DIRECTORY) -> bool:
    """Ends the announcement. Says whether there was one that could be ended."""
    try:
        os.unlink(os.path.join(directory, FILE))
    except OSError:
        return False
    return True
