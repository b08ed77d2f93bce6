"""The node's processes: units, daemon, broker, their ports, and who may speak with them.

Owns what can be seen from outside; what only the daemon knows it is asked. Source of the units' properties:
org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ipdc_edge import __version__, settings
from ipdc_edge.commands.change import broker_command, present
from ipdc_edge.commands.client import call, group_of, start_command, user_name
from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers import broker as own_broker
from ipdc_edge.drivers.broker_files import credentials, pid_path
from ipdc_edge.errors import IpdcError, NoDaemon, NotAllowed
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

UNITS = ("ipdc-edge.service", "ipdc-broker.service", "ipdc-runner.socket", "ipdc-runner-role.socket",
         "ipdc-reaper.socket")
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NRestarts,Result"
BOOTED = "/run/systemd/system"  # sd_booted(3)
SYSTEMCTL_SECONDS = 5.0
BROKER_PORTS = ("mqtt_port", "local_port")


def units(home: Home, text: str | None = None) -> Iterator[Check]:
    """What systemd says of the system's own node. `text` is as `systemctl show` prints it."""
    if text is None:
        if home.own or not os.path.isdir(BOOTED):
            return  # nobody's node but its user's, or a container without systemd
        text = _systemctl()
    for unit in _parsed(text):
        name = unit.get("Id", "")
        if unit.get("LoadState") != "loaded":
            yield Check(name, None, f"is {unit.get('LoadState') or 'unknown'}",
                        f"sudo systemctl unmask {name}" if unit.get("LoadState") == "masked" else
                        "the package has it: sudo apt install --reinstall ./ipdc-edge.deb")
        elif unit.get("ActiveState") == "failed":
            why = unit.get("Result") or "exit-code"
            yield Check(name, False, f"has failed ({why}{': it hung' if why == 'watchdog' else ''})",
                        f"why: journalctl -u {name} -b -n 50; then: sudo systemctl reset-failed {name} && "
                        f"sudo systemctl restart {name}")
        elif unit.get("ActiveState") not in ("active", "reloading", "activating"):
            yield Check(name, None, f"is {unit.get('ActiveState') or 'unknown'}", f"sudo systemctl start {name}")
        else:
            yield from _running(name, unit)


def daemon(home: Home, heard: dict[str, Any]) -> Iterator[Check]:
    """Whether the daemon answers, and what it says of itself, which also goes into `heard`."""
    start = start_command(home)
    try:
        heard.update(call(home, "doctor"))
    except NoDaemon as error:
        yield Check("daemon", None, str(error).partition(". ")[0], f"start it: {start}")
        return
    except NotAllowed as error:
        heard["runs"] = True
        yield Check("daemon", None, "runs; you may not ask it")
        yield group(group_of(str(error.details["path"])), user_name())
        return
    except IpdcError as error:
        yield Check("daemon", False, str(error), "" if home.own else "why: journalctl -u ipdc-edge -b -n 50")
        return
    version = str(heard.get("version") or __version__)
    yield Check("daemon", True if version == __version__ else None,
                f"answers at {home.control_socket}" + ("" if version == __version__ else
                f"; it is of version {version}, this command of {__version__}"),
                f"start the new one: {restart(home)}")
    said = heard.get("checks")
    for check in said if isinstance(said, list) else []:
        if isinstance(check, dict):
            yield _said(check)


def restart(home: Home) -> str:
    """What starts broker and daemon anew."""
    return f"end it, and {start_command(home)}" if home.own else "sudo systemctl restart ipdc-broker ipdc-edge"


def group(name: str, user: str, members: Collection[str] | None = None, held: Collection[int] | None = None) -> Check:
    """Why a user may not speak with the daemon, which takes the group of its socket."""
    import grp

    try:
        entry = grp.getgrnam(name)
        listed, number = entry.gr_mem, entry.gr_gid
    except KeyError:
        listed, number = [], -1
    if user in (listed if members is None else members) and number not in (os.getgroups() if held is None else held):
        return Check("group", False, f"{user} is in group {name}, but this session began before",
                     f"log out and in again, or: newgrp {name}")
    return Check("group", False, f"{user} is not in group {name}, whose members may use this node",
                 f"sudo usermod -aG {name} {user}, then log out and in again")


def broker(home: Home, read: Settings) -> Iterator[Check]:
    """This node's broker as seen from here: its process, its port, its password. A note where it does not run, which
    may be as it should be, and where this user cannot look."""
    start = f"start it: {broker_command(home)}"
    pid = own_broker.running(home)
    if pid is None and broker_there(home):
        yield Check("broker", None, "can be looked at by its owner only", "sudo ipdc-edge doctor")
        return
    if pid is None:
        yield Check("broker", None, "this node's mosquitto does not run", start)
        return
    secret = os.path.join(home.run, "mosquitto.secret")
    if not os.access(secret, os.R_OK):
        yield Check("broker", None, f"process {pid} runs; its password can be read by its owner only",
                    "look at it: sudo ipdc-edge doctor")
        return
    from ipdc_edge.drivers import broker_client

    try:
        connection = socket.create_connection((settings.LOOPBACK, read.local_port), broker_client.PATIENCE)
        with broker_client.Client(connection, "doctor", credentials(home)):
            pass
    except broker_client.Unkicked as error:
        owner = own_broker.port_owner(read.local_port)
        yield Check("broker", False, f"what listens on port {read.local_port} ({owner or f'process {pid}'}) does not "
                    f"take this node's password: {error}", f"end what is not ipdc-edge's there; {start}")
    except OSError as error:
        yield Check("broker", False, f"process {pid} runs and does not answer on port {read.local_port}: "
                    f"{error.strerror or error}", f"end it: sudo kill -9 {pid}; {start}")
    else:
        yield Check("broker", True, f"process {pid} takes this node's password")


def broker_there(home: Home) -> bool:
    """Whether it runs, or may run where this user cannot look."""
    path = pid_path(home)
    closed = os.path.exists(path) and not os.access(path, os.R_OK, effective_ids=True)
    return closed or own_broker.running(home) is not None


def verdict(told: Check | None, seen: Check) -> Check:
    """What is true of the broker, of what a daemon told, if one did, and what was seen here a moment later."""
    if seen.ok is False or told is None:
        return seen
    if told.ok:
        return told
    if seen.ok:
        return Check("broker", False, f"{seen.detail}, and the daemon is not connected to it",
                     "look again in a minute; if it is the same: sudo systemctl restart ipdc-broker ipdc-edge")
    return seen._replace(ok=False)


def ports(home: Home, read: Settings, taken: Collection[str] = ()) -> Iterator[Check]:
    """Whether what does not run could listen; `taken` are settings of ports that something of ours holds."""
    try:
        now = present(home)
        alone = now is None or now.alone
    except IpdcError:
        alone = False  # nobody knows; all addresses are the stricter question
    for setting in settings.PORTS:
        if setting in taken:
            continue
        port = getattr(read, setting)
        host = settings.LOOPBACK if setting == "local_port" else read.bind(alone)
        try:
            own_broker.check_port(host, port, setting, home.conf)
        except IpdcError as error:
            yield Check(setting, False, str(error))
        else:
            yield Check(setting, True, f"{port} of {host} is free")


def _systemctl() -> str:
    import subprocess

    try:
        return subprocess.run(["systemctl", "show", f"--property={PROPERTIES}", *UNITS], capture_output=True, text=True,
                              timeout=SYSTEMCTL_SECONDS, check=False).stdout
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        raise IpdcError(reason=f"systemctl gave no answer within {SYSTEMCTL_SECONDS:g} s") from None


def _running(name: str, unit: Mapping[str, str]) -> Iterator[Check]:
    disabled = name == UNITS[0] and unit.get("UnitFileState") == "disabled"
    restarts = unit.get("NRestarts", "0")
    if disabled:
        yield Check(name, None, "runs, and does not start with the machine", f"sudo systemctl enable {name}")
    if restarts.isdigit() and int(restarts):
        often = "once" if restarts == "1" else f"{restarts} times"
        harmless = ", as when the node's domain changes" if name == UNITS[1] else ""
        yield Check(name, None, f"runs; systemd had to start it again{harmless}, {often} so far",
                    f"why: journalctl -u {name} -b | grep -i -e watchdog -e failed -e 'main process'")
    elif not disabled:
        yield Check(name, True, "runs")


def _parsed(text: str) -> list[dict[str, str]]:
    """Blocks of `name=value` lines with an empty line between, one for each unit."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n")]
    return [block for block in blocks if block.get("Id")]


def _said(check: Mapping[str, Any]) -> Check:
    ok = check.get("ok")
    detail, advice = str(check.get("detail") or ""), str(check.get("advice") or "")
    return Check(str(check.get("check")), ok if isinstance(ok, bool) else None, detail, advice)
