"""What must be installed beside ipdc-edge, and in which versions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ipdc_edge.commands.doctor.check import Check
from ipdc_edge.drivers.broker import find_mosquitto, mosquitto_version
from ipdc_edge.errors import IpdcError
from ipdc_edge.settings import Settings


class Module(NamedTuple):
    """A library: Debian's package, the name that it has among Python's, and the oldest version that works."""

    package: str
    distribution: str
    least: tuple[int, ...]


MODULES: dict[str, Module] = {
    "paho.mqtt.client": Module("python3-paho-mqtt", "paho-mqtt", (1, 6)),
    "psutil": Module("python3-psutil", "psutil", (5, 9)),
    "sdnotify": Module("python3-sdnotify", "sdnotify", (0, 3)),
    "h11": Module("python3-h11", "h11", (0, 14)),
    "cryptography.x509": Module("python3-cryptography", "cryptography", (38,)),
}
AVAHI = {"avahi-daemon": "avahi-daemon", "avahi-utils": "avahi-browse"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # an ordinary user's may lack the sbin
PYTHON, MOSQUITTO = (3, 11), (2,)


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Iterator[Check]:
    """The interpreter that runs this."""
    text = ".".join(map(str, version))
    yield Check("python", version >= PYTHON, f"{text} at {sys.executable}",
                "ipdc-edge needs Python 3.11 or newer: Debian 12 has it")


def modules(wanted: Mapping[str, Module] | None = None) -> Iterator[Check]:
    """The libraries that are imported while a node works."""
    for name, module in (MODULES if wanted is None else wanted).items():
        title = name.partition(".")[0]
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # its parent package is missing
            found = False
        if not found:
            yield Check(title, False, "is not installed for this Python", f"sudo apt install {module.package}")
            continue
        version = _version(module.distribution)
        recent = not numbers(version) or numbers(version) >= module.least
        yield Check(title, recent, version or "can be imported",
                    f"ipdc-edge needs {'.'.join(map(str, module.least))} or newer: sudo apt install {module.package}")


def mosquitto(path: str | None = None) -> Iterator[Check]:
    """Every node's own broker."""
    try:
        program = find_mosquitto(path)
    except IpdcError:
        yield Check("mosquitto", False, "is not installed, and every node needs its own broker",
                    "sudo apt install mosquitto")
        return
    version = mosquitto_version(program)
    yield Check("mosquitto", numbers(version) >= MOSQUITTO, f"{version} at {program}",
                "ipdc-edge needs mosquitto 2.0 or newer: Debian 12 has it")


def avahi(path: str | None = None) -> Iterator[Check]:
    """What finds nodes on a LAN; not needed where addresses are known."""
    missing = [package for package, program in AVAHI.items() if shutil.which(program, path=path or PATH) is None]
    if missing:
        yield Check("avahi", None, "nodes on a LAN are found by mDNS with it, without an address being set",
                    f"sudo apt install {' '.join(missing)}")
    else:
        yield Check("avahi", True, "is installed; nodes on a LAN are found by mDNS")


def kubo(read: Settings, patience: float = 5.0) -> Iterator[Check]:
    """The IPFS daemon that keeps this node's content; nothing where its own files do."""
    if read.store != "kubo":
        return
    from ipdc_edge.drivers.kubo_rpc import KuboRpc

    rpc = KuboRpc(read.kubo_api, patience)
    try:
        version = rpc.version()
    except IpdcError as error:
        yield Check("kubo", False, f"keeps this node's content, and does not answer at {rpc.address}: "
                    f"{error.details.get('reason')}",
                    "start it: ipfs daemon; or set kubo_api to where it is, or store = embedded, in ipdc.conf")
    else:
        yield Check("kubo", True, f"{version} at {rpc.address} keeps this node's content")
    finally:
        rpc.close()


def numbers(version: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version, to compare by; empty where it has none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _version(distribution: str) -> str:
    """As the installed package says; empty where it says nothing."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return ""
