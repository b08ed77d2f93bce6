"""Which kind of runner holds the user's code on this node.

Owns the choice between the kinds and what the node's record says of it. Knows nothing of what runs in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import IpdcError
from ..home import Home
from .runner import Runner
from .runner_child import RunnerProcess

CONTROLLERS = "/sys/fs/cgroup"
# below home.run; systemd listens there
SOCKET, NETWORK_SOCKET, ROLE_SOCKET = "runner.sock", "runner-net.sock", "runner-role.sock"


class NoSandbox(IpdcError):
    """ipdc.conf says `sandbox = systemd`, and {socket} is not there. Start it: `sudo systemctl enable --now
    ipdc-runner.socket`, or set `sandbox = auto`."""


class NoBubblewrap(IpdcError):
    """ipdc.conf says `sandbox = bubblewrap`, and it does not work here: {reason}. Or set `sandbox = auto`:
    without systemd's units the code of jobs is then held by resource limits only."""


@dataclass(frozen=True)
class Sandbox:
    """`kind` is for the record; `runner(network)` makes a runner that is not started yet; with `network` for a kind of
    job that needs one; `why` says why it is resource limits only, "" where it is not."""

    kind: str
    runner: Callable[[bool], Runner]
    network: bool  # whether there are runners with a network
    why: str = ""
    role: Callable[[str], Runner] | None = None  # makes one that has a network of its own, where it is alone; "" or a
    # directory that is to be seen in it. None where this kind has no such


def choose(home: Home, wanted: str, note: Callable[[str], None]) -> Sandbox:
    """wanted: one of settings.SANDBOXES, as in ipdc.conf. note(line) is for the journal: why it is none that was hoped
    for. Raises NoSandbox, NoBubblewrap."""
    path = os.path.join(home.run, SOCKET)
    if wanted == "systemd" or wanted == "auto" and os.path.exists(path):
        if not os.path.exists(path):
            raise NoSandbox(socket=path)
        from .runner_unit import RunnerUnit, forget_ended  # memory that others need not spend

        forget_ended(home.run)
        kind = RunnerUnit.kind if memory_limits_hold() else f"{RunnerUnit.kind} without memory cgroup"
        network = os.path.exists(os.path.join(home.run, NETWORK_SOCKET))
        return Sandbox(kind, lambda with_network: RunnerUnit(
            home.scratch, home.run, NETWORK_SOCKET if with_network else SOCKET, note), network,
            role=(lambda place: RunnerUnit(home.scratch, home.run, ROLE_SOCKET, note)) if os.path.exists(
                os.path.join(home.run, ROLE_SOCKET)) else None)
    why = "ipdc.conf says `sandbox = rlimits`"
    if wanted != "rlimits":
        from .runner_bubblewrap import RunnerBubblewrap, compile_ahead, why_not

        reason = why_not()
        if not reason:
            compile_ahead()
            return Sandbox(
                RunnerBubblewrap.kind,
                lambda with_network: RunnerBubblewrap(home.scratch, with_network, venv=home.venv),
                True, role=lambda place: RunnerBubblewrap(home.scratch, alone=True, place=place))
        if wanted == "bubblewrap":
            raise NoBubblewrap(reason=reason)
        why = f"bubblewrap does not work here: {reason}"
        note(f"the code of jobs is held by resource limits only; {why}")
    return Sandbox(RunnerProcess.kind, lambda with_network: RunnerProcess(home.scratch, venv=home.venv), True, why)


def memory_limits_hold(controllers: str = CONTROLLERS) -> bool:
    """Whether the kernel's memory controller is there, by which MemoryMax= holds; cgroups(7). Stock Raspberry Pi OS
    boots without it."""
    try:
        with open(os.path.join(controllers, "cgroup.controllers"), encoding="ascii") as file:
            return "memory" in file.read().split()
    except OSError:  # cgroup v1
        return os.path.isdir(os.path.join(controllers, "memory", "system.slice"))
