"""The values that the machines, the messages and the drivers share.

Owns plain immutable records and nothing that acts. Units: memory and disk in bytes, times in seconds, shares
from 0 to 1, temperatures in degrees Celsius. A node id is text (`Qm...`), an address is `host:port`, a CID is
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Json = Mapping[str, Any]  # a JSON object as it came; only its owner looks inside


class Attempt(NamedTuple):
    """Names one try at a task, never used twice: the master's birth number and a counter under it."""

    birth: int
    number: int


class JobKey(NamedTuple):
    """A job is known by its master and its id: two masters may draw the same id."""

    master: str
    job: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a node measured of itself; `speed` is work per second of one core relative to a reference (1.0)."""

    memory_total: int
    memory_available: int
    cpu_count: int
    cpu_idle: float
    load: float
    speed: float
    disk_free: int
    temperature: float | None = None
    throttled: bool = False


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


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is: which architecture, how many workers, how much memory a runner may take, and the rest.

    `body` is the whole description as the job's content block holds it; `cid` is that block. The core reads
    only the fields named here; the architecture reads the body.
    """

    cid: str
    app: str
    workers: int
    memory: int
    body: Json


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of a job as its architecture planned it.

    It may start when every task of an earlier stage is committed. `command` and `report` are the channels on
    which the master orders it and the worker answers. `final` says that its output is a part of the job's
    result.
    """

    id: str
    stage: int
    command: str
    report: str
    index: int
    final: bool
    size: int = 0  # bytes of input, for progress; 0 when unknown beforehand
    data: Json | None = None  # the architecture's own, such as which split it is


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
    could not be had: `cid` says which), `node` (the worker itself could not, as with a full disk), `dropped`
    (the attempt had been given up; counts for nothing). `details` is for people: message, traceback, input,
    offset, record.
    """

    kind: str
    message: str
    cid: str = ""
    details: Json | None = None
