"""What this node can do for others, and what it cannot and why: the words of its record.

Owns what was found of the packages for inference and for clusters, and the proof that the first work in a runner. Tells
the core when any of it changed; how others judge it is `core/placement.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..apps.tflite.plan import TFLite
from ..apps.tflite.serve_plan import Serve
from ..core import events as e
from ..core.admission import AUTHORITY
from ..drivers import tflite_capability
from ..drivers.tensorflow import SYSTEM, Absent, Found, described, look
from .background import note
from .local_inputs import LOCAL_INPUT
from .store import IN_KUBO

if TYPE_CHECKING:
    from .daemon import Daemon

INFERENCE = (TFLite.name, Serve.name)
IN_UNITS = ("/usr", "/var/lib/ipdc/venv", SYSTEM)  # what ipdc-runner-role@.service shows to a role


def seen(found: Found | Absent, sandbox: str) -> Found | Absent:
    """A TensorFlow that roles see in this kind of sandbox; systemd's does not depend on ipdc.conf."""
    if not isinstance(found, Found) or sandbox.partition(" ")[0] != "systemd":
        return found
    place = os.path.normpath(found.place)
    if any(place == top or place.startswith(top + "/") for top in IN_UNITS):
        return found
    return Absent(f"{found.place} is not seen in systemd's sandbox: `sudo ipdc-edge tf install` makes one that is, for "
                  "`tensorflow = auto`")


class Offer:
    """Of one daemon, whose settings, sandbox, store and architectures it is made of."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.tensorflow = self._tensorflow()
        self.tflite = tflite_capability.look(daemon.home.venv)
        self.kubo: tuple[str, ...] = ()  # where this node's own Kubo is met, while one runs

    def _tensorflow(self) -> Found | Absent:
        daemon = self.daemon
        return seen(look(daemon.settings.tensorflow, daemon.home.tensorflow), daemon.sandbox.kind)

    def capabilities(self) -> tuple[str, ...]:
        """What this node can do for others, by what is installed and what its owner allows."""
        daemon = self.daemon
        network = daemon.settings.allow_network and daemon.sandbox.network
        roles = daemon.sandbox.role is not None and isinstance(self.tensorflow, Found)
        can = [app.name for app in daemon.architectures.values()
               if (network or not app.network) and (roles or not app.cluster)
               and (app.name not in INFERENCE or not self.tflite.reason)]
        packages = (*self.tflite.described()[0], *described(self.tensorflow)[0])
        return (*can, *packages, *([AUTHORITY] if daemon.domain.identity.has_authority else []),
                *([IN_KUBO] if daemon.store.keeps_in == "kubo" else []),
                *(LOCAL_INPUT + path for path in daemon.settings.local_inputs), *self.kubo, *daemon.served())

    def unable(self) -> tuple[str, ...]:
        """What this node could be asked for and cannot do, and why."""
        told = self.tflite.described()[1]
        serve = (word.replace(f"{TFLite.name}: ", f"{Serve.name}: ", 1) for word in told)
        return (*described(self.tensorflow)[1], *told, *serve)

    def look(self) -> None:
        """What is installed here for jobs, and what the settings say of it, may have changed: tell the others."""
        daemon = self.daemon
        self.tensorflow = daemon.tasks.tensorflow = self._tensorflow()
        self.tflite = tflite_capability.look(daemon.home.venv)
        daemon.background.start(self.prove())
        self.tell()

    async def prove(self) -> None:
        """Whether the interpreter for inference works in a runner of this node; told when it is known."""
        if self.tflite is not tflite_capability.UNKNOWN:
            return
        try:
            found = await tflite_capability.prove(self.daemon.sandbox, self.daemon.home.venv)
        except OSError as error:
            found = tflite_capability.Found(str(error)[:200])
        if self.tflite is tflite_capability.UNKNOWN:  # else somebody looked again meanwhile
            self.tflite = found
            note(f"inference: {found.reason or f'{found.interpreter} {found.version} works'}")
            self.tell()

    def tell(self) -> None:
        """Some of it has changed."""
        self.daemon.ask(e.SettingsChanged(self.capabilities(), self.daemon.settings.slots, self.unable()))
