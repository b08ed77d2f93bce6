"""The architectures of this node: those that it has built in, and those of packages that are installed beside it.

Owns finding and loading the latter, and what is demanded of them. A package that is broken is left out and named; it
never keeps the node from starting. Found once in a process: what is installed later counts after a restart.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys

from ..apps import built_in
from ..codec.messages import CHANNEL, MessageCodec
from ..core.architecture import Architecture

PATIENCE = 30.0  # seconds that the child may take; a board's first look at many packages is slow
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
MODULE = re.compile(r"[A-Za-z_][\w.]{0,100}", re.ASCII)


@functools.cache
def architectures() -> dict[str, Architecture]:
    """All of them by name, the built-in ones first."""
    found = {architecture.name: architecture for architecture in built_in()}
    for name, value in _registered():
        try:
            architecture = _load(name, value)
            _check(architecture, found)
        except Exception as error:  # somebody else's code: whatever it raises
            print(f"ipdc-edge: the architecture {name!r} ({value}) is left out: {error}", file=sys.stderr)
        else:
            found[architecture.name] = architecture
    return found


def channels() -> tuple[str, ...]:
    """Every channel on which a node may speak: the protocol's and the architectures'."""
    commands, reports = reserved(architectures())
    return MessageCodec(commands, reports).channels


def reserved(found: dict[str, Architecture]) -> tuple[list[str], list[str]]:
    """(commands, reports) of architectures."""
    commands = [channel for architecture in found.values() for channel in architecture.commands]
    reports = [channel for architecture in found.values() for channel in architecture.reports]
    return commands, reports


def _registered() -> list[tuple[str, str]]:
    """(name, "module:class") of what packages register; nothing when that cannot be told."""
    if not any(map(_may_register, sys.path)):
        return []
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-P", "-s", "-m", "ipdc_edge.apps.installed"]
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": root}
    try:
        answer = subprocess.run(command, env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=PATIENCE, check=True)
        return [(str(name), str(value)) for name, value in json.loads(answer.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        print(f"ipdc-edge: installed architectures could not be found: {error}", file=sys.stderr)
        return []


def _may_register(place: str) -> bool:
    """Whether a place of Python's path may hold packages that register: nearly none does, and on a board the child that
    knows for certain takes as long as the rest of a start."""
    if os.path.isfile(place):
        return True  # an archive
    try:
        names = [name for name in os.listdir(place) if name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return False
    for name in names:
        try:
            with open(os.path.join(place, name, "entry_points.txt"), "rb") as file:
                if b"ipdc_edge.apps" in file.read():
                    return True
        except OSError:
            continue
    return False


def _load(name: str, value: str) -> Architecture:
    from importlib import import_module

    module, _, attribute = value.partition(":")
    architecture = getattr(import_module(module), attribute)()
    if not isinstance(architecture, Architecture) or architecture.name != name:
        raise ValueError(f"it is no ipdc_edge.core.architecture.Architecture of the name {name!r}")
    return architecture


def _check(architecture: Architecture, found: dict[str, Architecture]) -> None:
    if not NAME.fullmatch(architecture.name) or architecture.name in found:
        raise ValueError("its name is taken, or not made of small letters, digits and -")
    if not MODULE.fullmatch(architecture.module):
        raise ValueError(f"module {architecture.module!r} is no name of a module")
    taken = {*MessageCodec((), ()).channels, *(c for channels in reserved(found) for c in channels)}
    for channel in (*architecture.commands, *architecture.reports):
        if not CHANNEL.fullmatch(channel) or channel in taken:
            raise ValueError(f"the channel {channel!r} is taken, or not made of small letters, digits and -")
