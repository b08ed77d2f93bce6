"""What every block store does, asked of each kind: in files, and in a real Kubo. Owners, references, content files, the
quota, damage."""

from __future__ import annotations

import errno
import io
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipdc_edge.codec.cid import BadCid, BlockMismatch, canonical, raw_cid
from ipdc_edge.codec.unixfs import CHUNK, MAX_BLOCK, BadNode, FileBuilder, dag_pb_cid, parse_node
from ipdc_edge.drivers.block_import import BadImport
from ipdc_edge.drivers.blocks import BlockTooBig, ReferenceChanged, StoreFull
from ipdc_edge.drivers.importer import import_file
from tests.drivers.stores import QUOTA, Embedded
from tests.drivers.stores import kind as kind  # a fixture

JOB, OTHER = "20260101T000000-abcd", "20260101T000001-efgh"


@pytest.fixture()
def directory(tmp_path):
    return str(tmp_path / "blocks")


@pytest.fixture()
def store(kind, directory):
    store = kind.open(directory)
    yield store
    for owner in store.owners():
        store.release(owner)
    kind.kept(store)
    store.close()


def put(store, data, owner=JOB, durable=False):
    cid = raw_cid(data)
    store.put(cid, data, owner, durable)
    return cid


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


def test_a_block_that_is_not_its_cid_is_refused(kind, store):
    with pytest.raises(BlockMismatch):
        store.put(raw_cid(b"a"), b"b", JOB)
    assert kind.kept(store) == [] and store.stat()["bytes"] == 0


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


def test_a_block_of_two_owners_is_stored_once_and_lives_until_both_are_gone(kind, store):
    cid = put(store, b"shared")
    put(store, b"shared", OTHER)
    alone = put(store, b"alone")
    assert len(kind.kept(store)) == 2 and store.stat()["bytes"] == len(b"shared" + b"alone")
    assert store.owners() == [JOB, OTHER]
    store.release(JOB)
    assert store.get(cid) == b"shared" and store.get(alone) is None
    assert store.owners() == [OTHER] and len(kind.kept(store)) == 1
    store.release(OTHER)
    assert store.get(cid) is None and kind.kept(store) == []
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
def test_everything_is_there_after_a_restart(kind, directory, durable):
    store = kind.open(directory)
    cid = put(store, b"kept", durable=durable)
    writer = store.new_file(JOB)
    run = writer.append(b"run")
    writer.commit(durable)
    before = store.stat()
    store.close()
    store = kind.open(directory)
    assert (store.get(cid), store.get(run), store.owners(), store.stat()) == (b"kept", b"run", [JOB], before)
    store.close()


def test_threads_may_use_it_together(kind, store):
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
    assert store.stat()["bytes"] == 0 and kind.kept(store) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([JOB, OTHER, "user"]), st.sampled_from("pdcr")),
        max_size=12,
    )
)
def test_any_order_of_puts_files_and_releases(kind, tmp_path_factory, steps):
    store = kind.open(str(tmp_path_factory.mktemp("store")))
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
    assert store.stat()["bytes"] == kind.size(store)
    store.close()


# --- damage and unclean ends


def test_a_damaged_block_of_ours_counts_as_not_here_and_can_be_put_again(kind, store):
    cid = put(store, b"good bytes")
    kind.damage(store, cid, "change")
    assert store.get(cid) is None
    assert not store.has(cid) and store.stat()["lost"] == 1 and store.stat()["bytes"] == 0
    put(store, b"good bytes", OTHER)
    assert store.get(cid) == b"good bytes" and store.stat()["lost"] == 0
    store.release(OTHER)
    assert store.get(cid) == b"good bytes"  # the first owner's hold was never lost


@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_a_damaged_content_file_too(kind, store, damage):
    writer = store.new_file(JOB)
    first, second = writer.append(b"a" * 1000), writer.append(b"b" * 1000)
    writer.commit()
    kind.damage(store, second, damage)
    assert store.open_block(second) is None
    assert store.get(second) is None
    assert store.get(first) == (None if damage == "remove" and isinstance(kind, Embedded) else b"a" * 1000)


def test_a_content_file_whose_blocks_are_all_damaged_is_not_left_behind(kind, store):
    """A bit was flipped in a run of one block, as the random faults showed: its owner's release knew of no file."""
    writer = store.new_file(JOB)
    cids = [writer.append(b"a" * 1000), writer.append(b"b" * 1000)]
    writer.commit()
    for cid in cids:
        kind.damage(store, cid, "change")
    assert store.get(cids[0]) is None and len(kind.kept(store)) == 1
    assert store.get(cids[1]) is None and not kind.kept(store) and store.stat()["bytes"] == 0
    writer = store.new_file(JOB)
    writer.append(b"a" * 1000)
    writer.commit()
    assert store.get(cids[0]) == b"a" * 1000
    store.release(JOB)
    assert not kind.kept(store) and store.stat()["bytes"] == 0 and store.stat()["lost"] == 0


# --- the quota


def test_the_quota_counts_blocks_and_content_files(kind, directory):
    store = kind.open(directory, 1000)
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


def test_a_refused_put_leaves_no_file(kind, directory):
    store = kind.open(directory, 10)
    with pytest.raises(StoreFull):
        put(store, b"x" * 11)
    assert kind.kept(store) == [] and store.owners() == []
    store.close()


# --- content files


def test_blocks_of_a_content_file_appear_all_at_once(kind, store):
    writer = store.new_file(JOB)
    cids = [writer.append(bytes([number]) * 65536) for number in range(20)]
    assert not any(store.has(cid) for cid in cids) and store.owners() == []
    writer.commit()
    assert [store.get(cid) for cid in cids] == [bytes([number]) * 65536 for number in range(20)]
    assert len(kind.kept(store)) == 1
    store.release(JOB)
    assert kind.kept(store) == []


def test_a_discarded_content_file_was_never_there(kind, store):
    writer = store.new_file(JOB)
    cid = writer.append(b"x")
    writer.discard()
    writer.discard()
    assert not store.has(cid) and kind.kept(store) == [] and store.stat()["bytes"] == 0


def test_discard_after_commit_does_nothing(store):
    writer = store.new_file(JOB)
    cid = writer.append(b"x")
    writer.commit()
    writer.discard()
    assert store.get(cid) == b"x"


def test_release_ends_a_content_file_under_way(kind, store):
    writer = store.new_file(JOB)
    writer.append(b"x")
    store.release(JOB)
    assert kind.kept(store) == [] and store.stat()["bytes"] == 0


def test_a_content_file_lives_as_long_as_one_of_its_blocks_is_held(kind, store):
    writer = store.new_file(JOB)
    shared, alone = writer.append(b"shared"), writer.append(b"alone")
    writer.commit()
    put(store, b"shared", OTHER)
    store.release(JOB)
    assert store.get(shared) == b"shared" and store.get(alone) is None and len(kind.kept(store)) == 1
    store.release(OTHER)
    assert kind.kept(store) == [] and store.stat()["bytes"] == 0


def test_a_content_file_of_known_blocks_takes_no_room(kind, store):
    put(store, b"known")
    writer = store.new_file(OTHER)
    cid = writer.append(b"known")
    writer.commit()
    assert len(kind.kept(store)) == 1 and store.stat()["bytes"] == len(b"known")
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


# --- references


@pytest.mark.parametrize("size", [0, 5, CHUNK, CHUNK + 1, 5 * CHUNK + 7])
def test_a_file_is_referred_to_and_not_copied(kind, store, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "input.txt").write_bytes(data)
    root, how = add(store, tmp_path / "input.txt")
    assert how == "reference"
    assert read(store, root) == data
    assert kind.size(store) == store.stat()["bytes"] < 1000
    assert store.stat()["references"] == max(1, -(-size // CHUNK))
    store.release("user")
    assert (tmp_path / "input.txt").read_bytes() == data  # the user's own file is never touched
    assert kind.kept(store) == [] and store.stat()["blocks"] == 0


def test_a_reference_survives_a_restart(kind, directory, tmp_path):
    (tmp_path / "input").write_bytes(b"x" * (2 * CHUNK))
    store = kind.open(directory)
    root, _ = add(store, tmp_path / "input")
    store.close()
    store = kind.open(directory)
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


def test_a_copy_over_the_quota_is_refused_before_it_is_written(kind, directory, tmp_path):
    (tmp_path / "big").write_bytes(bytes(3 * CHUNK))
    store = kind.open(directory, 2 * CHUNK)
    with pytest.raises(StoreFull):
        add(store, tmp_path / "big", copy=True)
    assert kind.kept(store) == [] and store.stat()["bytes"] == 0
    assert add(store, tmp_path / "big")[1] == "reference"  # which needs no room but for one node
    store.close()


def copy(store, path, owner="user"):
    """(root, size), by its bytes alone."""
    upload = store.new_import(owner)
    try:
        with open(path, "rb") as file:
            return upload.copy(file.fileno())
    finally:
        upload.discard()


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 7 * CHUNK, 7 * CHUNK + 5])
def test_a_copy_has_the_tree_of_its_bytes(kind, store, tmp_path, size):
    path = tmp_path / "input"
    data = os.urandom(size)
    path.write_bytes(data)
    root, counted = copy(store, path)
    path.unlink()
    assert (root, counted) == import_file(io.BytesIO(data))[:2] and read(store, root) == data
    assert store.stat()["references"] == 0 and store.owners() == ["user"]
    store.release("user")
    assert kind.kept(store) == []


def test_what_comes_again_in_a_copy_is_held_once(store, tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(5 * CHUNK))
    root, _ = copy(store, path)
    assert read(store, root) == bytes(5 * CHUNK)
    assert CHUNK <= store.stat()["bytes"] < 2 * CHUNK


@pytest.mark.parametrize("change", ["write", "cut", "grow"])
@pytest.mark.parametrize("tree", [False, True])
def test_a_file_that_changes_under_its_copy_leaves_no_block_that_is_none(store, tmp_path, change, tree):
    path = tmp_path / "input"
    path.write_bytes(os.urandom(6 * CHUNK))
    writer = store.new_file(JOB)
    append, written = writer.append_block, []

    def change_and_append(cid, data):
        written.append(cid)
        if len(written) == 3:
            with open(path, "r+b") as file:
                for at in range(0, 6 * CHUNK if change == "write" else 0, CHUNK // 2):
                    file.seek(at)
                    file.write(b"changed")
                file.truncate({"write": 6 * CHUNK, "cut": CHUNK, "grow": 7 * CHUNK}[change])
        return append(cid, data)

    writer.append_block = change_and_append
    upload = store.new_import(JOB, writer)
    with open(path, "rb") as file:
        root, _, interior = import_file(file)
        for block in interior if tree else ():
            upload.add(*block)
        if tree and change == "grow":
            upload.finish(file.fileno(), root, copy=True)  # all that it has the CID of
        else:
            with pytest.raises(BadImport, match="changed"):
                upload.finish(file.fileno(), root, copy=True) if tree else upload.copy(file.fileno())
    upload.discard()
    writer.commit(durable=True)  # what a directory had before
    assert len(written) >= 3
    assert all(store.get(cid) is not None for cid in written)  # which are checked


def test_a_file_that_cannot_be_read_is_named_by_its_byte(store, tmp_path, monkeypatch):
    path = tmp_path / "input"
    path.write_bytes(os.urandom(3 * CHUNK))
    preadv = os.preadv

    def broken(descriptor, buffers, offset):
        if offset == 2 * CHUNK:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(BadImport, match=f"a copy: byte {2 * CHUNK} cannot be read"):
        copy(store, path)
    with pytest.raises(BadImport, match=f"byte {2 * CHUNK} cannot be read"):
        add(store, path, copy=True)
    assert store.owners() == [] and store.stat()["bytes"] == 0


def test_a_copy_by_its_bytes_is_bounded_and_stops(kind, directory, tmp_path, monkeypatch):
    (tmp_path / "big").write_bytes(os.urandom(3 * CHUNK))
    store = kind.open(directory, 2 * CHUNK)
    with monkeypatch.context() as patched, pytest.raises(StoreFull):
        patched.setattr(os, "preadv", lambda *args: pytest.fail("it was read"))
        copy(store, tmp_path / "big")
    store.quota = QUOTA
    upload = store.new_import("user")
    upload.stop()
    with open(tmp_path / "big", "rb") as file, pytest.raises(BadImport, match="has gone"):
        upload.copy(file.fileno())
    upload.discard()
    assert kind.kept(store) == [] and store.owners() == [] and store.stat()["bytes"] == 0
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
def test_a_tree_that_is_not_this_file_is_refused(kind, store, tmp_path, root, interior, error, copy):
    path = tmp_path / "input"
    path.write_bytes(b"z" * (2 * CHUNK + 1))
    with open(path, "rb") as file:
        with pytest.raises(error):
            store.add_reference(file.fileno(), root, interior, "user", copy)
    assert kind.kept(store) == [] and store.owners() == [] and store.stat()["bytes"] == 0


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
            with pytest.raises(BadImport, match=r"regular file|open for reading"):
                store.new_import("user").copy(descriptor)
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
