"""The block store on a real disk: owners, references, content files, the quota, damage and unclean ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import BadCid, BlockMismatch, canonical, raw_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK, BadNode, FileBuilder, dag_pb_cid, parse_node
from ipdc_edge.drivers.block_import import UNWRITTEN, BadImport
from ipdc_edge.drivers.block_rows import StoreDamaged, StoreInUse
from ipdc_edge.drivers.blocks import BlockStore, BlockTooBig, ReferenceChanged, StoreFull
from ipdc_edge.drivers.importer import Importer, import_file

QUOTA = 64 << 20
JOB, OTHER = "20260101T000000-abcd", "20260101T000001-efgh"


@pytest.fixture()
def directory(tmp_path):
    return str(tmp_path / "blocks")


@pytest.fixture()
def store(directory):
    store = BlockStore(directory, QUOTA)
    yield store
    store.close()


def put(store, data, owner=JOB, durable=False):
    cid = raw_cid(data)
    store.put(cid, data, owner, durable)
    return cid


def files(directory):
    """Every file of blocks on disk, without the index."""
    found = [os.path.join(where, name) for where, _, names in os.walk(directory) for name in names]
    return sorted(path for path in found if not os.path.basename(path).startswith("index.db"))


def add(store, path, owner="user", copy=False):
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        return root, store.add_reference(file.fileno(), root, interior, owner, copy)


def read(store, root):
    node = parse_node(root, store.get(root))
    return node.data + b"".join(read(store, cid) for _, _, cid in node.children())


# --- blocks and owners


def test_a_block_comes_back(store):
    cid = put(store, b"hello world")
    assert store.get(cid) == b"hello world"
    assert store.has(cid) and store.size(cid) == 11
    assert store.get(raw_cid(b"else")) is None
    assert not store.has(raw_cid(b"else"))


def test_pieces_of_an_open_block(store):
    data = os.urandom(200_000)
    reader = store.open_block(put(store, data))
    pieces = [reader.read(65536) for _ in range(5)]
    reader.close()
    reader.close()
    assert [len(piece) for piece in pieces] == [65536, 65536, 65536, 3392, 0]
    assert b"".join(pieces) == data
    assert store.open_block(raw_cid(b"else")) is None


def test_a_block_that_is_not_its_cid_is_refused(store, directory):
    with pytest.raises(BlockMismatch):
        store.put(raw_cid(b"a"), b"b", JOB)
    assert files(directory) == [] and store.stat()["bytes"] == 0


def test_a_name_that_is_no_cid_never_becomes_a_path(store):
    for name in ("../../etc/passwd", "", "bafk", "/etc/passwd"):
        with pytest.raises(BadCid):
            store.get(name)
        with pytest.raises(BadCid):
            store.put(name, b"", JOB)


@pytest.mark.parametrize("owner", ["", "..", ".", "a/b", "../x", "a\0", "-x", "x" * 200])
def test_an_owner_that_is_no_name_is_our_own_bug(store, owner):
    with pytest.raises(ValueError, match="owner"):
        store.put(raw_cid(b""), b"", owner)
    with pytest.raises(ValueError, match="owner"):
        store.new_file(owner)


def test_inlined_blocks_need_no_storing(store):
    assert store.get("bafkqaaa") == b"" and store.has("bafkqaaa") and store.size("bafkqaaa") == 0
    assert store.open_block("bafkqaaa").read(10) == b""
    store.put("bafkqaaa", b"", JOB)
    assert store.owners() == []


def test_version_0_names_the_same_block(store):
    old = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    store.put(old, b"\n\x02\x08\x01", JOB)
    assert store.get(canonical(old)) == store.get(old) == b"\n\x02\x08\x01"


def test_a_block_of_two_owners_is_stored_once_and_lives_until_both_are_gone(store, directory):
    cid = put(store, b"shared")
    put(store, b"shared", OTHER)
    alone = put(store, b"alone")
    assert len(files(directory)) == 2 and store.stat()["bytes"] == len(b"shared" + b"alone")
    assert store.owners() == [JOB, OTHER]
    store.release(JOB)
    assert store.get(cid) == b"shared" and store.get(alone) is None
    assert store.owners() == [OTHER] and len(files(directory)) == 1
    store.release(OTHER)
    assert store.get(cid) is None and files(directory) == []
    assert store.stat() == {"blocks": 0, "bytes": 0, "references": 0, "lost": 0, "quota": QUOTA}


def test_releasing_an_unknown_owner_does_nothing(store):
    cid = put(store, b"x")
    store.release("nobody")
    assert store.has(cid)


def test_blocks_too_big_for_ipfs_are_refused(store):
    data = bytes(MAX_BLOCK + 1)
    with pytest.raises(BlockTooBig):
        store.put(raw_cid(data), data, JOB)


@pytest.mark.parametrize("durable", [False, True])
def test_everything_is_there_after_a_restart(directory, durable):
    store = BlockStore(directory, QUOTA)
    cid = put(store, b"kept", durable=durable)
    writer = store.new_file(JOB)
    run = writer.append(b"run")
    writer.commit(durable)
    before = store.stat()
    store.close()
    store = BlockStore(directory, QUOTA)
    assert (store.get(cid), store.get(run), store.owners(), store.stat()) == (b"kept", b"run", [JOB], before)
    store.close()


def test_threads_may_use_it_together(store):
    faults = []

    def work(number):
        try:
            for turn in range(25):
                data = b"%d %d" % (turn % 7, turn) * 100
                cid = put(store, data, f"job-{number}")
                if store.get(cid) != data:
                    raise AssertionError("lost while it is held")
                if turn % 10 == 9:
                    store.release(f"job-{number}")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for number in range(4):
        store.release(f"job-{number}")
    assert store.stat()["bytes"] == 0 and files(store.directory) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([JOB, OTHER, "user"]), st.sampled_from("pdcr")),
        max_size=12,
    )
)
def test_any_order_of_puts_files_and_releases(tmp_path_factory, steps):
    store = BlockStore(str(tmp_path_factory.mktemp("store")), QUOTA)
    held: dict[str, set[bytes]] = {}
    for number, owner, step in steps:
        data = b"block %d" % number
        if step == "r":
            store.release(owner)
            held.pop(owner, None)
            continue
        if step == "c":
            writer = store.new_file(owner)
            writer.append(data)
            writer.commit(durable=number % 2 == 0)
        else:
            put(store, data, owner, durable=step == "d")
        held.setdefault(owner, set()).add(data)
    for number in range(4):
        data = b"block %d" % number
        expected = data if any(data in blocks for blocks in held.values()) else None
        assert store.get(raw_cid(data)) == expected
    assert store.owners() == sorted(held)
    # what the quota counts is what lies on disk
    assert store.stat()["bytes"] == sum(os.path.getsize(path) for path in files(store.directory))
    store.close()


# --- damage and unclean ends


def test_a_damaged_block_of_ours_counts_as_not_here_and_can_be_put_again(store, directory):
    cid = put(store, b"good bytes")
    (path,) = files(directory)
    with open(path, "wb") as file:
        file.write(b"evil bytes")
    assert store.get(cid) is None
    assert not store.has(cid) and store.stat()["lost"] == 1 and store.stat()["bytes"] == 0
    put(store, b"good bytes", OTHER)
    assert store.get(cid) == b"good bytes" and store.stat()["lost"] == 0
    store.release(OTHER)
    assert store.get(cid) == b"good bytes"  # the first owner's hold was never lost


@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_a_damaged_content_file_too(store, directory, damage):
    writer = store.new_file(JOB)
    first, second = writer.append(b"a" * 1000), writer.append(b"b" * 1000)
    writer.commit()
    (path,) = files(directory)
    if damage == "change":
        with open(path, "r+b") as file:
            file.seek(1500)
            file.write(b"x")
    elif damage == "cut":
        os.truncate(path, 1500)
    else:
        os.unlink(path)
    assert store.open_block(second) is None
    assert store.get(second) is None
    assert store.get(first) == (None if damage == "remove" else b"a" * 1000)


def test_a_content_file_whose_blocks_are_all_damaged_is_not_left_behind(store, directory):
    """A bit was flipped in a run of one block, as the random faults showed: its owner's release knew of no file."""
    writer = store.new_file(JOB)
    cids = [writer.append(b"a" * 1000), writer.append(b"b" * 1000)]
    writer.commit()
    (path,) = files(directory)
    with open(path, "r+b") as file:
        file.write(b"x" * 2000)
    assert store.get(cids[0]) is None and os.path.exists(path)
    assert store.get(cids[1]) is None and not files(directory) and store.stat()["bytes"] == 0
    writer = store.new_file(JOB)
    writer.append(b"a" * 1000)
    writer.commit()
    assert store.get(cids[0]) == b"a" * 1000
    store.release(JOB)
    assert not files(directory) and store.stat()["bytes"] == 0 and store.stat()["lost"] == 0


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


def test_two_processes_cannot_share_a_store(store, directory):
    with pytest.raises(StoreInUse, match="another process"):
        BlockStore(directory, QUOTA)


def test_a_damaged_index_says_what_to_do(directory):
    BlockStore(directory, QUOTA).close()
    with open(os.path.join(directory, "index.db"), "wb") as file:
        file.write(b"no database at all" * 1000)
    with pytest.raises(StoreDamaged, match=r"index\.db.*start again"):
        BlockStore(directory, QUOTA)


# --- the quota


def test_the_quota_counts_blocks_and_content_files(directory):
    store = BlockStore(directory, 1000)
    put(store, b"a" * 600)
    with pytest.raises(StoreFull, match=r"600 of the 1000 bytes.*500 more.*store_quota"):
        put(store, b"b" * 500)
    writer = store.new_file(JOB)
    writer.append(b"c" * 300)
    with pytest.raises(StoreFull):
        writer.append(b"d" * 200)
    writer.append(b"e" * 100)  # the refused one left no trace
    with pytest.raises(StoreFull):
        put(store, b"f")
    writer.discard()
    put(store, b"f" * 400, OTHER)
    put(store, b"a" * 600, OTHER)  # here already: needs no room
    store.release(OTHER)
    assert store.stat()["bytes"] == 600
    store.close()


def test_a_refused_put_leaves_no_file(directory):
    store = BlockStore(directory, 10)
    with pytest.raises(StoreFull):
        put(store, b"x" * 11)
    assert files(directory) == [] and store.owners() == []
    store.close()


# --- content files


def test_blocks_of_a_content_file_appear_all_at_once(store, directory):
    writer = store.new_file(JOB)
    cids = [writer.append(bytes([number]) * 65536) for number in range(20)]
    assert not any(store.has(cid) for cid in cids) and store.owners() == []
    writer.commit()
    assert [store.get(cid) for cid in cids] == [bytes([number]) * 65536 for number in range(20)]
    assert len(files(directory)) == 1
    store.release(JOB)
    assert files(directory) == [] and os.listdir(os.path.join(directory, "files")) == []


def test_a_discarded_content_file_was_never_there(store, directory):
    writer = store.new_file(JOB)
    cid = writer.append(b"x")
    writer.discard()
    writer.discard()
    assert not store.has(cid) and files(directory) == [] and store.stat()["bytes"] == 0


def test_discard_after_commit_does_nothing(store):
    writer = store.new_file(JOB)
    cid = writer.append(b"x")
    writer.commit()
    writer.discard()
    assert store.get(cid) == b"x"


def test_release_ends_a_content_file_under_way(store, directory):
    writer = store.new_file(JOB)
    writer.append(b"x")
    store.release(JOB)
    assert files(directory) == [] and store.stat()["bytes"] == 0


def test_a_content_file_lives_as_long_as_one_of_its_blocks_is_held(store, directory):
    writer = store.new_file(JOB)
    shared, alone = writer.append(b"shared"), writer.append(b"alone")
    writer.commit()
    put(store, b"shared", OTHER)
    store.release(JOB)
    assert store.get(shared) == b"shared" and store.get(alone) is None and len(files(directory)) == 1
    store.release(OTHER)
    assert files(directory) == [] and store.stat()["bytes"] == 0
    assert os.listdir(os.path.join(directory, "files")) == []


def test_a_content_file_of_known_blocks_takes_no_room(store, directory):
    put(store, b"known")
    writer = store.new_file(OTHER)
    cid = writer.append(b"known")
    writer.commit()
    assert len(files(directory)) == 1 and store.stat()["bytes"] == len(b"known")
    store.release(JOB)
    assert store.get(cid) == b"known"


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_part_becomes_a_file(store, size):
    data = os.urandom(size)
    writer = store.new_file(JOB)
    for at in range(0, size, CHUNK):
        writer.append(data[at : at + CHUNK])
    root, total = writer.commit_file()
    assert (root, total) == import_file(io.BytesIO(data))[:2]
    assert total == size and read(store, root) == data


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


# --- references


@pytest.mark.parametrize("size", [0, 5, CHUNK, CHUNK + 1, 5 * CHUNK + 7])
def test_a_file_is_referred_to_and_not_copied(store, directory, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "input.txt").write_bytes(data)
    root, how = add(store, tmp_path / "input.txt")
    assert how == "reference"
    assert read(store, root) == data
    assert sum(os.path.getsize(path) for path in files(directory)) < 1000
    assert store.stat()["references"] == max(1, -(-size // CHUNK))
    store.release("user")
    assert (tmp_path / "input.txt").read_bytes() == data  # the user's own file is never touched
    assert files(directory) == [] and store.stat()["blocks"] == 0


def test_a_reference_survives_a_restart(directory, tmp_path):
    (tmp_path / "input").write_bytes(b"x" * (2 * CHUNK))
    store = BlockStore(directory, QUOTA)
    root, _ = add(store, tmp_path / "input")
    store.close()
    store = BlockStore(directory, QUOTA)
    assert read(store, root) == b"x" * (2 * CHUNK)
    store.close()


@pytest.mark.parametrize("change", ["byte", "shorter", "gone", "directory", "fifo"])
def test_a_changed_file_is_named_with_the_offset(store, tmp_path, change):
    path = tmp_path / "input.txt"
    data = os.urandom(3 * CHUNK)
    path.write_bytes(data)
    root, _ = add(store, path)
    leaves = [link.cid for link in parse_node(root, store.get(root)).links]
    if change == "byte":
        path.write_bytes(data[: 2 * CHUNK] + bytes([data[2 * CHUNK] ^ 1]) + data[2 * CHUNK + 1 :])
    elif change == "shorter":
        path.write_bytes(data[: 2 * CHUNK + 9])
    else:
        path.unlink()
        if change == "directory":
            path.mkdir()
        elif change == "fifo":
            os.mkfifo(path)  # opening it for reading would wait for ever
    for access in (store.get, store.open_block):
        with pytest.raises(ReferenceChanged) as caught:
            access(leaves[2])
        assert str(path) in str(caught.value) and str(2 * CHUNK) in str(caught.value)
    if change in ("byte", "shorter"):
        assert store.get(leaves[0]) == data[:CHUNK]


def test_a_file_added_again_from_elsewhere_is_read_from_there(store, tmp_path):
    (tmp_path / "old").write_bytes(b"content")
    root, _ = add(store, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(ReferenceChanged):
        store.get(root)
    assert add(store, tmp_path / "new", OTHER) == (root, "reference")
    assert store.get(root) == b"content"


def test_bytes_of_our_own_are_trusted_more_than_a_reference(store, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"content")
    root, _ = add(store, path)
    put(store, b"content")
    path.write_bytes(b"changed")
    assert store.get(root) == b"content"
    path.write_bytes(b"content")
    add(store, path, OTHER)
    path.unlink()
    assert store.get(root) == b"content"


def test_copies_on_request(store, tmp_path):
    path = tmp_path / "Map.py"
    path.write_bytes(b"code" * 1000)
    root, how = add(store, path, JOB, copy=True)
    path.unlink()
    assert how == "copy" and read(store, root) == b"code" * 1000
    assert store.stat()["references"] == 0 and store.stat()["bytes"] == 4000


def test_a_file_that_the_daemon_cannot_open_by_path_is_copied(store, tmp_path):
    path = tmp_path / "input"
    data = os.urandom(2 * CHUNK + 3)
    path.write_bytes(data)
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        path.unlink()
        assert store.add_reference(file.fileno(), root, interior, "user") == "copy"
    assert read(store, root) == data


def test_another_file_at_the_same_path_is_not_taken_for_it(store, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"mine")
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        path.unlink()
        path.write_bytes(b"evil")
        assert store.add_reference(file.fileno(), root, interior, "user") == "copy"
    assert store.get(root) == b"mine"


def test_a_copy_with_the_same_chunk_many_times_holds_it_once(store, tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(5 * CHUNK))
    root, _ = add(store, path, copy=True)
    assert read(store, root) == bytes(5 * CHUNK)
    assert CHUNK <= store.stat()["bytes"] < 2 * CHUNK


def test_a_copy_goes_to_the_disk_as_it_grows(store, tmp_path, monkeypatch):
    """What waits for the disk takes memory that a small board has not."""
    path, sizes = tmp_path / "big", []
    path.write_bytes(os.urandom(3 * UNWRITTEN + CHUNK))
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), sizes.append(os.fstat(fd).st_size)))
    assert add(store, path, copy=True)[1] == "copy"
    steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
    assert len(steps) == 3 and max(steps) <= UNWRITTEN + CHUNK


def test_a_copy_over_the_quota_is_refused_before_it_is_written(directory, tmp_path):
    (tmp_path / "big").write_bytes(bytes(3 * CHUNK))
    store = BlockStore(directory, 2 * CHUNK)
    with pytest.raises(StoreFull):
        add(store, tmp_path / "big", copy=True)
    assert files(directory) == [] and store.stat()["bytes"] == 0
    assert add(store, tmp_path / "big")[1] == "reference"  # which needs no room but for one node
    store.close()


def bad_imports():
    data = os.urandom(2 * CHUNK + 1)
    root, size, interior = import_file(io.BytesIO(data))
    other_root, _, other = import_file(io.BytesIO(os.urandom(CHUNK + 1)))
    yield "nothing was sent", root, [], BadImport
    yield "another root", other_root, interior, BadImport
    yield "a block too many", root, interior + other, BadImport
    yield "the size of another file", other_root, other, BadImport
    yield "a leaf as the root", raw_cid(data), [], BadImport
    yield "a forged block", root, [(root, interior[0][1] + b"\0")], BlockMismatch
    yield "no node", dag_pb_cid(b"junk"), [(dag_pb_cid(b"junk"), b"junk")], BadNode
    yield (
        "a directory",
        dag_pb_cid(b"\n\x02\x08\x01"),
        [(dag_pb_cid(b"\n\x02\x08\x01"), b"\n\x02\x08\x01")],
        BadImport,
    )
    deep, blocks = raw_cid(data), []
    for _ in range(20):  # a chain of nodes with one child each
        builder = FileBuilder(2)
        builder.add(deep, size)
        deep, block = builder._close(0)
        blocks.append((deep, block))
    yield "a chain", deep, blocks, BadImport


def forged(size):
    builder = FileBuilder()
    builder.add(raw_cid(b"x"), CHUNK)
    builder.add(raw_cid(b"y"), size - CHUNK)
    root, _, blocks = builder.finish()
    return root, blocks


@pytest.mark.parametrize(
    ("root", "interior", "error"),
    [case[1:] for case in bad_imports()],
    ids=[case[0] for case in bad_imports()],
)
@pytest.mark.parametrize("copy", [False, True])
def test_a_tree_that_is_not_this_file_is_refused(store, directory, tmp_path, root, interior, error, copy):
    path = tmp_path / "input"
    path.write_bytes(b"z" * (2 * CHUNK + 1))
    with open(path, "rb") as file:
        with pytest.raises(error):
            store.add_reference(file.fileno(), root, interior, "user", copy)
    assert files(directory) == [] and store.owners() == [] and store.stat()["bytes"] == 0


def test_a_reference_to_leaves_that_are_not_there_can_never_be_read(store, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"z" * (CHUNK + 5))
    root, interior = forged(CHUNK + 5)
    with open(path, "rb") as file:
        assert store.add_reference(file.fileno(), root, interior, "user") == "reference"
        with pytest.raises(BadImport, match="byte 0"):
            store.add_reference(file.fileno(), root, interior, OTHER, copy=True)
    with pytest.raises(ReferenceChanged):
        store.get(raw_cid(b"x"))


def test_what_is_no_readable_file_is_refused(store, tmp_path):
    reading, writing = os.pipe()
    where = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "input").write_bytes(b"")
    blind = os.open(tmp_path / "input", os.O_WRONLY)
    try:
        for descriptor in (reading, where, blind):
            with pytest.raises(BadImport, match=r"regular file|open for reading"):
                store.add_reference(descriptor, raw_cid(b""), [], "user")
    finally:
        for descriptor in (reading, writing, where, blind):
            os.close(descriptor)


def test_a_million_claimed_leaves_are_walked_once_a_node(store, tmp_path):
    """8 levels of 32 links over one leaf of one byte: 10^12 leaves in 9 blocks, over a sparse file."""
    builder = FileBuilder(32)
    children = [(raw_cid(b"\0"), 1, 1)] * 32
    interior = []
    for _ in range(8):
        builder._levels = [list(children)]
        cid, block = builder._close(0)
        interior.append((cid, block))
        children = [builder._levels[1][0]] * 32
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(32**8)
    with open(path, "rb") as file:
        assert store.add_reference(file.fileno(), interior[-1][0], interior, "user") == "reference"
    assert store.stat()["blocks"] == 9
