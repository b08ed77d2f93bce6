"""Attempts to get at a socket of any family, and to speak to what listens on this machine."""

from __future__ import annotations

import os
import socket
import stat

from attempts import Targets, attempt

FAMILIES = {"INET": (2, 1), "INET, UDP": (2, 2), "INET, raw": (2, 3), "INET6": (10, 1), "UNIX": (1, 1),
            "UNIX, datagram": (1, 2), "NETLINK": (16, 3), "PACKET": (17, 3), "VSOCK": (40, 1)}  # fmt: skip
PATHS = {"daemon": "/run/ipdc/control.sock", "runners' socket": "/run/ipdc/runner.sock",
         "reaper": "/run/ipdc/reaper.sock", "systemd": "/run/systemd/private",
         "journal": "/run/systemd/journal/stdout", "bus": "/run/dbus/system_bus_socket"}  # fmt: skip


def _maker(family: int, kind: int) -> object:
    def make(_targets: Targets) -> str:
        with socket.socket(family, kind, 1 if kind == 3 and family == 2 else 0):
            return "a socket"
    return make


def _caller(path: str) -> object:
    def call(_targets: Targets) -> str:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(path)
        return "connected"
    return call


for _name, (_family, _kind) in FAMILIES.items():
    attempt(f"makes a socket of {_name}")(_maker(_family, _kind))  # type: ignore[arg-type]
for _name, _path in PATHS.items():
    attempt(f"speaks to the {_name}")(_caller(_path))  # type: ignore[arg-type]


@attempt("speaks to the service manager's notify socket")
def notify(_targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.connect("/run/systemd/notify")
    return "connected"


@attempt("speaks to an abstract socket of another process")
def abstract(targets: Targets) -> str:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect("\0" + str(targets["abstract"]))
    return "connected"


@attempt("speaks to the broker on loopback")
def broker(_targets: Targets) -> str:
    socket.create_connection(("127.0.0.1", 18833), 5).close()
    return "connected"


@attempt("speaks to this machine's address")
def machine(targets: Targets) -> str:
    socket.create_connection((str(targets["address"]), int(str(targets["port"]))), 5).close()
    return "connected"


@attempt("makes a pair of sockets")
def pair(_targets: Targets) -> str:
    for one in socket.socketpair():
        one.close()
    return "a pair"


@attempt("gives its socket to the daemon a name")
def name(targets: Targets) -> str:
    with _to_the_daemon() as ours:
        ours.bind("\0name-of-" + str(targets["abstract"]))
    return "bound"


@attempt("connects the socket to the daemon elsewhere")
def elsewhere(_targets: Targets) -> str:
    with _to_the_daemon() as ours:
        try:
            ours.connect("/run/ipdc/reaper.sock")
        except OSError as error:
            if error.errno != 106:  # EISCONN comes after permission was given
                raise
    return "the call came through"


def _to_the_daemon() -> socket.socket:
    """A copy of descriptor 3 in the sandbox; elsewhere one end of a pair."""
    try:
        if stat.S_ISSOCK(os.fstat(3).st_mode):
            return socket.socket(fileno=os.dup(3))
    except OSError:
        pass
    return socket.socketpair()[0]
