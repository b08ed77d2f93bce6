"""Faults as named objects: what breaks, how a scenario's line says it, and how it heals.

Owns one class for each kind of fault. A fault is read from words (`cut n1 > n0 n2`), is written as the same words,
begins, and ends if it was given a time to last. The first word of its line is the class's `word`, its docstring says
the rest.
"""

from __future__ import annotations

from typing import ClassVar

from ipdc_edge.core import events as e
from ipdc_edge.core.membership import CONNECTIONS
from tests.simulation.network import Weather
from tests.simulation.node import SimNode
from tests.simulation.world import World


class BadLine(ValueError):
    """A line of a scenario that nobody understands."""


class Fault:
    """Base of all faults: `words` are what stands behind the fault's name in its line."""

    word: ClassVar[str]

    def __init__(self, *words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return " ".join((self.word, *self.words))

    def nodes(self, world: World, words: tuple[str, ...]) -> list[SimNode]:
        return [_node(world, word) for word in words]

    def begin(self, world: World) -> None:
        """It happens."""
        raise NotImplementedError

    def end(self, world: World) -> None:
        """It is over; what cannot heal stays as it is."""


def _node(world: World, word: str) -> SimNode:
    if word[:1] != "n" or not word[1:].isdigit() or int(word[1:]) >= len(world.nodes):
        raise BadLine(f"there is no node {word}")
    return world.nodes[int(word[1:])]


class Crash(Fault):
    """`crash n1 n2`: without power at once; nobody is told, and what was not durable is lost. Ends with a start."""

    word = "crash"
    power = True

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.crash(self.power)

    def end(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.start()


class Kill(Crash):
    """`kill n1`: the daemon's process ends (kill -9); its broker stays, and its connections are closed at once."""

    word = "kill"
    power = False


class Relapse(Crash):
    """`relapse n3`: as a crash, and its disk is put back to what it was at its last start: it starts with the same
    number again. Not for a master, who may not name two attempts alike."""

    word = "relapse"

    def begin(self, world: World) -> None:
        super().begin(world)
        for node in self.nodes(world, self.words):
            node.births -= CONNECTIONS


class Stop(Fault):
    """`stop n1`: the daemon ends as it should, with a goodbye. Ends with a start."""

    word = "stop"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.stop()

    def end(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.start()


class Leave(Fault):
    """`leave n3`: the node's owner wants it out of the domain."""

    word = "leave"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.handle(e.LeaveRequested())


class StopBroker(Fault):
    """`broker n1`: the node's broker ends, with all that it retained."""

    word = "broker"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            if not node.dark:
                node.stop_broker(0.05)

    def end(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.broker.up = not node.dark


class Cut(Fault):
    """`cut n1 n2 | n3`: nothing passes between the two sides. `cut n1 > n2 n3`: the first cannot connect to the others,
    and what it sends them does not arrive, while they reach it. Without a sign each is cut from everybody."""

    word = "cut"

    def _pairs(self, world: World) -> list[tuple[str, str]]:
        sign = ">" if ">" in self.words else "|"
        where = self.words.index(sign)
        left, right = self.nodes(world, self.words[:where]), self.nodes(world, self.words[where + 1 :])
        there = [(a.id, b.id) for a in left for b in right if a is not b]
        return there if sign == ">" else there + [(b, a) for a, b in there]

    def begin(self, world: World) -> None:
        if "|" in self.words or ">" in self.words:
            return world.network.cut(self._pairs(world))
        for node in self.nodes(world, self.words):
            world.network.isolate(node.id)

    def end(self, world: World) -> None:
        if "|" in self.words or ">" in self.words:
            return world.network.heal(self._pairs(world))
        for node in self.nodes(world, self.words):
            world.network.join(node.id)


class Swizzle(Fault):
    """`swizzle 20 n1 n2 n3`: in 20 seconds each is cut from everybody, at one random moment after the other, and then
    they are healed in another order, as FoundationDB's test of that name does."""

    word = "swizzle"

    def begin(self, world: World) -> None:
        half = float(self.words[0]) / 2
        for node in self.nodes(world, self.words[1:]):
            world.after(half * world.random.random(), world.network.isolate, node.id)
            world.after(half + half * world.random.random(), world.network.join, node.id)


class Disturbance(Fault):
    """What the network does to single messages: of those from or to the nodes that are named, or of all."""

    def weather(self) -> Weather:
        raise NotImplementedError

    def begin(self, world: World) -> None:
        named = {node.id: None for node in self.nodes(world, self.words[1:])}
        weather = self.weather()
        world.network.disturbances[self] = (
            lambda source, target: weather if not named or source in named or target in named else None)

    def end(self, world: World) -> None:
        world.network.disturbances.pop(self, None)


class Drop(Disturbance):
    """`drop 0.3 [n1]`: this share of the messages is lost."""

    word = "drop"

    def weather(self) -> Weather:
        return Weather(drop=float(self.words[0]), delay=(0.0, 0.0))


class Double(Disturbance):
    """`double 0.3 [n1]`: this share comes twice."""

    word = "double"

    def weather(self) -> Weather:
        return Weather(double=float(self.words[0]), delay=(0.0, 0.0))


class Delay(Disturbance):
    """`delay 3 [n1]`: every message takes so many seconds more."""

    word = "delay"

    def weather(self) -> Weather:
        seconds = float(self.words[0])
        return Weather(delay=(seconds, seconds))


class Reorder(Disturbance):
    """`reorder 5 [n1]`: each message takes up to so many seconds more, a time of its own, so they overtake each
    other."""

    word = "reorder"

    def weather(self) -> Weather:
        return Weather(delay=(0.0, float(self.words[0])))


class Slow(Fault):
    """`slow 10 n1`: the node works so many times slower."""

    word = "slow"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words[1:]):
            node.slowed *= float(self.words[0])

    def end(self, world: World) -> None:
        for node in self.nodes(world, self.words[1:]):
            node.slowed /= float(self.words[0])


class Full(Fault):
    """`full n1`: its disk takes nothing more. Its own jobs may fail for that when their results come, and others' where
    none but such nodes work for them."""

    word = "full"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.disk.full = node.disk.was_full = True

    def end(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.disk.full = False


class Jump(Fault):
    """`jump -30 n1`: the node's clock is set so many seconds ahead (or, with a minus, back)."""

    word = "jump"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words[1:]):
            node.jump(float(self.words[0]))


class Expel(Fault):
    """`expel n3`: the authority (n0) signs a member list without it."""

    word = "expel"

    def begin(self, world: World) -> None:
        gone = {node.id for node in self.nodes(world, self.words)}
        world.nodes[0].sign(lambda now: tuple(member for member in now.members if member.id not in gone))


class Cancel(Fault):
    """`cancel 1`: the owner of the first job wants it no more."""

    word = "cancel"

    def begin(self, world: World) -> None:
        job = world.numbered(int(self.words[0]))
        if job is not None and job.master.up:
            job.cancelled = True
            job.master.handle(e.CancelRequested(job.id))


class Drain(Fault):
    """`drain n2`: the node takes no more work, for good."""

    word = "drain"

    def begin(self, world: World) -> None:
        for node in self.nodes(world, self.words):
            node.handle(e.DrainRequested())


FAULTS: dict[str, type[Fault]] = {
    kind.word: kind
    for kind in (Crash, Kill, Relapse, Stop, StopBroker, Cut, Swizzle, Drop, Double, Delay, Reorder, Slow, Full, Jump,
                 Expel, Leave, Drain, Cancel)
}


def read(words: list[str]) -> Fault:
    """The fault that a line names."""
    if not words or words[0] not in FAULTS:
        raise BadLine(f"no fault '{words[0] if words else ''}' (there are {', '.join(FAULTS)})")
    return FAULTS[words[0]](*words[1:])
