"""The embedded store's own affairs: files after an unclean end, the index, what goes to the disk and when. What every
kind of store does is in test_store_contract.py."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import raw_cid
from ipdc_edge.codec.unixfs import CHUNK, FileBuilder
from ipdc_edge.drivers.block_import import UNWRITTEN
from ipdc_edge.drivers.block_rows import StoreDamaged, StoreInUse
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.importer import Importer, import_file
from tests.drivers.stores import QUOTA, files


@pytest.fixture()
def directory(tmp_path):
    return str(tmp_path / "blocks")


@pytest.fixture()
def store(directory):
    store = BlockStore(directory, QUOTA)
    yield store
    store.close()


def test_an_unclean_end_leaves_nothing_behind(directory):
    script = """
        import os, sys
        from ipdc_edge.codec.cid import raw_cid
        from ipdc_edge.drivers.blocks import BlockStore
        store = BlockStore(sys.argv[1], 1 << 20)
        store.put(raw_cid(b"kept"), b"kept", "kept", durable=True)
        store.new_file("gone").append(b"never committed")
        writer = store.new_file("kept")
        writer.append(b"committed")
        writer.commit(durable=True)
        store.new_file("kept").append(b"never committed either")
        open(os.path.join(sys.argv[1], "new", "half"), "w").write("half a block")
        os.makedirs(os.path.join(sys.argv[1], "zz"), exist_ok=True)
        open(os.path.join(sys.argv[1], "zz", "bafkzz"), "w").write("renamed, but its row was never written")
        os.kill(os.getpid(), 9)
    """
    code = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), directory], cwd=os.getcwd()
    ).returncode
    assert code == -9
    assert len(files(directory)) == 6
    store = BlockStore(directory, QUOTA)
    assert store.get(raw_cid(b"kept")) == b"kept" and store.get(raw_cid(b"committed")) == b"committed"
    assert len(files(directory)) == 2
    assert store.stat()["bytes"] == len(b"kept" + b"committed")
    assert sorted(os.listdir(os.path.join(directory, "files"))) == ["kept"]
    store.close()


def test_owners_directories_go_with_their_last_file(store, directory):
    for name in ("one", "two"):
        writer = store.new_file(name)
        writer.append(name.encode())
        if name == "one":
            writer.commit()
    store.release("two")  # while it is written
    assert os.listdir(os.path.join(directory, "files")) == ["one"]
    store.release("one")
    assert files(directory) == [] and os.listdir(os.path.join(directory, "files")) == []


def test_two_processes_cannot_share_a_store(store, directory):
    with pytest.raises(StoreInUse, match="another process"):
        BlockStore(directory, QUOTA)


def test_a_damaged_index_says_what_to_do(directory):
    BlockStore(directory, QUOTA).close()
    with open(os.path.join(directory, "index.db"), "wb") as file:
        file.write(b"no database at all" * 1000)
    with pytest.raises(StoreDamaged, match=r"index\.db.*start again"):
        BlockStore(directory, QUOTA)


# --- the importer


class Dribble(io.RawIOBase):
    """Gives a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.inner.readinto(memoryview(buffer)[:3])


@given(st.binary(max_size=60), st.integers(1, 5), st.integers(2, 4))
def test_the_importer_cuts_at_chunks_however_it_is_fed(data, chunk, links):
    builder = FileBuilder(links)
    blocks = []
    for at in range(0, max(1, len(data)), chunk):
        blocks += builder.add(raw_cid(data[at : at + chunk]), len(data[at : at + chunk]))
    root, size, last = builder.finish()
    for source in (io.BytesIO(data), Dribble(data)):
        importer = Importer(source, chunk, links)
        assert list(importer.blocks()) == blocks + last
        assert (importer.root, importer.size) == (root, size) == (root, len(data))


def test_a_copy_goes_to_the_disk_as_it_grows(store, tmp_path, monkeypatch):
    """What waits for the disk takes memory that a small board has not."""
    path, sizes = tmp_path / "big", []
    path.write_bytes(os.urandom(3 * UNWRITTEN + CHUNK))
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), sizes.append(os.fstat(fd).st_size)))
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        assert store.add_reference(file.fileno(), root, interior, "user", copy=True) == "copy"
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert len(steps) == 3 and max(steps) <= UNWRITTEN + CHUNK


