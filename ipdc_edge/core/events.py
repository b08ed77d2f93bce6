"""What can happen to a node: events, in the past tense.

Owns these values only. Whoever drives the core turns the outside world into them; what the core answers is in
`effects.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .messages import Message
from .values import Attempt, Failure, HeldList, InputRange, JobKey, JobSpec, Result, Vitals

OWN = "own"  # names the node's own broker where a broker is asked for


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A peer's message, delivered by `broker` (OWN, or a portal's node id); `birth` numbers the sender's
    connection."""

    broker: str
    sender: str
    birth: int
    message: Message


@dataclass(frozen=True, slots=True)
class RecordsListed:
    """A portal has delivered every retained record it holds; `outstanding` others have yet to."""

    portal: str
    outstanding: int = 0


@dataclass(frozen=True, slots=True)
class PortalJoined:
    """A connection to a portal stands."""

    portal: str


@dataclass(frozen=True, slots=True)
class PortalLeft:
    """The connection to a portal broke: what it told of others counts no more."""

    portal: str


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """No connection to the peer's broker could be had; messages to it were dropped."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A member answered, with its certificate, at an address that was only guessed (a setting, mDNS)."""

    node: str
    address: str


@dataclass(frozen=True, slots=True)
class OwnAddressChanged:
    """This node is reached at other addresses than before."""

    mqtt: str
    gateway: str


@dataclass(frozen=True, slots=True)
class MembersAdopted:
    """A member list whose signature was verified, and which is durable and content of this node."""

    held: HeldList


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """The local owner wants this node off the member list."""


@dataclass(frozen=True, slots=True)
class VitalsMeasured:
    """The node's own vitals were taken."""

    vitals: Vitals


@dataclass(frozen=True, slots=True)
class WatchRequested:
    """Somebody looks at the nodes of the domain; watching goes on for a while."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """This node shall take no more work: what waits is handed back, what runs may end. `lasting`: also after a restart,
    until its owner says otherwise."""

    lasting: bool = False


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """The owner wants this node to take work again."""


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The owner changed what this node offers; `unable` is what it cannot do, and why."""

    capabilities: tuple[str, ...]
    slots: int
    unable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon is about to end: say goodbye, and hand back what still runs."""


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """The local owner submits a job; `utc` (YYYYMMDD-HHMMSS) is the first half of its id."""

    utc: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The local owner cancels a job of this node."""

    job: str


@dataclass(frozen=True, slots=True)
class JobFetched:
    """A worker holds the description of a job it was offered, and of its inputs what is `held`."""

    key: JobKey
    spec: JobSpec
    held: tuple[InputRange, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFetchFailed:
    """A worker could not get, or does not understand, the description of a job it was offered."""

    key: JobKey
    reason: str


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """The runner has worked through so many bytes of input of an attempt; `status` is what the user's code said of it,
    "" where it said nothing new."""

    key: JobKey
    attempt: Attempt
    bytes_done: int
    status: str = ""


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """The runner finished an attempt and its output is content of this node."""

    key: JobKey
    attempt: Attempt
    result: Result


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """An attempt came to nothing on this node."""

    key: JobKey
    attempt: Attempt
    failure: Failure


@dataclass(frozen=True, slots=True)
class PartFetched:
    """A part of the job's result has arrived at its master, whole and verified."""

    job: str
    task: str
    cid: str


@dataclass(frozen=True, slots=True)
class PartFetchFailed:
    """A part could not be had from the node that made it."""

    job: str
    task: str
    cid: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResultPublished:
    """The parts lie in the job's directory under their names, `_SUCCESS` and `job.json` beside them."""

    job: str


@dataclass(frozen=True, slots=True)
class ResultFailed:
    """The result could not be written, as with a full disk."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing but the clock: what is due gets done."""


Event = (
    MessageReceived | RecordsListed | PortalJoined | PortalLeft | PeerUnreachable | PeerFound | OwnAddressChanged
    | MembersAdopted | LeaveRequested | VitalsMeasured | WatchRequested | DrainRequested | ResumeRequested
    | SettingsChanged | StopRequested | JobSubmitted | CancelRequested
    | JobFetched | JobFetchFailed | TaskProgressed | TaskFinished | TaskFailed | PartFetched | PartFetchFailed
    | ResultPublished | ResultFailed | TimePassed
)
