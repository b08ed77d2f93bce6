"""What the gateway says of content: a block, or by `gateway_car` a CAR of what is below a path.

Owns the headers of both. Never sends anything: `gateway_http` does.

Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/ and path-gateway for headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ipdc_edge.codec.cid import BadCid, parse_cid
from ipdc_edge.drivers.block_reading import open_block
from ipdc_edge.drivers.block_rows import KuboFailed
from ipdc_edge.drivers.blocks import ReferenceChanged
from ipdc_edge.drivers.gateway_http import CAR_TYPE, RAW_TYPE, Answer, matches, wanted_format

if TYPE_CHECKING:
    from ipdc_edge.drivers.blocks import BlockStore

_FOREVER = "public, max-age=29030400, immutable"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}", re.ASCII)  # what may stand in a header as it is
_GONE = "this block was here; the file that held it has changed since"  # its path is nobody's business
_NOT_HERE = "this block is not here"


async def content(store: BlockStore, path: str, query: dict[str, str], headers: dict[bytes, bytes]) -> Answer:
    """The answer to a request for /ipfs/{cid}[/path]."""
    accept = headers.get(b"accept", b"").decode("latin-1")
    wanted = wanted_format(query, accept)
    if wanted not in ("raw", "car"):
        return Answer(400, f"say ?format=raw or car, or Accept: {RAW_TYPE} or {CAR_TYPE}; nothing else is served here")
    cid, slash, rest = path.removeprefix("/ipfs/").partition("/")
    if wanted == "raw" and slash:
        return Answer(400, "a raw block is asked for by its CID alone, without a path")
    try:
        parse_cid(cid)
    except BadCid as error:
        return Answer(400, str(error))
    try:
        if wanted == "raw":
            return await _block(store, cid, query, headers)
        from ipdc_edge.drivers.gateway_car import car  # rarely needed

        return await car(store, cid, rest, query, headers)
    except ReferenceChanged:
        return absent(headers, _GONE)
    except OSError as error:
        return Answer(500, f"this block cannot be read now ({error.strerror})")
    except KuboFailed:
        return Answer(503, "this block is in a Kubo that does not answer now", (("Retry-After", "5"),))


async def _block(store: BlockStore, cid: str, query: dict[str, str], headers: dict[bytes, bytes]) -> Answer:
    block = await open_block(store, cid)
    if block is None:
        return absent(headers, _NOT_HERE)
    etag = f'"{cid}.raw"'
    fixed = fixed_headers(etag, f"/ipfs/{cid}", [cid], query, "raw")
    if known(headers, etag):
        block.close()
        return Answer(304, headers=fixed)
    kind = (("Content-Type", RAW_TYPE), disposition(query, f"{cid}.bin"), ("Accept-Ranges", "none"))
    return Answer(200, headers=kind + fixed, block=block)


def fixed_headers(
    etag: str, path: str, roots: list[str], query: dict[str, str], wanted: str
) -> tuple[tuple[str, str], ...]:
    """The headers that 200 and 304 have in common."""
    negotiated = (("Vary", "Accept"), ("Content-Location", f"{path}?format={wanted}")) if "format" not in query else ()
    return (("Etag", etag), ("Cache-Control", _FOREVER), ("X-Ipfs-Path", path), ("X-Ipfs-Roots", ",".join(roots)),
            *negotiated)


def disposition(query: dict[str, str], name: str) -> tuple[str, str]:
    asked = query.get("filename", "")
    return "Content-Disposition", f'attachment; filename="{asked if _FILE_NAME.fullmatch(asked) else name}"'


def known(headers: dict[bytes, bytes], etag: str) -> bool:
    return matches(headers.get(b"if-none-match", b"").decode("latin-1"), etag)


def absent(headers: dict[bytes, bytes], reason: str) -> Answer:
    only_cached = "only-if-cached" in headers.get(b"cache-control", b"").decode("latin-1").lower()
    return Answer(412 if only_cached else 404, reason)
