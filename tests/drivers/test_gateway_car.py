"""CAR answers over loopback, against answers that are made here in the simplest way."""

from __future__ import annotations

import http.client
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import RAW, cid_to_bytes, dag_pb_cid, encode_varint, make_cid, parse_cid, raw_cid
from ipdc_edge.codec.hamt import name_hash
from ipdc_edge.codec.unixfs import FileBuilder, directory_block, parse_node, symlink_block
from ipdc_edge.drivers import car_walk
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.importer import import_file
from tests.drivers.test_gateway import ask, serve
from tests.ipfs.cars import read_car, write_car
from tests.waiting import eventually

CHUNK, LINKS = 10, 3


class Tree:
    """A DAG in a store: a directory, a sharded one in it, files with small blocks, a file twice, a symlink."""

    def __init__(self, store: BlockStore) -> None:
        self.store = store
        self.blocks: dict[str, bytes] = {}
        self.text = bytes(range(97, 97 + 26)) * 4  # of eleven leaves, on three levels
        self.file = self.add_file(self.text)
        self.small = self.put_raw(b"small")
        self.link = self.put(*symlink_block(b"../small"))
        self.names = {f"name-{number}": self.put_raw(b"%d" % number) for number in range(40)}
        self.sharded = self.shard(dict(self.names), 0)
        entries = {"file": self.file, "copy": self.file, "small": self.small, "link": self.link,
                   "sharded": self.sharded, "ü %": self.small}
        self.root = self.put(*directory_block([(name, cid, 1) for name, cid in entries.items()]))

    def put(self, cid: str, block: bytes) -> str:
        self.store.put(cid, block, "user")
        self.blocks[cid] = block
        return cid

    def put_raw(self, data: bytes) -> str:
        return self.put(raw_cid(data), data)

    def add_file(self, data: bytes, without: str = "") -> str:
        """A file, of which one leaf may be missing."""
        builder = FileBuilder(LINKS)
        for at in range(0, len(data), CHUNK):
            leaf = data[at : at + CHUNK]
            for block in builder.add(without if raw_cid(leaf) == without else self.put_raw(leaf), len(leaf)):
                self.put(*block)
        root, _, blocks = builder.finish()
        for block in blocks:
            self.put(*block)
        return root

    def shard(self, names: dict[str, str], depth: int) -> str:
        """A sharded directory with 8 slots in a node, so that 40 names take several levels."""
        slots: dict[int, dict[str, str]] = {}
        for name, cid in names.items():
            number = int.from_bytes(name_hash(name.encode()), "big") >> (61 - 3 * depth) & 7
            slots.setdefault(number, {})[name] = cid
        links = []
        for number, inside in sorted(slots.items()):
            if len(inside) == 1:
                links.append((f"{number:X}{next(iter(inside))}", next(iter(inside.values()))))
            else:
                links.append((f"{number:X}", self.shard(inside, depth + 1)))
        parts = []
        for name, cid in links:
            body = b"\x0a\x24" + cid_to_bytes(cid) + b"\x12" + bytes([len(name)]) + name.encode() + b"\x18\x01"
            parts.append(b"\x12" + encode_varint(len(body)) + body)
        block = b"".join(parts) + b"\x0a\x06\x08\x05\x28\x22\x30\x08"
        return self.put(dag_pb_cid(block), block)

    def all(self, cid: str) -> Iterator[str]:
        """Every block below one, itself first."""
        yield cid
        if parse_cid(cid).codec != RAW:
            for link in parse_node(cid, self.blocks[cid]).links:
                yield from self.all(link.cid)

    def shards(self, cid: str) -> Iterator[str]:
        yield cid
        for link in parse_node(cid, self.blocks[cid]).shards():
            yield from self.shards(link.cid)

    def spanning(self, cid: str, first: int, end: int, at: int = 0) -> Iterator[str]:
        yield cid
        if parse_cid(cid).codec != RAW:
            for offset, size, below in parse_node(cid, self.blocks[cid]).children(at):
                if offset < end and offset + size > first:
                    yield from self.spanning(below, first, end, offset)

    def way(self, name: str) -> list[str]:
        """From the sharded directory's root to the node that holds the name."""
        def search(cid: str) -> list[str]:
            node = parse_node(cid, self.blocks[cid])
            if name in [entry.name for entry in node.entries()]:
                return [cid]
            found = [search(shard.cid) for shard in node.shards()]
            return next(([cid, *below] for below in found if below), [])

        return search(self.sharded)

    def car(self, cids: list[str]) -> bytes:
        return write_car(self.root, [(cid, self.blocks[cid]) for cid in cids])


@pytest.fixture()
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    yield store
    store.close()


@pytest.fixture()
def tree(store: BlockStore) -> Tree:
    return Tree(store)


def body(tree: Tree, path: str = "", query: str = "") -> bytes:
    status, _, got = ask(tree.store, f"/ipfs/{tree.root}{path}?format=car{query}")
    assert status == 200, got
    return got


def test_everything_below_a_directory_in_order(tree: Tree) -> None:
    everything = list(tree.all(tree.root))
    assert body(tree) == tree.car(everything)
    once = list(dict.fromkeys(everything))
    assert len(once) < len(everything)
    assert body(tree, query="&car-dups=n") == tree.car(once)
    assert body(tree, query="&dag-scope=all&dups=n") == tree.car(everything), "dups belongs to Accept"


def test_a_path_and_what_is_below_it(tree: Tree) -> None:
    assert body(tree, "/file") == tree.car([tree.root, *tree.all(tree.file)])
    assert body(tree, "/small", "&dag-scope=block") == tree.car([tree.root, tree.small])
    assert body(tree, "/file", "&dag-scope=block") == tree.car([tree.root, tree.file])
    assert body(tree, "/%C3%BC%20%25") == tree.car([tree.root, tree.small])
    assert body(tree, "//file/") == body(tree, "/file")


def test_a_name_in_a_sharded_directory_is_found_without_the_rest_of_it(tree: Tree) -> None:
    deepest = max(tree.names, key=lambda name: len(tree.way(name)))
    assert len(tree.way(deepest)) > 2
    for name in ("name-0", deepest):
        wanted = [tree.root, *tree.way(name), tree.names[name]]
        assert body(tree, f"/sharded/{name}") == tree.car(wanted)


def test_an_entity(tree: Tree) -> None:
    assert body(tree, "", "&dag-scope=entity") == tree.car([tree.root])
    assert body(tree, "/sharded", "&dag-scope=entity") == tree.car([tree.root, *tree.shards(tree.sharded)])
    assert body(tree, "/file", "&dag-scope=entity") == tree.car([tree.root, *tree.all(tree.file)])
    assert body(tree, "/link", "&dag-scope=entity") == tree.car([tree.root, tree.link])


def test_the_bytes_of_an_entity(tree: Tree) -> None:
    size = len(tree.text)
    spans = []  # (as it is asked for, first, end)
    for first in (0, 1, CHUNK - 1, CHUNK, 57, size - 1, size, size + 5):
        spans.append((f"{first}:*", first, size))
        spans += [(f"{first}:{last}", first, min(size, last + 1)) for last in (first, first + 1, first + 30)]
        spans += [(f"{first}:-{last}", first, size - last + 1) for last in (1, CHUNK, size)]
        spans.append((f"-{first}:*", max(0, size - first) if first else 0, size))
    for text, begin, end in spans:
        wanted = [tree.root, *tree.spanning(tree.file, begin, end)]
        assert body(tree, "/file", f"&dag-scope=entity&entity-bytes={text}") == tree.car(wanted), text
    assert body(tree, "/file", "&entity-bytes=3%3A4") == tree.car([tree.root, *tree.spanning(tree.file, 3, 5)])
    assert body(tree, "/sharded", "&entity-bytes=0:3") == body(tree, "/sharded", "&dag-scope=entity")


def test_without_duplicates_a_span_still_has_all_that_it_needs(tree: Tree) -> None:
    """A node that stands twice in a file may be wanted in part the first time."""
    period = bytes(range(CHUNK * LINKS))  # one node of three leaves
    file = tree.add_file(period * 4)
    for text in ("15:*", "25:95", "35:45"):
        status, _, got = ask(tree.store, f"/ipfs/{file}?format=car&car-dups=n&entity-bytes={text}")
        first, last = text.split(":")
        end = tree.store.size(file) and 4 * 30 if last == "*" else int(last) + 1
        wanted = dict.fromkeys(tree.spanning(file, int(first), end))
        assert status == 200 and got == write_car(file, [(cid, tree.blocks[cid]) for cid in wanted])


def test_headers(tree: Tree) -> None:
    status, headers, _ = ask(tree.store, f"/ipfs/{tree.root}/file",
                             headers={"Accept": "application/vnd.ipld.car; order=dfs; dups=n"})
    assert status == 200
    assert headers["content-type"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"
    assert headers["content-disposition"] == f'attachment; filename="{tree.root}.car"'
    assert headers["x-ipfs-path"] == f"/ipfs/{tree.root}/file"
    assert headers["x-ipfs-roots"] == f"{tree.root},{tree.file}"
    assert headers["accept-ranges"] == "none" and headers["x-content-type-options"] == "nosniff"
    assert headers["vary"] == "Accept" and headers["etag"].startswith(f'W/"{tree.root}.car.')
    assert "content-length" not in headers
    again = ask(tree.store, f"/ipfs/{tree.root}/file?format=car", headers={"If-None-Match": headers["etag"]})
    assert again[0] == 200, "with duplicates it is another answer"
    again = ask(tree.store, f"/ipfs/{tree.root}/file?format=car&car-dups=n", headers={"If-None-Match": headers["etag"]})
    assert (again[0], again[2]) == (304, b"")
    named = ask(tree.store, f"/ipfs/{tree.root}?format=car&filename=a%20b.car")[1]
    assert named["content-disposition"] == 'attachment; filename="a b.car"'
    evil = ask(tree.store, f"/ipfs/{tree.root}?format=car&filename=a%22%0d%0aX-Evil:1")[1]
    assert evil["content-disposition"] == f'attachment; filename="{tree.root}.car"' and "x-evil" not in evil
    head = ask(tree.store, f"/ipfs/{tree.root}?format=car", method="HEAD")
    assert (head[0], head[2]) == (200, b"") and head[1]["content-type"].startswith("application/vnd.ipld.car")


@pytest.mark.parametrize(("rest", "headers", "status", "words"), [
    ("/nothing?format=car", {}, 404, "Nothing is at 'nothing'"),
    ("/file/below?format=car", {}, 404, "Nothing is at"),
    ("/small/below?format=car", {}, 404, "Nothing is at"),
    ("/sharded/nobody?format=car", {}, 404, "Nothing is at"),
    ("/%FF%00?format=car", {}, 404, "Nothing is at"),
    ("/nothing?format=car", {"Cache-Control": "only-if-cached"}, 412, "Nothing"),
    ("?format=car&dag-scope=some", {}, 400, "dag-scope"),
    ("?format=car&entity-bytes=5", {}, 400, "entity-bytes"),
    ("?format=car&entity-bytes=5:3", {}, 400, "entity-bytes"),
    ("?format=car&entity-bytes=*:5", {}, 400, "entity-bytes"),
    ("?format=car&entity-bytes=" + "9" * 30 + ":*", {}, 400, "entity-bytes"),
    ("?format=car&car-version=2", {}, 400, "version=1"),
    ("?format=car&car-order=bfs", {}, 400, "order=dfs"),
    ("?format=car&car-dups=maybe", {}, 400, "dups"),
    ("", {"Accept": "application/vnd.ipld.car; version=2"}, 400, "version=1"),
    ("?" + "&".join(f"a{number}=%20" for number in range(100)), {}, 400, "fields"),
])
def test_what_cannot_be_answered(tree: Tree, rest: str, headers: dict[str, str], status: int, words: str) -> None:
    got, fields, text = ask(tree.store, f"/ipfs/{tree.root}{rest}", headers=headers)
    assert got == status and words in text.decode()
    assert "etag" not in fields


def test_what_stands_in_its_own_name_is_never_in_a_car(store: BlockStore) -> None:
    inlined = "bafkqabtjnzwgs3tf"
    root, block = directory_block([("a", inlined, 6)])
    store.put(root, block, "user")
    assert ask(store, f"/ipfs/{root}?format=car")[2] == write_car(root, [(root, block)])
    assert ask(store, f"/ipfs/{inlined}?format=car")[2] == write_car(inlined, [])


def test_links_of_other_formats_are_followed(tree: Tree) -> None:
    link = b"\xd8\x2a\x58\x25\x00" + cid_to_bytes(tree.root)
    document = b"\xa2\x61a\x81" + link + b"\x61b\x01"
    import hashlib

    cid = make_cid(0x71, hashlib.sha256(document).digest())
    tree.put(cid, document)

    def car(path: str, cids: list[str]) -> None:
        status, _, got = ask(tree.store, f"/ipfs/{cid}{path}")
        assert status == 200 and got == write_car(cid, [(each, tree.blocks[each]) for each in cids])

    car("?format=car", [cid, *tree.all(tree.root)])
    car("?format=car&dag-scope=entity", [cid])
    car("/a/0/small?format=car", [cid, tree.root, tree.small])
    car("/b?format=car", [cid, *tree.all(tree.root)])
    assert ask(tree.store, f"/ipfs/{cid}/a/1?format=car")[0] == 404
    other = make_cid(0x0129, hashlib.sha256(b"{}").digest())  # dag-json, which is not read
    tree.put(other, b"{}")
    assert ask(tree.store, f"/ipfs/{other}?format=car")[2] == write_car(other, [(other, b"{}")])
    assert ask(tree.store, f"/ipfs/{other}/a?format=car")[0] == 400


def cut(store: BlockStore, target: str) -> bytes:
    """What comes of an answer that ends too early; AssertionError when it ends well."""
    def check(gateway: object) -> bytes:
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)  # type: ignore[attr-defined]
        client.request("GET", target)
        answer = client.getresponse()
        try:
            answer.read()
        except (http.client.IncompleteRead, ConnectionResetError) as error:
            return getattr(error, "partial", b"")
        finally:
            client.close()
        raise AssertionError("the answer seemed whole")

    return serve(store, check)


def test_an_answer_that_cannot_be_ended_is_cut_and_never_seems_whole(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = raw_cid(b"0123456789")
    file = tree.add_file(tree.text[:50] + b"0123456789" + tree.text, without=missing)
    before = list(tree.spanning(file, 0, 50))
    assert cut(tree.store, f"/ipfs/{file}?format=car").startswith(
        write_car(file, [(cid, tree.blocks[cid]) for cid in before[:5]]))
    assert ask(tree.store, f"/ipfs/{file}?format=car&entity-bytes=0:49")[0] == 200
    with monkeypatch.context() as patch:
        patch.setattr(car_walk, "MOST_SEEN", 5)
        cut(tree.store, f"/ipfs/{tree.root}?format=car&car-dups=n")
        assert body(tree) == tree.car(list(tree.all(tree.root))), "what is not remembered has no bound"
    with monkeypatch.context() as patch:
        patch.setattr(car_walk, "MAX_LEVELS", 2)
        cut(tree.store, f"/ipfs/{tree.root}?format=car")


def test_a_big_file_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    """Sixty-four blocks of a megabyte in one answer; the gateway and a client that keeps nothing."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    with open(path, "rb") as source:
        root, _, interior = import_file(source)
        assert store.add_reference(source.fileno(), root, interior, "user") == "reference"

    def check(gateway: object) -> int:
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)  # type: ignore[attr-defined]
        client.request("GET", f"/ipfs/{root}?format=car")
        answer = client.getresponse()
        total = 0
        while piece := answer.read(64 << 10):
            total += len(piece)
        client.close()
        return total

    tracemalloc.start()
    try:
        total = serve(store, check)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        store.close()
    assert total > 64 << 20
    assert peak < 1 << 20, f"{peak} bytes"
    assert os.path.getsize(path) == 64 << 20


def test_nothing_is_read_for_a_peer_that_has_gone(tmp_path: Path) -> None:
    """It leaves at the beginning of 256 blocks of a megabyte; a transport would take them all, and say nothing."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(256 << 20)
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    with open(tmp_path / "sparse", "rb") as source:
        root, _, interior = import_file(source)
        store.add_reference(source.fileno(), root, interior, "user")

    def check(gateway: object) -> dict[str, int]:
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)  # type: ignore[attr-defined]
        client.request("GET", f"/ipfs/{root}?format=car")
        answer = client.getresponse()
        assert len(answer.read(4096)) == 4096
        answer.close()
        client.close()
        eventually(lambda: not gateway._open, "its connection is over")  # type: ignore[attr-defined]
        return dict(gateway.counters)  # type: ignore[attr-defined]

    counters = serve(store, check)
    store.close()
    assert counters["blocks"] < 200 and counters["refused"] == 1


def test_a_car_is_counted_block_by_block(tree: Tree) -> None:
    def check(gateway: object) -> dict[str, int]:
        client = http.client.HTTPConnection("127.0.0.1", gateway.port)  # type: ignore[attr-defined]
        client.request("GET", f"/ipfs/{tree.file}?format=car")
        blocks = read_car(client.getresponse().read())[1]
        client.close()
        assert [cid for cid, _ in blocks] == list(tree.all(tree.file))
        assert all(tree.blocks[cid] == block for cid, block in blocks)
        return gateway.counters  # type: ignore[attr-defined,no-any-return]

    counters = serve(tree.store, check)
    assert counters["blocks"] == len(list(tree.all(tree.file)))
    assert counters["bytes"] == sum(len(tree.blocks[cid]) for cid in tree.all(tree.file))
