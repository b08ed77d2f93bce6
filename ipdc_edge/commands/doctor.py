"""`ipdc-edge doctor`: what is missing or wrong on this node, and what helps.

Owns the checks that need no daemon; a running daemon adds its own. A check says ok (true), broken (false)
or worth knowing (null), what it saw, and what to do. It never changes anything.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from typing import Any, NamedTuple

from ipdc_edge import settings
from ipdc_edge.commands.client import call, running, start_command
from ipdc_edge.commands.display import print_json, size
from ipdc_edge.drivers.broker import check_port, find_mosquitto, mosquitto_version
from ipdc_edge.errors import IpdcError, NoDaemon
from ipdc_edge.home import Home
from ipdc_edge.settings import Settings

MODULES = {"paho.mqtt.client": "python3-paho-mqtt", "psutil": "python3-psutil",
           "sdnotify": "python3-sdnotify", "h11": "python3-h11"}
PYTHON = (3, 11)
DISK_LOW = 1 << 30  # bytes; less is worth knowing
DISK_FULL = 64 << 20  # less is broken: not even small results fit

EXAMPLES = """\
examples:
  ipdc-edge doctor
  ipdc-edge doctor --json

Exit code 1 when something is broken. Without a daemon it looks at what it can see itself.
"""


class Check(NamedTuple):
    """One thing that was looked at. `ok` None: not broken, but worth knowing."""

    check: str
    ok: bool | None
    detail: str
    advice: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Look for what is missing or wrong on this node."
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print a JSON list of checks")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when something is broken."""
    checks = examine(Home(os.environ))
    if args.json:
        print_json([check._asdict() for check in checks])
    else:
        print(text(checks))
    return 1 if any(check.ok is False for check in checks) else 0


def examine(home: Home) -> list[Check]:
    """Every check, the daemon's own last."""
    checks = [_python(), *(_module(name, package) for name, package in MODULES.items()), _mosquitto()]
    conf, read = _conf(home)
    checks += [conf, _disk(home)]
    try:
        alive = running(home)
    except IpdcError as error:  # the path of its socket is too long
        return [*checks, Check("daemon", False, str(error), "")]
    if alive:
        return [*checks, *_daemon(home)]
    if read is not None:
        checks += [_port(home, read, read.mqtt_port, "mqtt_port"),
                   _port(home, read, read.gateway_port, "gateway_port")]
    words = str(NoDaemon(socket=home.control_socket, start=start_command(home)))
    return [*checks, Check("daemon", None, words.partition(". ")[0], f"start it: {start_command(home)}")]


def text(checks: list[Check]) -> str:
    """The checks as people read them."""
    words = {True: "ok", False: "BROKEN", None: "note"}
    width = max(len(check.check) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{words[check.ok]:6}  {check.check:{width}}  {check.detail}".rstrip())
        if check.ok is not True and check.advice:
            lines.append(f"{'':6}  {'':{width}}  -> {check.advice}")
    broken = sum(check.ok is False for check in checks)
    end = f"{broken} thing{'s are' if broken > 1 else ' is'} broken." if broken else "Nothing is broken."
    return "\n".join([*lines, "", end])


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info[:2] >= PYTHON, f"{version} at {sys.executable}",
                 "ipdc-edge needs Python 3.11 or newer: Debian 12 has it")


def _module(name: str, package: str) -> Check:
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        found = False
    title = name.partition(".")[0]
    return Check(title, found, "can be imported" if found else "is not installed for this Python",
                 f"sudo apt install {package}")


def _mosquitto() -> Check:
    try:
        program = find_mosquitto()
    except IpdcError:
        return Check("mosquitto", False, "is not installed, and every node needs its own broker",
                     "sudo apt install mosquitto")
    version = mosquitto_version(program)
    parts = version.split(".")
    recent = parts[0].isdigit() and int(parts[0]) >= 2
    return Check("mosquitto", recent, f"{version} at {program}", "ipdc-edge needs mosquitto 2.0 or newer")


def _conf(home: Home) -> tuple[Check, Settings | None]:
    try:
        read = settings.load(home.conf)
    except IpdcError as error:
        return Check("settings", False, str(error), f"change {home.conf}"), None
    if not os.path.exists(home.conf):
        return Check("settings", True, f"{home.conf} does not exist; the defaults hold", ""), read
    return Check("settings", True, f"{home.conf} can be read", ""), read


def _disk(home: Home) -> Check:
    directory = home.state
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    free = shutil.disk_usage(directory).free
    ok = False if free < DISK_FULL else None if free < DISK_LOW else True
    return Check("disk", ok, f"{size(free)} free for {home.state}",
                 "make room: inputs that are copied, runs and results lie there")


def _port(home: Home, read: Settings, port: int, setting: str) -> Check:
    try:
        check_port(read.listen, port, setting, home.conf)
    except IpdcError as error:
        return Check(setting, False, str(error), "")
    return Check(setting, True, f"{port} of {read.listen} is free", "")


def _daemon(home: Home) -> list[Check]:
    """What the running daemon says of itself."""
    try:
        found = call(home, "doctor")
    except IpdcError as error:
        return [Check("daemon", False, str(error), "")]
    checks = found.get("checks")
    said = checks if isinstance(checks, list) else []
    return [Check("daemon", True, f"answers at {home.control_socket}", ""), *map(_said, said)]


def _said(check: dict[str, Any]) -> Check:
    ok = check.get("ok")
    detail, advice = str(check.get("detail") or ""), str(check.get("advice") or "")
    return Check(str(check.get("check")), ok if isinstance(ok, bool) else None, detail, advice)
