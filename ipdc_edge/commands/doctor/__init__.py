"""`ipdc-edge doctor`: what is missing or wrong on this node, and what helps.

Owns the order of the checks and how they are shown. Each is in a module of its kind here; a running daemon adds its
own. A check says ok (true), broken (false) or worth knowing (null), what it saw, and what to do. It never changes
anything, and none waits for ever.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from ipdc_edge import settings
from ipdc_edge.commands.display import plain, print_json
from ipdc_edge.commands.doctor import board, identity, programs, service, tensorflow
from ipdc_edge.commands.doctor.check import LIMIT, Check, Look, together
from ipdc_edge.drivers.tensorflow import PROVED_WITHIN
from ipdc_edge.drivers.vitals import Sensors
from ipdc_edge.errors import IpdcError
from ipdc_edge.home import Home
from ipdc_edge.machine_memory import MachineMemory
from ipdc_edge.settings import Settings

EXAMPLES = """\
examples:
  ipdc-edge doctor
  sudo ipdc-edge doctor           also looks at the key and certificates, which only their owner may read
  ipdc-edge doctor --json         a list of {check, ok, detail, advice}; ok: true, false, or null for a note
  ipdc-edge doctor --domain       what is left over of jobs and members that are no more, on every node

It looks at programs, settings, disk, clock, memory, power, certificates, units, broker and ports, and has the daemon
try whether the other members can be reached. Below what is not well stands what to type. Exit code 1 when something
is broken. Without a daemon it looks at what it can see itself.

With --domain it has the daemon ask every member for blocks, files, scratch, processes and retained messages that nobody
needs, and looks at nothing else. Exit code 1 when something is left over; a node that does not answer is told as not
checked. Other nodes tell counts only; on the machine itself the same command names what it is.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags and help."""
    parser.description = "Look for what is missing or wrong on this node."
    parser.epilog = EXAMPLES
    parser.add_argument("--domain", action="store_true", help="look for what is left over, on every member's node")
    parser.add_argument("--json", action="store_true", help="print a JSON list of checks")


def run(args: argparse.Namespace) -> int:
    """0, or 1 when something is broken."""
    if args.domain:
        return _domain(Home(os.environ), args.json)
    checks = examine(Home(os.environ))
    if args.json:
        print_json([check._asdict() for check in checks])
    else:
        print(plain(text(checks)))
    return 1 if any(check.ok is False for check in checks) else 0


def _domain(home: Home, as_json: bool) -> int:
    from ipdc_edge.commands.doctor import domain

    found = domain.look(home)
    if as_json:
        print_json(found)
    else:
        print(plain(domain.text(found)))
    return 1 if any(check["ok"] is False for check in found) else 0


def examine(home: Home, seconds: float = LIMIT) -> list[Check]:
    """Every check, what runs here last. Takes at most about twice `seconds`, and where there is a TensorFlow as long as
    its own proof may take."""
    conf, read = _conf(home)
    heard: dict[str, Any] = {}
    need = (read.runner_memory if read is not None else None) or settings.size("24M")  # auto: that at least
    looks = [
        Look("python", programs.python), Look("modules", programs.modules), Look("mosquitto", programs.mosquitto),
        Look("avahi", programs.avahi), Look("settings", lambda: [conf]), Look("disk", lambda: board.disk(home)),
        Look("disk errors", lambda: board.disk_errors(home)),
        Look("clock", lambda: board.clock(home, time.time(), board.synchronised())),
        Look("memory", lambda: board.memory(MachineMemory(), need)), Look("swap", board.swap),
        Look("memory cgroup", board.memory_cgroup), Look("power", lambda: board.power(Sensors())),
        Look("permissions", lambda: identity.permissions(home)), Look("domain", lambda: identity.domain(home)),
        Look("certificate", lambda: identity.certificate(home)), Look("units", lambda: service.units(home)),
        Look("daemon", lambda: service.daemon(home, heard), f"it hangs: {service.restart(home)}"),
    ]
    if read is None:
        return together(looks, seconds)
    looks.append(Look("kubo", lambda: programs.kubo(read)))
    looks.append(Look("tensorflow", lambda: tensorflow.there(home, read)))
    checks = _examine(home, read, looks, heard, seconds)
    return checks + together([Look("tensorflow", lambda: tensorflow.proof(home, read))], 2 * PROVED_WITHIN)


def _examine(home: Home, read: Settings, looks: list[Look], heard: dict[str, Any], seconds: float) -> list[Check]:
    """What is looked at, and of what stands in the way of a daemon only what a running one does not hold itself."""
    checks = together([*looks, Look("broker", lambda: service.broker(home, read))], seconds)
    brokers = [check for check in checks if check.check == "broker"]
    told, seen = brokers[0] if len(brokers) > 1 else None, brokers[-1]  # by the daemon, and from here
    running = any(check.check == "daemon" and check.ok is not None for check in checks) or bool(heard)
    verdict = service.verdict(told, seen)
    checks = [*(check for check in checks if check.check != "broker"), verdict]
    if verdict.ok:
        return checks if running else checks + together([
            Look("ports", lambda: service.ports(home, read, service.BROKER_PORTS))], seconds)
    held = (*(service.BROKER_PORTS if service.broker_there(home) else ()),
            *(("gateway_port", "join_port") if running else ()))
    return checks + together([Look("ports", lambda: service.ports(home, read, held))], seconds)


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
    stopped = any(check.check == "daemon" and check.ok is None and check.advice[:8] == "start it" for check in checks)
    if stopped and not broken:
        end += " But no daemon runs: this node neither takes jobs nor works."
    return "\n".join([*lines, "", end])


def _conf(home: Home) -> tuple[Check, Settings | None]:
    try:
        read = settings.load(home.conf)
    except IpdcError as error:
        return Check("settings", False, str(error), f"change {home.conf}"), None
    if not os.path.exists(home.conf):
        return Check("settings", True, f"{home.conf} does not exist; the defaults hold"), read
    return Check("settings", True, f"{home.conf} can be read"), read
