"""What a node wants done: effects, imperative.

Owns these values only. Whoever drives the core carries them out in order; a `Save` is durable before any `Send` of the
same batch leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .messages import Message
from .values import Attempt, JobKey, Json, MemberList, NodeRecord


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
