"""What a running daemon knows of its own health, and whether it reaches the other members.

Owns the daemon's part of `ipdc-edge doctor`. Loaded when somebody asks, never by an idle daemon. Changes nothing: a
member is tried with a TLS handshake of its own, which no session notices (a CONNECT would throw out our own). Every try
is bounded, and so are their number at once and their time in all.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .. import __version__
from ..core.values import Member
from ..drivers import tflite_capability
from ..drivers.flash import FLASH, HOUR, LONG_ENOUGH, Flash
from ..drivers.tls import peer_id

if TYPE_CHECKING:
    from .daemon import Daemon

LIMIT = 3.0  # seconds for one try
TRIES = 3  # mosquitto 2.0.21 with OpenSSL 3.5 ends the handshake that follows one which failed
ALL = 9.0  # seconds for all of them; the command waits longer
AT_ONCE, NAMES_AT_ONCE = 8, 1  # a name that is looked up holds a thread, of which the daemon has few
MOST = 64  # members that are tried; in a bigger domain the rest is as these are
SHOWN = 8  # troubles that are told one by one
NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
IDLE_BYTES = 1 << 20  # in an idle hour; more is worth a note
BUBBLEWRAP = "/usr/bin/bwrap"
WEAK = "the user's code is held by resource limits only: run jobs of people you trust"
STRONGER = "; bubblewrap would hold it better: sudo apt install bubblewrap, then start the daemon anew"

Answer = dict[str, object]
Say = Callable[[str, bool | None, str, str], None]  # check, ok, detail, advice


class Trouble(NamedTuple):
    """Why a member cannot be reached, in a word and as it was said."""

    word: str
    said: str


ADVICE = {
    "refused": "nothing listens there: is ipdc-edge running on it? On that machine: ipdc-edge doctor",
    "silent": "is that machine on, and on the network? If ping finds it, its firewall drops these ports, or what "
              "listens there hangs",
    "no way": "this node has no way there: ip route; ip addr. Are both in the same network?",
    "name": "its name is not known here: set `address` in its ipdc.conf to a number, such as 192.168.1.7",
    "other": "another node, or something else, answers there: did addresses change? Set `address` in that node's "
             "ipdc.conf and restart it",
    "certificate": "what answers there is not of this domain: was that node made anew? Then: ipdc-edge expel it, and "
                   "let it join again",
    "broken": "that side ended the connection: has it taken this node off its list? On that machine: ipdc-edge doctor",
    "unknown": "it has not been seen since this node started: is it on? `portals` in ipdc.conf says where to look",
}


def _tflite(daemon: Daemon, check: Say) -> None:
    """The interpreter of inference, where one is installed; a node without one is as well as any other."""
    found = daemon.offer.tflite
    if not found.reason:
        pillow = f", images by Pillow {found.pillow}" if found.pillow else ", no images (no Pillow)"
        check("tflite", True, f"{found.interpreter} {found.version} has built a model and run it{pillow}", "")
    elif names := tflite_capability.installed(daemon.home.venv):
        ok = None if found is tflite_capability.UNKNOWN else False
        check("tflite", ok, found.reason, f"take {' and '.join(names)} away, or install what it needs into "
              f"{daemon.home.venv}; then start the daemon anew")


async def checks(daemon: Daemon) -> Answer:
    """{"checks", "version"}: what is well and what is not."""
    found: list[Answer] = []

    def check(name: str, ok: bool | None, detail: str, advice: str) -> None:
        found.append({"check": name, "ok": ok, "detail": detail, "advice": "" if ok else advice})

    own = daemon.mqtt.own
    check("broker", own.connected, f"{own.address} {'connected' if own.connected else 'does not answer'}",
          "start it: ipdc-edge broker (or ipdc-edge run --with-broker)")
    if daemon.node.membership.own.state == "draining":
        check("work", None, "this node takes none: it was drained", "to take work again: ipdc-edge drain --off")
    _tflite(daemon, check)
    stat = daemon.store.stat()
    check("store", stat["lost"] == 0, f"{stat['bytes'] >> 20} of {stat['quota'] >> 20} MB taken",
          f"{stat['lost']} blocks were found damaged: is the disk failing? Add what was lost again")
    flash(FLASH, time.monotonic(), daemon.home.state, check)
    sandbox = daemon.node.membership.own.sandbox
    cgroup = sandbox.endswith("without memory cgroup")
    check("sandbox", None if sandbox == "rlimits" or cgroup else True, sandbox,
          "memory of runners is bounded by limits of their processes only: see `memory cgroup`" if cgroup
          else WEAK if os.path.exists(BUBBLEWRAP) else WEAK + STRONGER)
    await _peers(daemon, check)
    _versions(daemon, check)
    return {"checks": found, "version": __version__}


def flash(counted: Flash, now: float, state: str, check: Say) -> None:
    """How much this node wears its disk: since the start, and while it had no jobs."""
    idle = counted.idle(now)
    if counted.last is not None and (idle is None or idle.seconds < LONG_ENOUGH):
        idle = counted.last
    told = "has not been idle yet"
    if idle is not None:
        told = f"idle for {idle.seconds / 60:.0f} minutes: {_written(idle.written, idle.fsyncs)}"
    much = idle is not None and idle.seconds >= LONG_ENOUGH and idle.written * HOUR / idle.seconds > IDLE_BYTES
    check("flash", None if much else True,
          f"{_written(counted.written, counted.fsyncs)} since the start; {told}",
          f"an idle node should write nothing. Which files: find {state} -type f -mmin -60")


def _written(size: int, fsyncs: int) -> str:
    return f"{size / 2**20:.1f} MB written, {fsyncs} fsync{'' if fsyncs == 1 else 's'}"


async def _peers(daemon: Daemon, check: Say) -> None:
    """Whether the other members answer where they are known to be."""
    members, portals = daemon.domain.members, daemon.domain.members.portals
    others = sorted((member for member in members.members if member.id != daemon.id),
                    key=lambda member: member.id not in portals)[:MOST]
    if not others:
        return
    addresses = daemon.node.membership.addresses
    places = [(member, kind, address) for member in others
              for kind, address in zip(("broker", "gateway"), addresses.get(member.id, ("", "")))]
    troubles = await _try(places, daemon)
    lost = {member.id for member, kind, _, _ in troubles if kind == "broker"}
    if not troubles:
        return check("peers", True, f"{len(others)} of {len(others)} answer at their brokers and gateways", "")
    everybody = len(lost) == len(others)
    check("peers", False if everybody else None,
          f"{len(others) - len(lost)} of {len(others)} answer at their brokers",
          "no other member can be reached: is this node on the network? ip addr; ip route" if everybody else
          "they are remembered meanwhile, and jobs go on without them")
    for member, kind, address, trouble in troubles[:SHOWN]:
        what = "portal" if member.id in portals else "peer"
        check(what, None, f"{member.name} (..{member.id[-8:]}), {kind} {address or 'at no known address'}: "
              f"{trouble.said}", ADVICE[trouble.word])
    if len(troubles) > SHOWN:
        check("peer", None, f"and {len(troubles) - SHOWN} more", "")


async def _try(places: list[tuple[Member, str, str]], daemon: Daemon) -> list[tuple[Member, str, str, Trouble]]:
    """Those that are not as they should be, in the order of `places`."""
    numbers, names = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(NAMES_AT_ONCE)

    async def one(member: Member, kind: str, address: str) -> Trouble | None:
        if not address:
            return Trouble("unknown", "nobody knows where it is") if kind == "broker" else None
        host = address.rpartition(":")[0]
        async with numbers if host.startswith("[") or not any(map(str.isalpha, host)) else names:
            return await reach(address, member.id, daemon.mqtt.context)

    tries = [asyncio.create_task(one(*place)) for place in places]
    try:
        await asyncio.wait(tries, timeout=ALL)
    finally:  # also when who asked has gone
        for task in tries:
            task.cancel()
    results = await asyncio.gather(*tries, return_exceptions=True)
    found = []
    for place, result in zip(places, results, strict=True):
        if isinstance(result, asyncio.CancelledError):
            result = Trouble("silent", "there was no time left to try it")
        elif isinstance(result, BaseException):
            raise result
        if result is not None:
            found.append((*place, result))
    return found


async def reach(address: str, node: str, context: ssl.SSLContext) -> Trouble | None:
    """Whether the node answers at "host:port" with its certificate; None when it does."""
    for _ in range(TRIES):
        trouble = await _reach_once(address, node, context)
        if trouble is None or trouble.word != "broken":
            break
    return trouble


async def _reach_once(address: str, node: str, context: ssl.SSLContext) -> Trouble | None:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(LIMIT):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            met = peer_id(writer.get_extra_info("ssl_object"))
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass  # it ended first, which is as well
    except TimeoutError:
        return Trouble("silent", f"no answer within {LIMIT:g} s")
    except ConnectionRefusedError:
        return Trouble("refused", "connection refused")
    except socket.gaierror as error:
        return Trouble("name", error.strerror or str(error))
    except ssl.SSLCertVerificationError as error:
        return Trouble("certificate", error.verify_message)
    except (ssl.SSLError, ConnectionError, EOFError) as error:
        return Trouble("broken", getattr(error, "reason", None) or getattr(error, "strerror", None) or "it hung up")
    except (OSError, ValueError) as error:
        known = isinstance(error, OSError) and error.errno in NO_WAY
        return Trouble("no way" if known else "broken", getattr(error, "strerror", None) or str(error))
    return None if met == node else Trouble("other", f"{met or 'a stranger'} answers there")


def _versions(daemon: Daemon, check: Say) -> None:
    """Nodes of another version than this one, and those whose messages cannot be read at all."""
    names = {member.id: member.name for member in daemon.domain.members.members}
    for sender, reason in daemon.mqtt.refused.items():
        if sender in names and "this node speaks version" in reason:
            check("versions", False, f"{names[sender]} speaks another protocol: {reason}",
                  "bring both to the same version of ipdc-edge: sudo apt install ./ipdc-edge.deb")
    alive = [peer.record for peer in daemon.node.membership.peers.values() if peer.alive()]
    versions = [(record.name, record.version) for record in alive]
    older = [f"{name} ({version})" for name, version in versions if _numbers(version) < _numbers(__version__)]
    newer = [f"{name} ({version})" for name, version in versions if _numbers(version) > _numbers(__version__)]
    for word, those in (("older", older), ("newer", newer)):
        if those:
            check("versions", None, f"{word} than this node's {__version__}: {', '.join(those)[:500]}",
                  f"bring {'them' if word == 'older' else 'this node'} up to date: sudo apt install ./ipdc-edge.deb")
    if not older and not newer:
        check("versions", True, f"{__version__}, as all that are here", "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version)[:4])
