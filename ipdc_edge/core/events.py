"""What can happen to a node (events, in the past tense) and what it wants done (effects, imperative).

Owns these values only. Whoever drives the core turns the outside world into events and carries effects out in
order; a `Save` is durable before any `Send` of the same batch leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .messages import Message
from .values import (
    Attempt,
    Failure,
    HeldList,
    InputRange,
    JobKey,
    JobSpec,
    Json,
    MemberList,
    NodeRecord,
    Result,
    Vitals,
)

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


@dataclass(frozen=True, slots=True)
class Effect:
    """Base of all effects. `cause` is the id of the event that led to it (`birth.number`), set by the node's
    one door."""

    cause: str = field(default="", kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Save(Effect):
    """Make a fact durable: `kind` is job, worker, task or ended, `key` is the job's id and what is meant of it; or
    `kind` is peer and `key` a node's id, for its addresses; or both are `node`, for whether this one drains."""

    kind: str
    key: str
    value: Json


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Publish a message at a peer's broker."""

    node: str
    address: str
    message: Message


@dataclass(frozen=True, slots=True)
class PublishRecord(Effect):
    """Retain this node's record at every portal."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class WatchRecords(Effect):
    """Begin or end listening to the records at the portals."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class KeepPortals(Effect):
    """Keep a connection to these nodes' brokers, at these addresses, and to no other portal's: (id, address)."""

    portals: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AdmitMembers(Effect):
    """Let in these members and nobody else; `expelled` were members before, their open connections end."""

    members: MemberList
    expelled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FetchMembers(Effect):
    """Verify a newer member list that a peer told, `packed` or at its gateway; answered by MembersAdopted if it is
    one."""

    node: str
    gateway: str
    cid: str
    version: int
    packed: str


@dataclass(frozen=True, slots=True)
class ExpelMember(Effect):
    """This node holds the authority's key: sign a list without that member, who asked for it."""

    node: str


@dataclass(frozen=True, slots=True)
class LeaveDomain(Effect):
    """This node is not on the member list any more: end all connections and be alone again."""

    reason: str


@dataclass(frozen=True, slots=True)
class FetchJob(Effect):
    """Get a job's description and code from its master; answered by JobFetched or JobFetchFailed."""

    key: JobKey
    cid: str
    gateway: str


@dataclass(frozen=True, slots=True)
class StartTask(Effect):
    """Run an attempt; answered by TaskProgressed and one of TaskFinished, TaskFailed."""

    key: JobKey
    task: str
    attempt: Attempt
    params: Json


@dataclass(frozen=True, slots=True)
class StopTask(Effect):
    """Give an attempt up and drop what it made; no answer is expected, one under way is ignored."""

    key: JobKey
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class FreeJob(Effect):
    """Drop everything this node holds as a worker of the job: runner, scratch, blocks, pins."""

    key: JobKey


@dataclass(frozen=True, slots=True)
class FetchPart(Effect):
    """Bring a part of the result to its master; answered by PartFetched or PartFetchFailed."""

    job: str
    task: str
    index: int
    cid: str
    size: int
    node: str
    gateway: str


@dataclass(frozen=True, slots=True)
class KeepLog(Effect):
    """Put what an attempt printed beside the result: `text` itself, or content `cid` of `node` at its `gateway`. With
    `aside` it is not what was printed but the records that were set aside."""

    job: str
    task: str
    attempt: Attempt
    text: str
    cid: str = ""
    node: str = ""
    gateway: str = ""
    aside: bool = False


@dataclass(frozen=True, slots=True)
class PublishResult(Effect):
    """All parts are here: rename them into place; answered by ResultPublished or ResultFailed."""

    job: str
    view: Json


@dataclass(frozen=True, slots=True)
class DiscardResult(Effect):
    """The job failed or was cancelled: drop fetched parts, write `job.json`, release the job's content."""

    job: str
    view: Json


@dataclass(frozen=True, slots=True)
class ReleaseJob(Effect):
    """The job's result is published: the master's own pins on its inputs and code end."""

    job: str


@dataclass(frozen=True, slots=True)
class Note(Effect):
    """A line for the journal."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell(Effect):
    """A fact of a job's story: its `kind`, the `task` and the `node` (by name) that it is about, if any, and what else
    there is to say of it. It is kept with what is saved next, never by a write of its own; till then it may be lost."""

    job: str
    kind: str
    task: str = ""
    node: str = ""
    words: Json = field(default_factory=dict)
