"""CAR answers of the gateway: what is asked for, and the bytes of the stream.

Owns the parameters of such a request. Loaded when somebody asks.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from ipdc_edge.codec.car import car_header, section_head
from ipdc_edge.drivers.block_files import BlockReader, InlinedBlock
from ipdc_edge.drivers.blocks import ReferenceChanged
from ipdc_edge.drivers.car_walk import CarWalk, Missing, NotThere, Span, TooMany, Unfit
from ipdc_edge.drivers.gateway_content import absent, disposition, fixed_headers, known
from ipdc_edge.drivers.gateway_http import CAR_TYPE, Answer, car_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ipdc_edge.drivers.blocks import BlockStore

SCOPES = ("block", "entity", "all")
_SPAN = re.compile(r"(-?[0-9]{1,18}):(-?[0-9]{1,18}|\*)", re.ASCII)


async def car(store: BlockStore, cid: str, rest: str, query: dict[str, str], headers: dict[bytes, bytes]) -> Answer:
    """The answer to a request for a CAR of /ipfs/{cid}/{rest}."""
    options = car_options(query, headers.get(b"accept", b"").decode("latin-1"))
    names, shown = _segments(rest)
    scope = query.get("dag-scope", "entity" if "entity-bytes" in query else "all")
    span = _span(query.get("entity-bytes"))
    duplicates = options.get("dups", "y")
    if scope not in SCOPES:
        return Answer(400, f"dag-scope={scope[:40]!a}; it is one of {', '.join(SCOPES)}")
    if span == "":
        return Answer(400, "entity-bytes is from:to, both whole numbers, `to` also *")
    if options.get("version", "1") != "1" or options.get("order", "dfs") not in ("dfs", "unk") or (
            duplicates not in ("y", "n")):
        return Answer(400, "a CAR here has version=1, order=dfs, and dups=y or dups=n")
    assert not isinstance(span, str)
    walk = CarWalk(store, cid, names, scope, span if scope == "entity" else None, duplicates == "y")
    try:
        await walk.resolve()
    except (NotThere, Missing) as error:
        return absent(headers, str(error))
    except Unfit as error:
        return Answer(400, str(error))
    shape = hashlib.sha256(f"{shown} {scope} {span} {duplicates}".encode()).hexdigest()[:16]
    etag = f'W/"{cid}.car.{shape}"'
    fixed = fixed_headers(etag, f"/ipfs/{cid}{shown}", walk.roots, query, "car")
    if known(headers, etag.removeprefix("W/")):
        return Answer(304, headers=fixed)
    kind = (("Content-Type", f"{CAR_TYPE}; version=1; order=dfs; dups={duplicates}"),
            disposition(query, f"{cid}.car"), ("Accept-Ranges", "none"))
    return Answer(200, headers=kind + fixed, stream=_sections(cid, walk))


async def _sections(root: str, walk: CarWalk) -> AsyncGenerator[tuple[bytes, BlockReader], None]:
    """The parts of an answer. OSError where it cannot go on: whoever gets it sees that it is cut."""
    try:
        async with aclosing(_parts(root, walk)) as parts:
            async for part in parts:
                yield part
    except (Missing, TooMany, Unfit, ReferenceChanged) as error:
        raise OSError(f"a CAR of {root} was cut: {error}") from None


async def sections(store: BlockStore, root: str) -> AsyncGenerator[tuple[bytes, BlockReader], None]:
    """The parts of a CAR of all that is below a CID: what stands before a block, and the block, open. Missing, Unfit,
    ReferenceChanged."""
    walk = CarWalk(store, root, [])
    await walk.resolve()
    async with aclosing(_parts(root, walk)) as parts:
        async for part in parts:
            yield part


async def _parts(root: str, walk: CarWalk) -> AsyncGenerator[tuple[bytes, BlockReader], None]:
    yield car_header(root), InlinedBlock(b"")
    async with aclosing(walk.blocks()) as blocks:
        async for child, block in blocks:
            yield section_head(child.cid, block.size, child.version_0), block


def _segments(rest: str) -> tuple[list[bytes], str]:
    """The names of a path and how it may stand in a header: percent-encoded, without empty ones."""
    if not rest.strip("/"):
        return [], ""
    names = [unquote_to_bytes(name.encode("latin-1")) for name in rest.split("/") if name]
    return names, "".join("/" + quote(name) for name in names)


def _span(text: str | None) -> Span | str | None:
    """What `entity-bytes` asks for; "" for what is none."""
    if text is None:
        return None
    found = _SPAN.fullmatch(text)
    if not found:
        return ""
    first, last = int(found[1]), None if found[2] == "*" else int(found[2])
    if last is not None and (first < 0) == (last < 0) and last < first:
        return ""
    return Span(first, last)
