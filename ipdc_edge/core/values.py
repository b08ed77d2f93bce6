"""The values that the machines, the messages and the drivers share.

Owns plain immutable records and nothing that acts. Units: memory and disk in bytes, times in seconds, shares
from 0 to 1, temperatures in degrees Celsius. A node id is text (`Qm...`), an address is `host:port`, a CID is
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = Mapping[str, Any]  # a JSON object as it came; only its owner looks inside


class Attempt(NamedTuple):
    """Names one try at a task, never used twice: the master's birth number and a counter under it."""

    birth: int
    number: int


class InputRange(NamedTuple):
    """Bytes of a job's input: which one, in the order of its description, from `start` up to `end`."""

    number: int
    start: int
    end: int


class JobKey(NamedTuple):
    """A job is known by its master and its id: two masters may draw the same id."""

    master: str
    job: str


MOST_RANGES = 200  # of a job's inputs, that a worker says it holds
BEHIND = "(waits for its turn here)"  # a worker's word for an attempt that it has not begun


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a node measured of itself; `speed` is work per second of one core relative to a reference (1.0).
    `throttled` and `undervoltage` are now, `_before` that it was so since the boot or the daemon's start."""

    memory_total: int
    memory_available: int
    cpu_count: int
    cpu_idle: float
    load: float
    speed: float
    disk_free: int
    temperature: float | None = None
    throttled: bool = False
    undervoltage: bool = False
    throttled_before: bool = False
    undervoltage_before: bool = False


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as it presents itself at the portals (`<id>/node`, retained)."""

    id: str
    name: str
    state: str  # ready, draining or gone
    mqtt: str
    gateway: str
    version: str
    capabilities: tuple[str, ...]
    slots: int
    sandbox: str
    vitals: Vitals
    members: int = 0  # version of the member list that it holds
    architecture: str = ""  # as drivers/vitals.py names it; "" from a node that does not say
    # What could be asked of it and it cannot do, and why: "tensorflow: not installed". For people, so in no trace.
    unable: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is: which architecture, how many workers, how much memory a runner may take, and the rest.

    `body` is the whole description as the job's content block holds it; `cid` is that block. The core reads
    only the fields named here; the architecture reads the body. With `nodes` it is offered to these only; without
    `queue` it fails where no node is fit for it. `priority` orders the jobs of one master, higher ones first; `timeout`
    is seconds from its submission after which it fails, 0 for never. Where it `grows`, nobody asked for a number of
    workers: nodes that come later take part too. `held`: how much of its input, in percent, nodes said they hold.
    """

    cid: str
    app: str
    workers: int
    memory: int
    body: Json
    nodes: tuple[str, ...] = ()
    queue: bool = True
    priority: int = 0
    timeout: int = 0
    grows: bool = False
    held: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of a job as its architecture planned it.

    It may start when every task of an earlier stage is committed. `command` and `report` are the channels on
    which the master orders it and the worker answers. `final` says that its output is a part of the job's
    result. With `node` that node alone may do it; `beside` is a task whose node should do this one too, if it can. A
    `single` one is not begun at a second node while the first holds it, however late it is: it does something to the
    world that must not be done by two at once.
    """

    id: str
    stage: int
    command: str
    report: str
    index: int
    final: bool
    size: int = 0  # bytes of input, for progress; 0 when unknown beforehand
    data: Json | None = None  # the architecture's own, such as which split it is
    node: str = ""
    beside: str = ""
    single: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A finished task: who did it, the CID of its output, and what the runner counted."""

    node: str
    output: str
    size: int
    details: Json


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    `kind`: `user` (the user's code raised), `runner` (the child died or broke its protocol), `fetch` (content
    could not be had: `cid` says which), `node` (the worker itself could not, as with a full disk), `hopeless` (no
    other attempt will do better; counts as two), `dropped` (the attempt had been given up; counts for nothing).
    `details` is for people: message, traceback, input, offset, record.
    """

    kind: str
    message: str
    cid: str = ""
    details: Json | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A node that the domain's authority admitted. `name` is a label; `memory` is bytes, as it said when it joined;
    `portal` says whether the others meet at its broker; `serial` (hexadecimal) is of its certificate."""

    id: str
    name: str
    memory: int
    portal: bool
    serial: str


@dataclass(frozen=True)
class MemberList:
    """Who is in the domain, as its authority signed it. A higher `version` replaces a lower one, never the other way.

    `domain` is a label, `authority` the id of the key that signs. `revoked` are serials (hexadecimal) of
    certificates that count no more, `crl` the same as a signed PEM for brokers.
    """

    domain: str
    authority: str
    version: int
    members: tuple[Member, ...]
    revoked: tuple[str, ...] = ()
    crl: str = ""

    def member(self, node: str) -> Member | None:
        """The member of this id."""
        return self._by_id.get(node)

    @property
    def _by_id(self) -> dict[str, Member]:
        """Made once, for it is asked with every message, and a domain may have thousands of members."""
        found: dict[str, Member] | None = self.__dict__.get("by_id")
        if found is None:
            found = self.__dict__["by_id"] = {member.id: member for member in self.members}
        return found

    @property
    def portals(self) -> tuple[str, ...]:
        """The ids of the members at whose brokers the others meet."""
        return tuple(member.id for member in self.members if member.portal)


@dataclass(frozen=True, slots=True)
class HeldList:
    """A member list whose signature was verified, and the signed bytes that others verify: content `cid`, and
    `packed` for a message, or "" where they are too long for one."""

    members: MemberList
    cid: str
    packed: str = ""
