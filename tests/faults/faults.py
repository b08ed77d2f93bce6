"""Faults of real nodes as named objects: what breaks, and how it heals.

Owns one class for each kind of fault, under the names of `tests.simulation.faults` where that has it. A fault
begins, and ends after a while; what cannot heal by itself is healed by `end`. Who calls holds the victim's lock.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.faults import weather
from tests.faults.house import PATIENCE, Away, House, Member, command_of
from tests.network.hosts import CommandFailed
from tests.waiting import eventually


class NothingToBreak(Exception):
    """What the fault breaks is not there at present."""


class Fault:
    """Base of all faults. `random` decides what the plan left open, such as which bit."""

    word: ClassVar[str]

    def __init__(self, house: House, victim: Member, drawn: random.Random) -> None:
        self.house, self.victim, self.random = house, victim, drawn

    def begin(self) -> None:
        """It happens."""
        raise NotImplementedError

    def end(self) -> None:
        """It is over; what cannot heal stays as it is."""


class Kill(Fault):
    """The daemon's process ends (kill -9); its broker stays. Ends with a start."""

    word = "kill"

    def begin(self) -> None:
        self.victim.daemon.stop(signal.SIGKILL)

    def end(self) -> None:
        self.victim.daemon.start()


class Crash(Fault):
    """Daemon, broker and runners end at once (kill -9), as when the power goes. Ends with a start."""

    word = "crash"

    def begin(self) -> None:
        runners = self.victim.runners()
        self.victim.kill()
        for pid in runners:
            _kill(pid)

    def end(self) -> None:
        self.victim.broker.start()
        self.victim.daemon.start()


class KillBroker(Fault):
    """The broker ends (kill -9), with all that it retained. Ends with a start."""

    word = "broker"

    def begin(self) -> None:
        self.victim.broker.stop(signal.SIGKILL)

    def end(self) -> None:
        self.victim.broker.start()


class KillRunner(Fault):
    """A process of a task ends (kill -9): the user's code did nothing wrong."""

    word = "runner"

    def begin(self) -> None:
        runners = sorted(pid for pid in self.victim.runners() if b"bwrap\0" not in command_of(pid))
        if not runners:
            raise NothingToBreak("no task runs there")
        _kill(self.random.choice(runners))


class Freeze(Fault):
    """The daemon stands still (SIGSTOP), as a machine does that swaps. Ends with SIGCONT."""

    word = "freeze"

    def begin(self) -> None:
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        assert self.victim.daemon.process is not None
        self.victim.daemon.process.send_signal(signum)


class Cut(Fault):
    """The node's cable is pulled."""

    word = "cut"

    def begin(self) -> None:
        self.victim.host.cut()

    def end(self) -> None:
        self.victim.host.heal()


class Mute(Fault):
    """The cable seems fine, and nothing comes through: no connection is told that it is broken."""

    word = "mute"

    def begin(self) -> None:
        self.victim.host.mute()

    def end(self) -> None:
        self.victim.host.unmute()


class OneWay(Fault):
    """What the node sends to some others does not arrive, while they reach it."""

    word = "one-way"

    def begin(self) -> None:
        others = [node for node in self.house.members if node is not self.victim]
        self._others = self.random.sample(others, self.random.randint(1, len(others)))
        for other in self._others:
            weather.deafen(self.victim.host, other.host)

    def end(self) -> None:
        for other in self._others:
            weather.undeafen(self.victim.host, other.host)


class Disturbance(Fault):
    """What the cable does to single frames."""

    figures: ClassVar[dict[str, float]]

    def begin(self) -> None:
        self._weather = weather.Weather(self.victim.host, **self.figures)

    def end(self) -> None:
        self._weather.clear()


class Drop(Disturbance):
    """A tenth of the frames is lost, each way."""

    word = "drop"
    figures: ClassVar[dict[str, float]] = {"loss": 0.1}


class Delay(Disturbance):
    """Every frame takes 200 ms more, give or take 100, so they overtake each other."""

    word = "delay"
    figures: ClassVar[dict[str, float]] = {"delay_ms": 200, "jitter_ms": 100}


class FlipTravelling(Disturbance):
    """Of every tenth frame that carries something a bit is flipped on its way."""

    word = "flip-travelling"
    figures: ClassVar[dict[str, float]] = {"flipped": 0.1}


class FlipStored(Fault):
    """A bit is flipped in a file of blocks that the node holds as a worker: what a task made there, or has read."""

    word = "flip-stored"

    def begin(self) -> None:
        files = Path(self.victim.home, "blocks", "files")
        found = sorted(path for owner in files.glob("*.*") for path in owner.iterdir() if path.stat().st_size)
        if not found:
            raise NothingToBreak("it holds no content of a job")
        for path in self.random.sample(found, max(1, len(found) // 2)):
            with suppress(FileNotFoundError):  # the job has ended meanwhile
                flip(path, self.random)


class Drain(Fault):
    """The node takes no more work. Ends with `drain --off`."""

    word = "drain"

    def begin(self) -> None:
        self.victim.ask("drain")

    def end(self) -> None:
        _until(lambda: self.victim.ask("drain", off=True), f"{self.victim} takes work again")


class Join(Fault):
    """A newcomer joins in the middle of the jobs, and stays until their end."""

    word = "join"

    def begin(self) -> None:
        if not self.victim.ask("domain")["alone"]:
            raise NothingToBreak("the guest is here already")
        _until(self._joined, "the guest joins")

    def _joined(self) -> bool:
        """Whether it is a member; asked before each try, since one that failed may have got far enough."""
        if self.victim.ask("domain")["alone"]:
            self.house.join(self.victim)
        return True


class Leave(Join):
    """A newcomer joins in the middle of the jobs, and leaves again before they end."""

    word = "leave"

    def end(self) -> None:
        depart(self.house)


def depart(house: House) -> None:
    """The guest leaves the domain, if it is in it; and nobody lists it any more. Where the domain's first node could
    not be told, its owner expels it, as `leave` then says."""
    def gone() -> bool:
        if not house.guest.ask("domain")["alone"]:
            house.guest.ipdc("leave")
        if any(member["name"] == "guest" for member in house.members[0].ask("domain")["members"]):
            house.members[0].ipdc("expel", "guest")
        return True

    _until(gone, "the guest is out")


def flip(path: Path, drawn: random.Random) -> None:
    """One bit of the file is another."""
    with open(path, "r+b") as file:
        at = drawn.randrange(os.fstat(file.fileno()).st_size)
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << drawn.randrange(8)]), at)


def _until(work: Callable[[], object], what: str) -> None:
    """The work again and again until it is done: another fault may be in its way."""
    def done() -> bool:
        try:
            return work() is not False
        except (Away, CommandFailed):
            return False

    eventually(done, what, PATIENCE)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


FAULTS: dict[str, type[Fault]] = {
    kind.word: kind
    for kind in (Kill, Crash, KillBroker, KillRunner, Freeze, Cut, Mute, OneWay, Drop, Delay, FlipTravelling,
                 FlipStored, Drain, Join, Leave)
}
OF_THE_GUEST = ("join", "leave")
