"""What Kubo makes is read here, and what is made here Kubo takes, byte for byte and CID for CID."""

from __future__ import annotations

import asyncio
import os
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipdc_edge.codec.cid import DAG_PB, RAW, canonical, parse_cid, raw_cid
from ipdc_edge.codec.unixfs import CHUNK, DIRECTORY, LINKS, Node, directory_block, parse_node, symlink_block
from ipdc_edge.commands.laboratory import free_ports
from ipdc_edge.drivers.blocks import BlockStore
from ipdc_edge.drivers.directory_car import DirectoryCar, FileChanged
from ipdc_edge.drivers.fetcher import Fetcher
from ipdc_edge.drivers.importer import import_file
from ipdc_edge.drivers.kubo import KuboRefused, NoKubo, import_car
from ipdc_edge.drivers.provider import Provider
from tests.drivers.test_gateway import ask
from tests.ipfs.cars import read_car
from tests.ipfs.kubo import Kubo

pytestmark = pytest.mark.kubo
SIZES = (0, 1, 255, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)
OTHER_WAYS = {
    "version 0": ("--cid-version=0", "--raw-leaves=false"),
    "leaves of dag-pb": ("--raw-leaves=false",),
    "small chunks": ("--chunker=size-4096",),
    "chunks by content": ("--chunker=buzhash",),
    "few links": ("--chunker=size-4096", "--max-file-links=3"),
    "trickle": ("--trickle", "--chunker=size-4096"),
    "trickle of dag-pb": ("--trickle", "--raw-leaves=false", "--chunker=size-1000"),
    "inlined": ("--inline", "--chunker=size-20"),
    "mode and mtime": ("--preserve-mode", "--preserve-mtime", "--raw-leaves=false"),
}


@pytest.fixture()
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(str(tmp_path / "blocks"), 64 << 20)
    yield store
    store.close()


def some(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size} {seed}").randbytes(size)


def read(store: BlockStore, kubo: Kubo, cid: str) -> bytes:
    """A file, from Kubo's gateway."""
    async def fetch() -> bytes:
        fetcher = Fetcher(store, None)
        try:
            return await fetcher.read_file(cid, [Provider("", kubo.gateway)], 1 << 30)
        finally:
            await fetcher.close()

    return asyncio.run(fetch())


def block(kubo: Kubo, cid: str) -> bytes:
    return kubo.run("block", "get", cid)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_has_the_same_cid(kubo: Kubo, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(some(size))
    with open(path, "rb") as source:
        root, length, _ = import_file(source)
    assert (kubo.add(path, "--only-hash"), length) == (root, size)


def test_a_file_of_gigabytes_has_the_same_cid(kubo: Kubo, tmp_path: Path) -> None:
    """Of more leaves than one node links to, so of three levels."""
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate((LINKS + 700) * CHUNK + 1)
        file.seek(CHUNK * 900)
        file.write(b"not all zeros")
    with open(path, "rb") as source:
        root, _, interior = import_file(source)
    assert len(interior) == 3
    assert kubo.add(path, "--only-hash") == root


@pytest.mark.parametrize("way", OTHER_WAYS)
@pytest.mark.parametrize("size", [0, 15, 300_000])
def test_what_we_do_not_make_is_read(kubo: Kubo, store: BlockStore, tmp_path: Path, way: str, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(some(size))
    cid = kubo.add(path, *OTHER_WAYS[way])
    assert read(store, kubo, cid) == some(size)


def test_a_sharded_directory_is_read(kubo: Kubo, tmp_path: Path) -> None:
    """Names of many lengths and bytes, so many that Kubo shards; and the same few in one block."""
    wanted = {b"%d-" % number + (b"\xc3\xbc" if number % 2 else b"x") * (number % 60): number for number in range(6000)}
    for part, kept in (("many", wanted), ("few", dict(list(wanted.items())[:50]))):
        directory = tmp_path / part
        directory.mkdir()
        for name, number in kept.items():
            with open(os.path.join(os.fsencode(directory), name), "wb") as file:
                file.write(b"%d" % number)
        root = kubo.add(directory)
        node = parse_node(root, block(kubo, root))
        assert bool(node.fanout) == (part == "many")
        assert {os.fsencode(name): cid for name, cid in entries(kubo, node)} == {
            name: raw_cid(b"%d" % number) for name, number in kept.items()}


def entries(kubo: Kubo, node: Node) -> Iterator[tuple[str, str]]:
    for link in node.entries():
        yield link.name, link.cid
    for shard in node.shards():
        yield from entries(kubo, parse_node(shard.cid, block(kubo, shard.cid)))


def test_directories_and_symlinks_have_the_same_cids(kubo: Kubo, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "empty").mkdir(parents=True)
    os.symlink(b"../\xff/elsewhere", os.fsencode(top) + b"/link")
    with open(os.fsencode(top) + b"/caf\xe9", "wb") as file:
        file.write(b"1")
    root = kubo.add(top)
    empty, empty_block = directory_block([])
    link, link_block = symlink_block(b"../\xff/elsewhere")
    assert directory_block([("empty", empty, len(empty_block)), ("link", link, len(link_block)),
                            (os.fsdecode(b"caf\xe9"), raw_cid(b"1"), 1)])[0] == root
    node = parse_node(root, block(kubo, root))
    assert node.kind == DIRECTORY and parse_node(link, block(kubo, link)).data == b"../\xff/elsewhere"


def test_a_car_of_ours_is_imported_by_kubo(kubo: Kubo, store: BlockStore, tmp_path: Path) -> None:
    data = some(2 * CHUNK + 99, 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    with open(path, "rb") as source:
        root, _, interior = import_file(source)
        store.add_reference(source.fileno(), root, interior, "user")
    directory, data_of_it = directory_block([("file", root, len(data)), ("again", root, len(data))])
    store.put(directory, data_of_it, "user")
    for query in ("", "&car-dups=n"):
        car = ask(store, f"/ipfs/{directory}?format=car{query}")[2]
        assert directory.encode() in kubo.run("dag", "import", stdin=car)
        assert kubo.run("cat", f"/ipfs/{directory}/again") == data
        kubo.run("pin", "rm", directory)
        kubo.run("repo", "gc", "--quiet")


def test_cars_are_the_same_as_kubos(kubo: Kubo, store: BlockStore, tmp_path: Path) -> None:
    """The blocks and their order, in what Kubo's own gateway answers."""
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "a" / "file").write_bytes(some(70_000))
    (top / "b").write_bytes(b"b")
    for options in (("--chunker=size-1000", "--max-file-links=7"), ("--cid-version=0", "--raw-leaves=false")):
        root = kubo.add(top, *options)
        for target in ("", "/a", "/a/file", "/b"):
            for query in ("", "&dag-scope=block", "&dag-scope=entity", "&dag-scope=entity&entity-bytes=2500:7100",
                          "&dag-scope=entity&entity-bytes=-1:*"):
                asked = f"/ipfs/{root}{target}?format=car&car-dups=y{query}"
                with urllib.request.urlopen(f"http://{kubo.gateway}{asked}", timeout=60) as answer:
                    roots, sections = read_car(answer.read())
                for cid, data in sections:
                    store.put(cid, data, "user")
                status, _, ours = ask(store, asked)
                assert status == 200
                assert read_car(ours)[1] == sections, asked
                assert canonical(root) == read_car(ours)[0][0]
                assert all(parse_cid(cid).codec in (DAG_PB, RAW) for cid, _ in sections)


def files(directory: Path, *texts: bytes) -> list[str]:
    paths = []
    for index, text in enumerate(texts):
        path = directory / f"part-{index:05d}"
        path.write_bytes(text)
        paths.append(str(path))
    return paths


def test_a_result_is_handed_over(kubo: Kubo, tmp_path: Path) -> None:
    texts = some(2 * CHUNK + 99, 2), b"", b"one\t1\n", bytes(3 * CHUNK)
    car = DirectoryCar(files(tmp_path, *texts))
    import_car(kubo.rpc, car.root, car.parts())
    assert car.root == kubo.add(tmp_path, "--only-hash")
    assert [kubo.run("cat", f"/ipfs/{car.root}/part-{index:05d}") for index in range(4)] == list(texts)
    assert car.root.encode() in kubo.run("pin", "ls", "--type=recursive")
    again = DirectoryCar(files(tmp_path, *texts))
    (tmp_path / "part-00002").write_bytes(b"two\t1\n")
    with pytest.raises(FileChanged, match="part-00002"):
        import_car(kubo.rpc, again.root, again.parts())


def test_what_kubo_does_not_take_is_told(kubo: Kubo, tmp_path: Path) -> None:
    car = DirectoryCar(files(tmp_path, b"1"))
    (closed,) = free_ports(1)
    with pytest.raises(NoKubo, match=f"127.0.0.1:{closed}"):
        import_car(("127.0.0.1", closed), car.root, car.parts())
    parts = list(car.parts())
    damaged = [*parts[:2], parts[2][:-1] + b"x"]
    for broken, words in ((damaged, "mismatch|unexpected|hash"), ([b"no car"], "car|EOF|header")):
        with pytest.raises(KuboRefused, match=f"(?i){words}"):
            import_car(kubo.rpc, car.root, broken)
