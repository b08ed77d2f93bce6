"""What every command that changes this node's domain does around the change itself.

Owns acting as the owner of the node's files, refusing to leave a domain unasked, and telling a running daemon and the
LAN that the files below identity/ are others now. Never changes these files: drivers/authority.py and join_client.py
do.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ipdc_edge.commands import accounts
from ipdc_edge.commands.client import call, start_command
from ipdc_edge.commands.display import program
from ipdc_edge.drivers import identity
from ipdc_edge.drivers.identity import Identity, NoIdentity
from ipdc_edge.errors import DaemonLost, IpdcError, NoDaemon
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

SETTLE_SECONDS = 30.0  # that a daemon and its broker may take to start anew in another domain, on a slow board too
POLL_SECONDS = 0.05


class NotOwner(IpdcError):
    """The node in {path} belongs to {owner}, and only {owner} or root may change its domain: `{command}`"""


class InDomain(IpdcError):
    """This node is in the domain {domain} already. A node is in one domain at a time: first `{leave}`"""


class NotTold(IpdcError):
    """{done}, but the daemon could not be told: {reason} Restart it, so that it takes this up: `{restart}`"""


class Told(NamedTuple):
    """What a daemon made of a change. `daemon`: whether one runs; `broker`: restarts, start it again, or reloaded."""

    daemon: bool
    restarts: bool = False
    broker: str = ""

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {"runs": self.daemon, "restarts": self.restarts, "broker": self.broker}


@contextmanager
def owner(home: Home) -> Iterator[None]:
    """Inside, root acts as the owner of the node's files, so that all that is made belongs to the node; outside it is
    root again. Anybody else must be that owner: raises NotOwner, with the command line that helps."""
    try:
        found = os.stat(home.state)
    except FileNotFoundError:  # a home that is made now is the caller's
        yield
        return
    if os.geteuid() == found.st_uid:
        yield
        return
    if os.geteuid() != 0:
        raise NotOwner(path=home.state, owner=accounts.user(found.st_uid), command=as_root(home))
    gid, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([found.st_gid])
        os.setegid(found.st_gid)
        os.seteuid(found.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def present(home: Home) -> Identity | None:
    """Who the node is now; None where it has not been started yet."""
    try:
        return identity.load(home)
    except NoIdentity:
        return None


def demand_alone(home: Home) -> None:
    """Raises InDomain where the node is in a domain that it did not make by itself."""
    now = present(home)
    if now is not None and not now.alone:
        raise InDomain(domain=now.domain, leave="ipdc-edge leave")


def announce(home: Home, done: str, *, ran: bool = False) -> Told:
    """Tells a running daemon that the files changed. `done` says in an error what has happened anyway; `ran`: a daemon
    was asked before, and may have begun anew by itself. Raises NotTold."""
    try:
        answer = call(home, "domain_changed")
    except IpdcError as error:
        if isinstance(error, DaemonLost) or (ran and error.retry):
            return Told(True, True, "restarts")  # it began anew before its answer was out
        if isinstance(error, NoDaemon):
            return Told(False)
        restart = "sudo systemctl restart ipdc-broker ipdc-edge" if not home.own else start_command(home)
        raise NotTold(done=done, reason=error, restart=restart) from error
    return Told(True, answer.get("restarts") is True, str(answer.get("broker") or ""))


def settle(home: Home, authority: str, told: Told) -> bool:
    """Waits until a daemon that starts anew answers in the domain of `authority`, and its broker answers it. Whether
    they did: who looks or submits next shall find a node that is whole."""
    if not told.restarts or told.broker == "start it again":
        return True  # nothing to wait for, or for people only
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        try:
            found = call(home, "domain", broker=True)
            if found.get("authority") == authority and found.get("broker", True):  # an older daemon does not say
                return True
        except IpdcError:
            pass  # it is between two lives: whatever it is that it cannot answer, the next one tells
        time.sleep(POLL_SECONDS)
    return False


def explain(home: Home, told: Told, settled: bool = True) -> str:
    """What people have to know, or do, about daemon and broker after the change."""
    if not told.daemon:
        return f"No daemon runs here; it takes this up when it starts: {start_command(home)}"
    if told.broker == "start it again":
        return f"The node's broker has ended, because it must begin anew. Start it: {broker_command(home)}"
    if not told.restarts:
        return "The daemon here has taken it up."
    if not settled:
        return "The daemon is starting anew, which takes long. Look: ipdc-edge doctor"
    return "The daemon and its broker have started anew."


def publish(home: Home, read: Settings, now: Identity) -> None:
    """Has Avahi, where there is one, announce the system's own node on the LAN, or end that. Other nodes of a machine
    are for trying; they would take each other's place. To be called outside `owner`: root alone may write there."""
    if not home.own:
        from ipdc_edge.drivers import discovery

        discovery.publish(now, read)


def broker_command(home: Home) -> str:
    """What starts this node's broker where nobody does it by itself."""
    if not home.own:
        return "sudo systemctl restart ipdc-broker"
    start = start_command(home)
    return start if " lab up " in start else f"IPDC_HOME={shlex.quote(home.state)} ipdc-edge broker"


def owners_program(home: Home) -> str:
    """How the node's owner calls this program: the system's own node is not anybody's who may ask it."""
    return program() if home.own else f"sudo {program()}"


def as_root(home: Home) -> str:
    """This very command line, as it works with the rights that it takes."""
    node = f"IPDC_HOME={shlex.quote(home.state)} " if home.own else ""
    return f"sudo {node}ipdc-edge {shlex.join(sys.argv[1:])}"
