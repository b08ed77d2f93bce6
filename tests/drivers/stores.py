"""The kinds of block store, for tests that ask the same of each: one in files, one in a real Kubo.

Owns how a kind is opened, how what it keeps is seen from outside, and how its bytes are damaged behind its back.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator

import pytest

from ipdc_edge.codec import dag_cbor
from ipdc_edge.codec.cid import DAG_CBOR, parse_cid
from ipdc_edge.drivers.block_kubo import InKubo
from ipdc_edge.drivers.block_rows import CONTENT_FILE, KUBO_NAME, KUBO_PEER
from ipdc_edge.drivers.blocks import BlockStore
from tests.ipfs.kubo import CannotBuild, Kubo
from tests.waiting import eventually

QUOTA = 64 << 20


def files(directory: str) -> list[str]:
    """Every file of blocks on disk, without the index."""
    found = [os.path.join(where, name) for where, _, names in os.walk(directory) for name in names]
    return sorted(path for path in found if not os.path.basename(path).startswith(("index.db", KUBO_NAME, KUBO_PEER)))


class Embedded:
    """Bytes in files of the store's directory."""

    def open(self, directory: str, quota: int = QUOTA) -> BlockStore:
        """A store there."""
        return BlockStore(directory, quota)

    def kept(self, store: BlockStore) -> list[str]:
        """What has its bytes, one for each block or content file, without a look into the index."""
        return files(store.directory)

    def size(self, store: BlockStore) -> int:
        """Bytes of all that."""
        return sum(map(os.path.getsize, files(store.directory)))

    def damage(self, store: BlockStore, cid: str, how: str) -> None:
        """"change" a byte in the middle, "cut" there, or "remove" what the block lies in."""
        location = store._index.locate(cid)
        own = store.places.block(cid)
        path = store.places.content(location.path) if location.place == CONTENT_FILE else own
        _damage(path, location.offset + location.size // 2, how)


class OfKubo:
    """Bytes in a Kubo that runs."""

    def __init__(self, kubo: Kubo) -> None:
        self.kubo = kubo

    def open(self, directory: str, quota: int = QUOTA) -> BlockStore:
        """A store whose new blocks go there."""
        return BlockStore(directory, quota, InKubo(directory, self.kubo.rpc))

    def kept(self, store: BlockStore) -> list[str]:
        """The pins, as Kubo says it; nothing lies in files."""
        eventually(store.kubo.settled, "what is not wanted was unpinned", 20)
        return sorted(cid for cid, _ in store.kubo.rpc.pins(store.kubo.name)) + files(store.directory)

    def size(self, store: BlockStore) -> int:
        """Bytes of what the pins lead to."""
        return sum(self._below(store, cid) for cid in self.kept(store))

    def _below(self, store: BlockStore, cid: str) -> int:
        if parse_cid(cid).codec != DAG_CBOR:
            return store.kubo.rpc.block_size(cid)
        return sum(self._below(store, link) for link in dag_cbor.links(store.kubo.rpc.get_block(cid)))

    def damage(self, store: BlockStore, cid: str, how: str) -> None:
        """The same, in Kubo's own files."""
        name = base64.b32encode(b"\x12\x20" + parse_cid(cid).digest).decode().rstrip("=")
        path = os.path.join(self.kubo.directory, "repository", "blocks", name[-3:-1], name + ".data")
        _damage(path, os.path.getsize(path) // 2, how)


def _damage(path: str, at: int, how: str) -> None:
    if how == "change":
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    elif how == "cut":
        os.truncate(path, at)
    else:
        os.unlink(path)


Kind = Embedded | OfKubo


@pytest.fixture(scope="module", params=["embedded", pytest.param("kubo", marks=pytest.mark.kubo)])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """Both kinds, one after the other."""
    if request.param == "embedded":
        yield Embedded()
        return
    try:
        kubo = Kubo(tmp_path_factory.mktemp("kubo"))
    except CannotBuild as error:
        pytest.skip(str(error))
    kubo.start()
    yield OfKubo(kubo)
    kubo.stop()
