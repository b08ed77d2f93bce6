"""The messages between nodes, as values. `PROTOCOL.md` says who sends each, when, and what a late or lost one
does.

Owns their fields; `codec/messages.py` owns how they look on the wire. The sender is never a field: the
receiver knows it from the topic, which the broker's access list guards.
"""

from __future__ import annotations

from dataclasses import dataclass

from .values import Attempt, Failure, InputRange, Json, NodeRecord, Result


@dataclass(frozen=True, slots=True)
class Present:
    """`node`: a node's retained record at a portal."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class Lost:
    """`lost`: the last will of a connection; says that the connection with this birth number broke."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`ask`, any node to any other: answer with your record (`node`). Asked when no portal can be reached."""

    address: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Members:
    """`members`, any node to any other: the sender holds this version of the member list; here it is, `packed`, or it
    is content `cid` at the sender's `gateway`. Who holds a newer one answers with it, who holds an older one takes
    this."""

    version: int
    cid: str
    address: str
    gateway: str
    packed: str


@dataclass(frozen=True, slots=True)
class Leave:
    """`leave`, a member to a node that holds the authority's key: take me off the member list."""


@dataclass(frozen=True, slots=True)
class Download:
    """`download`, master to worker: the offer of a job. `address` is the master's broker, `gateway` its gateway;
    `priority` orders it among the jobs of that master and no other's."""

    job: str
    cid: str
    app: str
    memory: int
    address: str
    gateway: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Accept:
    """`accept`, worker to master: it holds the job's description and takes up to `slots` tasks at once;
    again when that changes, with 0 when it drains. `held` of the job's inputs is on its disk already."""

    job: str
    slots: int
    address: str
    gateway: str
    held: tuple[InputRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """`refuse`, worker to master: it does not take the job, or does not know it any more."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class Command:
    """`do-map`, `do-reduce` and other architectures' commands, master to worker: work on this attempt of a
    task.

    `report` is the channel to answer on.
    """

    job: str
    channel: str
    task: str
    attempt: Attempt
    report: str
    params: Json


@dataclass(frozen=True, slots=True)
class Report:
    """`buffer`, `get-result` and other architectures' reports, worker to master: the attempt is finished."""

    job: str
    channel: str
    task: str
    attempt: Attempt
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """`failed` (or `fetch-failed` when content could not be had), worker to master: the attempt did not finish."""

    job: str
    task: str
    attempt: Attempt
    failure: Failure


@dataclass(frozen=True, slots=True)
class Received:
    """`received`, master to worker: a report or failure has been dealt with and need not be sent again."""

    job: str
    task: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Held:
    """One line of `renew`: an attempt that the worker holds, the bytes of input it has worked through, and what the
    user's code said of it last."""

    task: str
    attempt: Attempt
    bytes_done: int
    status: str = ""


@dataclass(frozen=True, slots=True)
class Renew:
    """`renew`, worker to master: it is alive and holds these attempts; the leases on them begin anew."""

    job: str
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Renewed:
    """`renewed`, master to worker: the answer to `renew`; attempts in `drop` are not wanted any more."""

    job: str
    drop: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """`cancel`, master to worker: stop work on the job and free what it held."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """`clean-up`, master to worker: the job has ended; free its runner, blocks and pins."""

    job: str


Message = (
    Present | Lost | Ask | Members | Leave | Download | Accept | Refuse | Command | Report | Failed | Received | Renew
    | Renewed | Cancel | CleanUp
)
FromMaster = Download | Command | Received | Renewed | Cancel | CleanUp
FromWorker = Accept | Refuse | Report | Failed | Renew
