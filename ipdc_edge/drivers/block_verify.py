"""Reads every block of the store and looks whether index and files agree.

Owns what counts as damage and its words. Repairs nothing: a block of ours whose bytes proved wrong counts as not here
from then on, as whenever somebody reads it, and may come again. It works a piece at a time, in whatever thread asks for
the next, and locks the store only for moments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ipdc_edge.drivers.block_places import BLOCK, CONTENT
from ipdc_edge.drivers.block_rows import LOST, OWN_FILE, REFERENCE
from ipdc_edge.drivers.blocks import ReferenceChanged

if TYPE_CHECKING:
    from ipdc_edge.drivers.block_rows import Row
    from ipdc_edge.drivers.blocks import BlockStore

_ROWS = 64  # at a time
_PIECE = 16 << 20  # bytes that are read until a step ends


class Damage(NamedTuple):
    """What is wrong: a block, or a file where it has no block (`cid` empty) or many; how many `blocks` it is about."""

    cid: str
    path: str
    reason: str
    blocks: int = 1


class Step(NamedTuple):
    """What was looked at since the last one, and what was found."""

    blocks: int
    bytes: int
    damage: list[Damage]


def check(store: BlockStore) -> Iterator[Step]:
    """All of the store, a few blocks a step. A changed file of a user is told once for blocks that follow each
    other."""
    last, changed = 0, None
    while rows := store.rows(last, _ROWS):
        blocks, size, damage = 0, 0, []
        for row in rows:
            if size >= _PIECE:
                break
            last = row.number
            blocks += 1
            size += row.location.size
            found = _fault(store, row)
            if changed is not None and (found is None or found.path != changed.path):
                damage.append(changed)
                changed = None
            if found is not None and row.location.place == REFERENCE:
                changed = found if changed is None else changed._replace(blocks=changed.blocks + 1)
            elif found is not None:
                damage.append(found)
        yield Step(blocks, size, damage)
    if changed is not None:
        yield Step(0, 0, [changed])
    for damage_of_file in (*_files(store), *_pins(store)):
        yield Step(0, 0, [damage_of_file])


def _fault(store: BlockStore, row: Row) -> Damage | None:
    """What is wrong with a block; nothing where it went away meanwhile."""
    place, path = row.location.place, row.location.path
    if place == LOST:
        return Damage(row.cid, "", "its bytes were found damaged before, and nobody has put it again")
    if not row.held:
        return Damage(row.cid, path, "nobody holds it")
    if place != OWN_FILE and not path:
        return Damage(row.cid, "", "the file in which it lies is not known")
    try:
        reader = store.open_block(row.cid)
    except ReferenceChanged as error:
        return Damage(row.cid, path, f"{error.details['reason']}, from byte {row.location.offset} on")
    except OSError as error:
        return Damage(row.cid, path, f"it cannot be read: {error.strerror}")
    if reader is not None:
        reader.close()
        return None
    now = store.rows(row.number - 1, 1)
    if now and now[0].cid == row.cid and now[0].location.place == LOST:
        return Damage(row.cid, path, "its bytes are not those that were stored, or gone")
    return None


def _pins(store: BlockStore) -> Iterator[Damage]:
    """What Kubo has for us and does not keep: somebody unpinned it. KuboFailed."""
    if store.kubo is not None:
        for name in store.kubo.missing(store.pins_in_kubo()):
            if name in store.pins_in_kubo():  # else it went meanwhile
                yield Damage("", name, "Kubo does not pin it, and may collect it: start this node again", 0)


def _files(store: BlockStore) -> Iterator[Damage]:
    """Files of ours that no row names. What is under way has a row within a moment, or is forgotten."""
    known = {CONTENT: store.has_content_file, BLOCK: store.has_block_file}
    for kind, name, path in store.places.files():
        if kind in known and not known[kind](name) and os.path.lexists(path) and not known[kind](name):
            yield Damage("", path, "no row of the index names this file", 0)
