"""What the rows of the block store's index say, and the errors of reading and writing them.

Owns the places in which a block may lie, and who holds it. Touches no database: that is `block_index`.

An owner is a job's id (with a dot and its master where that is another node), or begins as below. A pin is content that
somebody added or pinned, by its root; `unpin` makes it UNPINNED, which stays until room is wanted. CACHED are blocks of
inputs that were fetched for tasks of others' jobs, kept as long as there is room. What is under way when the daemon
ends is nobody's at its next start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ipdc_edge.errors import IpdcError

if TYPE_CHECKING:
    from collections.abc import Iterable

    # blocks (cid, size, offset) that lie in one file, or with None each in a file of its own
    Group = tuple["File | None", Iterable[tuple[str, int, int]]]

OWN_FILE = 0
CONTENT_FILE = 1
REFERENCE = 2
LOST = 3
KUBO = 4  # in this machine's IPFS daemon; its "file" is a pin there, named by the CID of what is pinned

KUBO_NAME = "kubo.id"  # the file in a store's directory that has its name in Kubo, where it has blocks there
KUBO_PEER = "kubo.peer"  # and the one that has that Kubo's peer id

USER = "user"  # what was added before there were pins
PIN = "pin."
UNPINNED = "unpinned."
CACHED = "cached."
SUBMITTED = "submit-"  # content that waits for its job
ADDING = "adding."  # a directory
PINNING = "pinning."


class StoreInUse(IpdcError):
    """The block store {path} is in use by another process. Only one daemon can work on it."""

    retry = True


class IndexFailed(IpdcError):
    """The index of the block store, {path}, could not be read or written ({reason}). What it held it still holds. Look
    at the disk: dmesg says what it complains of."""

    retry = True


class IndexFull(IndexFailed):
    """The disk is full: the index of the block store, {path}, cannot be written. Make room there."""


class KuboFailed(IpdcError):
    """Kubo at {address}, which keeps this node's blocks, failed: {reason}. Look at its journal; `ipdc-edge doctor` says
    what is wrong with it."""

    retry = True


class KuboGone(KuboFailed):
    """No Kubo answers at {address} ({reason}), and it keeps this node's blocks (store = kubo). Start it: `ipfs daemon`;
    the node goes on by itself. Or set kubo_api in ipdc.conf to where it is."""


class OtherKubo(KuboFailed):
    """The Kubo at {address} is {found}, and this node's blocks are in another one, {expected}. Start that one in its
    place, or set kubo_api in ipdc.conf to where it is. Where it is gone for good, remove {path}: what it kept is lost
    then."""


class StoreDamaged(IpdcError):
    """The index of the block store, {path}, cannot be read ({reason}). Stop the daemon, move its directory
    away and start again: inputs must be added again, results under jobs/ are not touched."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a block's bytes lie: `path` is below the store for our own files, absolute for a reference, and for Kubo
    that of the pin, `owner/CID`."""

    place: int
    path: str
    offset: int
    size: int
    durable: bool


@dataclass(frozen=True, slots=True)
class File:
    """What holds many blocks: CONTENT_FILE, REFERENCE or KUBO, its path, its bytes."""

    place: int
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Freed:
    """What nobody holds any longer and the store may remove: blocks in files of their own, content files, pins.

    `size` is what all of it takes in bytes, `blocks` how many blocks there were, references too.
    """

    cids: list[str]
    content: list[str]
    size: int
    blocks: int
    pins: list[str] = field(default_factory=list)  # in Kubo, by their names in the index


class Row(NamedTuple):
    """A block as the index has it; `location.path` is empty where its file is not known."""

    number: int
    cid: str
    location: Location
    held: bool


def in_doubt(error: BaseException) -> bool:
    """Whether rows that were not told to be recorded may be found after the next start nevertheless: a commit that was
    written and could not be synced. What they name must stay until then; where they are not found, it goes."""
    return isinstance(error, IndexFailed) and not isinstance(error, IndexFull)


def outlives(owner: str) -> bool:
    """Whether what this owner holds is kept over a start although no job wants it."""
    return owner == USER or owner.startswith((PIN, UNPINNED, CACHED))


def under_way(owner: str) -> bool:
    """Whether somebody is adding or pinning it just now."""
    return owner.startswith((ADDING, PINNING))
