"""Reading CARs, and a plain gateway of what is in them: for the specification's own suite and for comparing answers.

usage: python3 -m tests.ipfs.cars PORT CAR...       serves the blocks of these CARs on 127.0.0.1 until it is ended

The suite is gateway-conformance (github.com/ipfs/gateway-conformance), which extracts its fixtures as CARs; see
benchmarks/RESULTS.md for the last run. Node to node the same gateway speaks TLS.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator

from ipdc_edge.codec.cid import BadCid, cid_from_bytes, cid_from_parts, cid_to_bytes, decode_varint, inlined
from ipdc_edge.codec.dag_cbor import links
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.gateway import Gateway


def read_car(data: bytes) -> tuple[list[str], list[tuple[str, bytes]]]:
    """(roots, (cid, block) of each section) of a CAR of version 1 or 2."""
    if data[:11] == b"\x0a\xa1gversion\x02":  # version 2: 40 bytes of characteristics, offset and size of a version 1
        at, size = (int.from_bytes(data[11 + 16 + 8 * n : 11 + 24 + 8 * n], "little") for n in range(2))
        data = data[at : at + size]
    length, at = decode_varint(data, 0)
    roots = list(links(data[at : at + length]))
    return roots, list(_sections(data, at + length))


def _sections(data: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    while at < len(data):
        length, at = decode_varint(data, at)
        section, at = data[at : at + length], at + length
        if section[:2] == b"\x12\x20":
            size = 34
        else:
            _, size = decode_varint(section, 0)
            _, size = decode_varint(section, size)
            _, size = decode_varint(section, size)
            digest, size = decode_varint(section, size)
            size += digest
        try:
            yield cid_from_parts(cid_from_bytes(section[:size])), section[size:]
        except BadCid as error:  # another hash: such blocks no node here has
            print(f"left out: {error}", file=sys.stderr)


def write_car(root: str, blocks: list[tuple[str, bytes]]) -> bytes:
    """What the gateway should answer, made without its code."""
    def varint(number: int) -> bytes:
        return bytes([number & 127 | 128, *varint(number >> 7)]) if number > 127 else bytes([number])

    link = b"\0" + cid_to_bytes(root)
    head = b"\xa2\x65roots\x81\xd8\x2a" + (bytes([0x58, len(link)]) if len(link) > 23 else bytes([0x40 | len(link)]))
    head += link + b"\x67version\x01"
    parts = [varint(len(head)) + head]
    for cid, block in blocks:
        if inlined(cid) is None:
            parts.append(varint(len(cid_to_bytes(cid)) + len(block)) + cid_to_bytes(cid) + block)
    return b"".join(parts)


async def serve(port: int, cars: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = BlockStore(directory, 1 << 30)
        for name in cars:
            with open(name, "rb") as file:
                for cid, block in read_car(file.read())[1]:
                    store.put(cid, block, "fixtures")
        gateway = Gateway(store, "127.0.0.1", port, None, lambda _: True, print, connections=200, per_peer=200)
        await gateway.start()
        print(f"{store.stat()['blocks']} blocks on http://127.0.0.1:{gateway.port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
